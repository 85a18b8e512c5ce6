// The inner loops of convolutions: compiled once for each width of vector registers.
#pragma once

#include <cstdint>

namespace terra::runtime {

/// rows × count outputs: out[r][j] = bias[r] + Σ weights[t][r] · x[offsets[t] + j].
struct Correlation {
  const float *x, *weights, *bias; ///< weights are taps × rows; bias may be null
  const int32_t *offsets;
  int64_t taps, rows, count;
  float *out; ///< may be written up to the next whole vector
  int64_t outStride;
};

/// rows × columns sums: out[r][c] (+)= Σ over j < count of a[r · aStride + j] · b[offsets[c] + j]. Whole vectors are read:
/// `a` must be zero, and `b` finite, up to the next one.
struct Products {
  const float *a, *b;
  int64_t aStride;
  const int32_t *offsets;
  int64_t rows, columns, count;
  float *out;
  int64_t outStride;
  bool add;
};

struct ConvolutionLoops {
  int64_t lanes; ///< f32 elements of a vector
  int64_t mostRows; ///< of a correlation
  int64_t mostA, mostB; ///< rows and columns of products
  void (*correlate)(const Correlation &);
  void (*multiply)(const Products &);
};

/// What this processor can run; null where it has none of the vectors that the loops were written for.
const ConvolutionLoops *convolutionLoops();

} // namespace terra::runtime
