#include "runtime/kernels/Planes.h"

#include <algorithm>
#include <cstring>

namespace terra::runtime {

namespace {
int64_t divideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }
} // namespace

int64_t Axis::length() const { return divideUp(size + std::max(before, after), phases); }

Planes::Planes(Axis y, Axis x, int64_t channels, int64_t images)
    : y_(y), x_(x), channels_(channels), images_(images), pitch_(x.length()), rows_(y.length()) {
  int64_t below =
      divideUp(std::max(y.before, std::max<int64_t>(y.after, 0)), y.phases) + 1; // the last image has no next
  plane_ = (images_ * rows_ + below) * pitch_ + kOverread;
}

int64_t Planes::offset(int64_t y, int64_t x) const {
  int64_t phase = (y % y_.phases) * x_.phases + x % x_.phases;
  return phase * plane_ + y / y_.phases * pitch_ + x / x_.phases;
}

void Planes::clear(float *planes, int64_t begin, int64_t end) const {
  int64_t stride = channelStride();
  std::memset(planes + begin * stride, 0,
              size_t((end - begin) * stride + (end == channels_ ? kOverread : 0)) * sizeof(float));
}

void Planes::fill(const float *source, int64_t imageStride, int64_t images, float *planes, int64_t begin, int64_t end,
                  const std::vector<bool> &wanted) const {
  for (int64_t c = begin; c < end; ++c)
    for (int64_t phase = 0; phase < phases(); ++phase)
      if (wanted[size_t(phase)])
        fillPlane(source + c * y_.size * x_.size, imageStride, images, planes + c * channelStride() + phase * plane_,
                  phase / x_.phases, phase % x_.phases);
}

/// The rows and columns of phase (a, b).
void Planes::fillPlane(const float *source, int64_t imageStride, int64_t images, float *plane, int64_t a,
                       int64_t b) const {
  auto first = [](const Axis &axis, int64_t phase) { // in the phase, of the first real element
    return phase >= axis.before ? 0 : divideUp(axis.before - phase, axis.phases);
  };
  int64_t firstRow = first(y_, a), firstColumn = first(x_, b);
  int64_t y0 = firstRow * y_.phases + a - y_.before, x0 = firstColumn * x_.phases + b - x_.before;
  int64_t columns = x0 < x_.size ? divideUp(x_.size - x0, x_.phases) : 0;
  for (int64_t n = 0; n < images; ++n) {
    float *to = plane + (n * rows_ + firstRow) * pitch_ + firstColumn;
    for (int64_t y = y0; y < y_.size; y += y_.phases, to += pitch_) {
      const float *from = source + n * imageStride + y * x_.size + x0;
      if (x_.phases == 1)
        std::copy_n(from, columns, to);
      else
        for (int64_t i = 0; i < columns; ++i)
          to[i] = from[i * x_.phases];
    }
  }
}

} // namespace terra::runtime
