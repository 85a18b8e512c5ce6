// Two-dimensional convolutions and their gradients, for sizes at which a library's preparations cost more than its work.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace terra::runtime {

/// A convolution of f32 images: input [batch, groups · inChannels, in], weight [groups · outChannels, inChannels, kernel],
/// output [batch, groups · outChannels, out], all dense, rows of the last axis contiguous. Sizes are (height, width).
struct Convolution {
  using Pair = std::array<int64_t, 2>;

  int64_t batch, groups, inChannels, outChannels; ///< channels of one group
  Pair in, out, kernel, stride, padding, dilation;

  int64_t multiplications() const {
    return batch * groups * inChannels * outChannels * out[0] * out[1] * kernel[0] * kernel[1];
  }
};

/// Calls the body for parts of [0, extent), perhaps at the same time.
using ParallelFor =
    std::function<void(int64_t extent, int64_t grain, const std::function<void(int64_t, int64_t)> &body)>;

/// Direct convolution: every tap of the kernel is a multiplication of whole (padded) images by one weight, and a tile of
/// the output stays in registers over all taps and channels (after Georganas et al., "Anatomy of High-Performance Deep Learning
/// Convolutions on SIMD Architectures", 2018, without its blocked layouts: images come and go as PyTorch keeps them).
/// Sums are of f32 products in f32.
class DirectConvolution {
public:
  enum class Part : uint8_t {
    Output, ///< of input and weight
    InputGradient, ///< of the output's gradient and weight: also the output of a transposed convolution
    WeightGradient ///< of the output's gradient and input
  };

  /// False where this processor, or what the sizes need in scratch memory, rules it out.
  static bool supports(Part part, const Convolution &sizes);

  DirectConvolution(Part part, const Convolution &sizes);

  size_t scratchFloats() const { return scratchFloats_; }

  /// Output or InputGradient. `bias` has one number for each channel of the result, or is null. False: a weight is not finite,
  /// so that multiplying padding by it would not give zero.
  bool run(const float *images, const float *weight, const float *bias, float *result, float *scratch,
           const ParallelFor &parallelFor) const;
  /// WeightGradient. False: the result is not finite, perhaps because of a product with padding.
  bool runWeight(const float *gradient, const float *input, float *result, float *scratch,
                 const ParallelFor &parallelFor) const;

private:
  Part part_;
  Convolution sizes_;
  int64_t images_; ///< at a time
  size_t scratchFloats_;
};

} // namespace terra::runtime
