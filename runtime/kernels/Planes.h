// Images laid out so that a convolution is a correlation of long vectors.
#pragma once

#include <cstdint>
#include <vector>

namespace terra::runtime {

/// One axis of padded images: `before` zeros in front of `size` elements, up to `after` behind them (negative: the last ones
/// are not read). With `phases` p, element i of the padded axis is element i / p of phase i % p.
struct Axis {
  int64_t size, before, after, phases;

  /// Elements of one phase. What lies behind one row is in front of the next: both are zeros.
  int64_t length() const;
};

/// f32 images of some channels: for each channel and pair of phases one plane, the images one after the other in it,
/// each padded with zeros. Moving a whole plane by a constant moves every row of every image alike, so that one tap of a
/// convolution is one vector operation, whatever the sizes; at the ends of rows it computes elements that nobody reads.
class Planes {
public:
  /// Elements that may be read behind a plane's last one.
  static constexpr int64_t kOverread = 128;

  Planes(Axis y, Axis x, int64_t channels, int64_t images);

  int64_t pitch() const { return pitch_; }
  int64_t rows() const { return rows_; } ///< of one image
  int64_t channels() const { return channels_; }
  int64_t images() const { return images_; }
  int64_t floats() const { return channels_ * phases() * plane_ + kOverread; }
  /// Where the element at (y, x) of the padded first image is, in its channel's planes.
  int64_t offset(int64_t y, int64_t x) const;
  int64_t channelStride() const { return phases() * plane_; }

  /// Zeros for channels [begin, end): once, the padding stays.
  void clear(float *planes, int64_t begin, int64_t end) const;
  /// Copies channels [begin, end) of the first `images` images. They lie `imageStride` elements apart, each channel a dense
  /// y.size × x.size matrix. Phases that no tap uses may be left out by `wanted` (y.phases × x.phases).
  void fill(const float *source, int64_t imageStride, int64_t images, float *planes, int64_t begin, int64_t end,
            const std::vector<bool> &wanted) const;

private:
  int64_t phases() const { return y_.phases * x_.phases; }
  void fillPlane(const float *source, int64_t imageStride, int64_t images, float *plane, int64_t a, int64_t b) const;

  Axis y_, x_;
  int64_t channels_, images_, pitch_, rows_, plane_;
};

} // namespace terra::runtime
