// Images as the columns of a matrix, so that a convolution is a matrix product.
#pragma once

#include "runtime/kernels/Convolution.h"

namespace terra::runtime {

/// The columns of a convolution with one group: a matrix [inChannels · kernel, batch · out] that has, in each column, all inputs
/// of one output, zeros for the padding. A weight [outChannels, inChannels · kernel] times it is the output, as a matrix
/// [outChannels, batch · out].
class Columns {
public:
  explicit Columns(const Convolution &sizes) : c_(sizes) {}

  int64_t rows() const { return c_.inChannels * c_.kernel[0] * c_.kernel[1]; }
  int64_t columns() const { return c_.batch * places(); }

  /// Columns of an input.
  void gather(const float *input, float *columns, const ParallelFor &parallelFor) const;
  /// The gradient of the input: each of its elements is the sum of the columns' elements that were read from it.
  void scatter(const float *columns, float *input, const ParallelFor &parallelFor) const;

  /// Images [batch, outChannels, out] to a matrix [outChannels, batch · out], and back. `bias` has a number for each channel, or
  /// is null.
  void fromImages(const float *images, float *matrix, const ParallelFor &parallelFor) const;
  void toImages(const float *matrix, const float *bias, float *images, const ParallelFor &parallelFor) const;

private:
  int64_t places() const { return c_.out[0] * c_.out[1]; }
  void gatherRow(const float *plane, float *row, int64_t r, int64_t s) const;
  void scatterRow(const float *row, float *plane, int64_t r, int64_t s) const;

  const Convolution &c_;
};

} // namespace terra::runtime
