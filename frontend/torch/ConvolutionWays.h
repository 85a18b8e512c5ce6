// Ways to compute one part of a convolution without PyTorch's operator.
#pragma once

#include "frontend/torch/ConvolutionCall.h"

namespace terra::frontend {

enum class ConvolutionWay : uint8_t {
  Direct, ///< Terra's loops
  Images, ///< a matrix product for each image, which is a matrix as it lies there: kernels of one element
  Columns ///< one matrix product for the whole batch, of images copied to columns; without copies where an image is one column
};

/// False where this cannot compute the part, or could not be faster.
bool supports(ConvolutionWay way, runtime::DirectConvolution::Part part, const runtime::Convolution &sizes);

/// The part's result; undefined: refused, because of numbers that are not finite (a product with padding would not be zero).
at::Tensor compute(ConvolutionWay way, const ConvolutionPart &part, const runtime::Convolution &sizes);

} // namespace terra::frontend
