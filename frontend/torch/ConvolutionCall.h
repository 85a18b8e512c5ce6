// Recorded convolutions, read as sizes and operands.
#pragma once

#include "graph/Event.h"
#include "runtime/kernels/Convolution.h"

#include <ATen/ATen.h>
#include <ATen/core/stack.h>

#include <array>
#include <optional>
#include <vector>

namespace terra::frontend {

/// The arguments of `aten::convolution` or `aten::convolution_backward`.
struct ConvolutionCall {
  at::Tensor images, weight; ///< the input; of a backward, `gradient` is that of the output
  at::Tensor gradient, bias;
  std::vector<int64_t> stride, padding, dilation, outputPadding;
  std::optional<std::vector<int64_t>> biasSizes;
  std::array<bool, 3> mask{};
  int64_t groups = 1;
  bool transposed = false;

  bool isBackward() const { return gradient.defined(); }
};

/// None for other operators.
std::optional<ConvolutionCall> convolutionCallOf(const graph::Event &event, const torch::jit::Stack &stack);

/// The convolution whose output (transposed: whose input's gradient) the call computes, of dense two-dimensional f32
/// images.
std::optional<runtime::Convolution> convolutionOf(const ConvolutionCall &call);

/// One of the results, as a part of the convolution.
struct ConvolutionPart {
  runtime::DirectConvolution::Part part;
  /// Output: `images` are the input. InputGradient: that of the output. WeightGradient: `gradient` is that of the output, `images` the
  /// input.
  at::Tensor images, weight, gradient, bias;
};

ConvolutionPart forwardPart(const ConvolutionCall &call);
ConvolutionPart inputPart(const ConvolutionCall &call); ///< of a backward
ConvolutionPart weightPart(const ConvolutionCall &call); ///< of a backward

} // namespace terra::frontend
