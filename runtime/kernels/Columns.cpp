#include "runtime/kernels/Columns.h"

#include <algorithm>

namespace terra::runtime {

namespace {

constexpr int64_t kGrain = 1 << 15; ///< elements worth another thread's help

int64_t grainOf(int64_t elements) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements)); }

/// The outputs along one axis whose input, at `shift` from the output's first, is not padding.
struct Span {
  int64_t begin, end;
};

Span inside(int64_t shift, int64_t stride, int64_t in, int64_t out) {
  int64_t begin = shift >= 0 ? 0 : std::min(out, (-shift + stride - 1) / stride);
  int64_t end = in <= shift ? 0 : std::min(out, (in - shift + stride - 1) / stride);
  return {begin, std::max(begin, end)};
}

} // namespace

void Columns::gatherRow(const float *plane, float *row, int64_t r, int64_t s) const {
  int64_t down = r * c_.dilation[0] - c_.padding[0], right = s * c_.dilation[1] - c_.padding[1];
  Span y = inside(down, c_.stride[0], c_.in[0], c_.out[0]), x = inside(right, c_.stride[1], c_.in[1], c_.out[1]);
  std::fill(row, row + y.begin * c_.out[1], 0.0f);
  for (int64_t i = y.begin; i < y.end; ++i) {
    const float *from = plane + (i * c_.stride[0] + down) * c_.in[1] + right;
    float *to = row + i * c_.out[1];
    std::fill(to, to + x.begin, 0.0f);
    if (c_.stride[1] == 1)
      std::copy(from + x.begin, from + x.end, to + x.begin);
    else
      for (int64_t j = x.begin; j < x.end; ++j)
        to[j] = from[j * c_.stride[1]];
    std::fill(to + x.end, to + c_.out[1], 0.0f);
  }
  std::fill(row + y.end * c_.out[1], row + places(), 0.0f);
}

void Columns::scatterRow(const float *row, float *plane, int64_t r, int64_t s) const {
  int64_t down = r * c_.dilation[0] - c_.padding[0], right = s * c_.dilation[1] - c_.padding[1];
  Span y = inside(down, c_.stride[0], c_.in[0], c_.out[0]), x = inside(right, c_.stride[1], c_.in[1], c_.out[1]);
  for (int64_t i = y.begin; i < y.end; ++i) {
    float *to = plane + (i * c_.stride[0] + down) * c_.in[1] + right;
    const float *from = row + i * c_.out[1];
    if (c_.stride[1] == 1)
      for (int64_t j = x.begin; j < x.end; ++j)
        to[j] += from[j];
    else
      for (int64_t j = x.begin; j < x.end; ++j)
        to[j * c_.stride[1]] += from[j];
  }
}

void Columns::gather(const float *input, float *columns, const ParallelFor &parallelFor) const {
  int64_t taps = c_.kernel[0] * c_.kernel[1], size = c_.in[0] * c_.in[1], width = this->columns();
  parallelFor(c_.inChannels, grainOf(taps * width), [&](int64_t begin, int64_t end) {
    for (int64_t channel = begin; channel < end; ++channel)
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t n = 0; n < c_.batch; ++n)
          gatherRow(input + (n * c_.inChannels + channel) * size,
                    columns + (channel * taps + tap) * width + n * places(), tap / c_.kernel[1], tap % c_.kernel[1]);
  });
}

void Columns::scatter(const float *columns, float *input, const ParallelFor &parallelFor) const {
  int64_t taps = c_.kernel[0] * c_.kernel[1], size = c_.in[0] * c_.in[1], width = this->columns();
  parallelFor(c_.inChannels, grainOf(taps * width), [&](int64_t begin, int64_t end) {
    for (int64_t channel = begin; channel < end; ++channel)
      for (int64_t n = 0; n < c_.batch; ++n) {
        float *plane = input + (n * c_.inChannels + channel) * size;
        std::fill(plane, plane + size, 0.0f);
        for (int64_t tap = 0; tap < taps; ++tap)
          scatterRow(columns + (channel * taps + tap) * width + n * places(), plane, tap / c_.kernel[1],
                     tap % c_.kernel[1]);
      }
  });
}

void Columns::fromImages(const float *images, float *matrix, const ParallelFor &parallelFor) const {
  parallelFor(c_.outChannels, grainOf(columns()), [&](int64_t begin, int64_t end) {
    for (int64_t channel = begin; channel < end; ++channel)
      for (int64_t n = 0; n < c_.batch; ++n) {
        const float *image = images + (n * c_.outChannels + channel) * places();
        std::copy(image, image + places(), matrix + channel * columns() + n * places());
      }
  });
}

void Columns::toImages(const float *matrix, const float *bias, float *images, const ParallelFor &parallelFor) const {
  parallelFor(c_.outChannels, grainOf(columns()), [&](int64_t begin, int64_t end) {
    for (int64_t channel = begin; channel < end; ++channel)
      for (int64_t n = 0; n < c_.batch; ++n) {
        const float *from = matrix + channel * columns() + n * places();
        float *image = images + (n * c_.outChannels + channel) * places();
        if (bias)
          std::transform(from, from + places(), image, [add = bias[channel]](float x) { return x + add; });
        else
          std::copy(from, from + places(), image);
      }
  });
}

} // namespace terra::runtime
