#include "runtime/kernels/Convolution.h"

#include "runtime/kernels/ConvolutionLoops.h"
#include "runtime/kernels/Planes.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

namespace terra::runtime {

namespace {

using Part = DirectConvolution::Part;
using Pair = Convolution::Pair;

constexpr int64_t kCacheFloats = int64_t(96) << 10; ///< of images at a time, so that they stay in the second cache
constexpr int64_t kMostScratchFloats = int64_t(8) << 20;
constexpr int64_t kBlock = 512;             ///< outputs of one channel that are computed together
constexpr int64_t kGrainWork = 1 << 17;     ///< multiplications worth another thread's help

int64_t divideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Some rows and columns of the result, by the taps that reach them.
struct Target {
  struct Tap {
    int64_t index;  ///< in the kernel
    int64_t offset; ///< in the planes, from the first element of the result
  };
  Pair size, first, step; ///< how many, where the first one is in the result and how far apart they are
  std::vector<Tap> taps;
};

/// How one axis of the result is made.
struct AxisTarget {
  int64_t size, first, step, base; ///< base: in the padded source
  std::vector<std::pair<int64_t, int64_t>> taps; ///< index in the kernel, distance in the padded source
};

/// Output: one target for all; the source is split into phases.
Axis outputAxis(const Convolution &c, size_t i) {
  int64_t last = (c.out[i] - 1) * c.stride[i] + (c.kernel[i] - 1) * c.dilation[i] - c.padding[i];
  return {c.in[i], c.padding[i], last - (c.in[i] - 1), c.stride[i]};
}

std::vector<AxisTarget> outputTargets(const Convolution &c, size_t i) {
  AxisTarget all{c.out[i], 0, 1, 0, {}};
  for (int64_t tap = 0; tap < c.kernel[i]; ++tap)
    all.taps.emplace_back(tap, tap * c.dilation[i]);
  return {all};
}

/// Gradient of the input: element q · stride + phase of the padded input takes part in outputs q - t, where
/// t = (tap · dilation - phase) / stride is whole.
int64_t furthest(const Convolution &c, size_t i) { return (c.kernel[i] - 1) * c.dilation[i] / c.stride[i]; }

std::vector<AxisTarget> inputTargets(const Convolution &c, size_t i) {
  std::vector<AxisTarget> targets;
  int64_t stride = c.stride[i], padding = c.padding[i];
  for (int64_t phase = 0; phase < stride; ++phase) {
    int64_t first = phase >= padding ? 0 : divideUp(padding - phase, stride);
    int64_t y = first * stride + phase - padding;
    if (y >= c.in[i])
      continue;
    AxisTarget target{divideUp(c.in[i] - y, stride), y, stride, first + furthest(c, i), {}};
    for (int64_t tap = 0; tap < c.kernel[i]; ++tap)
      if (int64_t reach = tap * c.dilation[i]; reach % stride == phase)
        target.taps.emplace_back(tap, -(reach / stride));
    targets.push_back(std::move(target));
  }
  return targets;
}

Axis inputAxis(const Convolution &c, size_t i) {
  int64_t after = -c.out[i], before = furthest(c, i);
  for (const AxisTarget &target : inputTargets(c, i))
    after = std::max(after, target.base - before + target.size - c.out[i]);
  return {c.out[i], before, after, 1};
}

Planes planesOf(Part part, const Convolution &c, int64_t images) {
  if (part == Part::InputGradient)
    return {inputAxis(c, 0), inputAxis(c, 1), c.outChannels, images};
  return {outputAxis(c, 0), outputAxis(c, 1), c.inChannels, images};
}

std::vector<Target> targetsOf(Part part, const Convolution &c, const Planes &planes) {
  auto along = [&](size_t i) { return part == Part::InputGradient ? inputTargets(c, i) : outputTargets(c, i); };
  std::vector<Target> targets;
  for (const AxisTarget &y : along(0))
    for (const AxisTarget &x : along(1)) {
      Target target{{y.size, x.size}, {y.first, x.first}, {y.step, x.step}, {}};
      for (auto [r, down] : y.taps)
        for (auto [s, right] : x.taps)
          target.taps.push_back({r * c.kernel[1] + s, planes.offset(y.base + down, x.base + right)});
      targets.push_back(std::move(target));
    }
  return targets;
}

/// Gradients of the output, laid out as the outputs that the input's planes would give.
int64_t gradientStride(const Planes &planes) {
  return planes.images() * planes.rows() * planes.pitch() + Planes::kOverread;
}

int64_t scratchOf(Part part, const Convolution &c, int64_t images) {
  Planes planes = planesOf(part, c, images);
  int64_t taps = c.kernel[0] * c.kernel[1];
  if (part == Part::WeightGradient) // and an offset for each of a group's columns
    return planes.floats() + c.outChannels * gradientStride(planes) + c.inChannels * taps;
  int64_t reduced = part == Part::Output ? c.inChannels : c.outChannels;
  return planes.floats() + (c.inChannels * c.outChannels + reduced) * taps;
}

int64_t imagesAtATime(Part part, const Convolution &c) {
  int64_t one = std::max<int64_t>(1, scratchOf(part, c, 2) - scratchOf(part, c, 1));
  return std::clamp<int64_t>(kCacheFloats / one, 1, c.batch);
}

bool isFinite(const float *values, int64_t count) {
  uint32_t found = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    found |= uint32_t((bits & 0x7f800000u) == 0x7f800000u);
  }
  return !found;
}

/// Which phases of the planes any tap of the kernel reads.
std::vector<bool> phasesRead(Part part, const Convolution &c) {
  if (part == Part::InputGradient)
    return {true};
  std::vector<bool> wanted(size_t(c.stride[0] * c.stride[1]));
  for (int64_t r = 0; r < c.kernel[0]; ++r)
    for (int64_t s = 0; s < c.kernel[1]; ++s)
      wanted[size_t(r * c.dilation[0] % c.stride[0] * c.stride[1] + s * c.dilation[1] % c.stride[1])] = true;
  return wanted;
}

/// Rows that a block of at most `most` has when all blocks are about equal.
int64_t evenRows(int64_t rows, int64_t most) { return divideUp(rows, divideUp(rows, most)); }

/// Output or InputGradient.
class Forward {
public:
  Forward(Part part, const Convolution &c, int64_t images, float *scratch, const ParallelFor &parallelFor)
      : part_(part), c_(c), loops_(*convolutionLoops()), planes_(planesOf(part, c, images)),
        targets_(targetsOf(part, c, planes_)), wanted_(phasesRead(part, c)), data_(scratch),
        weights_(data_ + planes_.floats()), parallelFor_(parallelFor) {
    reduced_ = planes_.channels();
    channels_ = part == Part::Output ? c.outChannels : c.inChannels;
    rows_ = evenRows(channels_, loops_.mostRows);
    blocks_ = divideUp(channels_, rows_);
    offsets_ = reinterpret_cast<int32_t *>(weights_ + c.inChannels * c.outChannels * c.kernel[0] * c.kernel[1]);
  }

  void run(const float *source, const float *weight, const float *bias, float *result) {
    Pair size = part_ == Part::Output ? c_.in : c_.out, made = part_ == Part::Output ? c_.out : c_.in;
    sourceStride_ = c_.groups * reduced_ * size[0] * size[1];
    resultStride_ = c_.groups * channels_ * made[0] * made[1];
    for (int64_t g = 0; g < c_.groups; ++g) {
      pack(weight + g * channels_ * reduced_ * c_.kernel[0] * c_.kernel[1]);
      for (int64_t n = 0; n < c_.batch; n += planes_.images()) {
        int64_t images = std::min(planes_.images(), c_.batch - n);
        fill(source + n * sourceStride_ + g * reduced_ * size[0] * size[1], images, g == 0 && n == 0);
        compute(images, bias ? bias + g * channels_ : nullptr,
                result + n * resultStride_ + g * channels_ * made[0] * made[1]);
      }
    }
  }

private:
  /// Weights in the order in which the loops read them: target, block of channels, tap, channel; and where each tap is.
  void pack(const float *weight) {
    int64_t taps = c_.kernel[0] * c_.kernel[1];
    int64_t nextChannel = part_ == Part::Output ? reduced_ * taps : taps,
            next = part_ == Part::Output ? taps : channels_ * taps;
    float *to = weights_;
    int32_t *offset = offsets_;
    for (const Target &target : targets_) {
      for (int64_t block = 0; block < blocks_; ++block)
        for (int64_t c = 0; c < reduced_; ++c)
          for (const Target::Tap &tap : target.taps)
            for (int64_t row = block * rows_; row < std::min(channels_, (block + 1) * rows_); ++row)
              *to++ = weight[row * nextChannel + c * next + tap.index];
      for (int64_t c = 0; c < reduced_; ++c)
        for (const Target::Tap &tap : target.taps)
          *offset++ = int32_t(c * planes_.channelStride() + tap.offset);
    }
  }

  void fill(const float *source, int64_t images, bool first) {
    parallelFor_(reduced_, std::max<int64_t>(1, kGrainWork / 8 / planes_.channelStride()),
                 [&](int64_t begin, int64_t end) {
                   if (first)
                     planes_.clear(data_, begin, end);
                   planes_.fill(source, sourceStride_, images, data_, begin, end, wanted_);
                 });
  }

  void compute(int64_t images, const float *bias, float *result) {
    const float *weights = weights_;
    const int32_t *offsets = offsets_;
    for (const Target &target : targets_) {
      int64_t taps = int64_t(target.taps.size()) * reduced_;
      int64_t count = ((images - 1) * planes_.rows() + target.size[0] - 1) * planes_.pitch() + target.size[1];
      int64_t parts = divideUp(count, kBlock);
      parallelFor_(blocks_ * parts, std::max<int64_t>(1, kGrainWork / (1 + taps * rows_ * kBlock)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t item = begin; item < end; ++item)
                       computeBlock(target, {data_, weights, bias, offsets, taps, 0, count, nullptr, 0}, item / parts,
                                    item % parts * kBlock, result);
                   });
      weights += channels_ * taps;
      offsets += taps;
    }
  }

  /// `correlation` is filled in but for its block.
  void computeBlock(const Target &target, Correlation correlation, int64_t block, int64_t begin, float *result) const {
    alignas(64) float tile[6 * (kBlock + 64)];
    int64_t row = block * rows_;
    correlation.x += begin;
    correlation.weights += row * correlation.taps;
    correlation.bias = correlation.bias ? correlation.bias + row : nullptr;
    correlation.rows = std::min(rows_, channels_ - row);
    correlation.count = std::min(kBlock, correlation.count - begin);
    correlation.out = tile;
    correlation.outStride = kBlock + 64;
    loops_.correlate(correlation);
    Pair size = part_ == Part::Output ? c_.out : c_.in;
    for (int64_t r = 0; r < correlation.rows; ++r)
      scatter(target, tile + r * correlation.outStride, begin, correlation.count,
              result + (row + r) * size[0] * size[1], size[1]);
  }

  /// Outputs [begin, begin + count) of the planes to their places in the result, whose rows have `width` elements.
  void scatter(const Target &target, const float *tile, int64_t begin, int64_t count, float *result,
               int64_t width) const {
    int64_t pitch = planes_.pitch(), end = begin + count;
    int64_t image = begin / pitch / planes_.rows(), y = begin / pitch % planes_.rows();
    for (int64_t start = begin / pitch * pitch; start < end; start += pitch) {
      if (y < target.size[0]) {
        int64_t from = std::max(begin, start), to = std::min(end, start + target.size[1]);
        float *out = result + image * resultStride_ + (target.first[0] + y * target.step[0]) * width + target.first[1];
        if (target.step[1] == 1)
          for (int64_t j = from; j < to; ++j)
            out[j - start] = tile[j - begin];
        else
          for (int64_t j = from; j < to; ++j)
            out[(j - start) * target.step[1]] = tile[j - begin];
      }
      if (++y == planes_.rows()) {
        y = 0;
        ++image;
      }
    }
  }

  Part part_;
  const Convolution &c_;
  const ConvolutionLoops &loops_;
  Planes planes_;
  std::vector<Target> targets_;
  std::vector<bool> wanted_;
  float *data_, *weights_;
  int32_t *offsets_;
  const ParallelFor &parallelFor_;
  int64_t reduced_, channels_, rows_, blocks_, sourceStride_ = 0, resultStride_ = 0;
};

class Weight {
public:
  Weight(const Convolution &c, int64_t images, float *scratch, const ParallelFor &parallelFor)
      : c_(c), loops_(*convolutionLoops()), planes_(planesOf(Part::WeightGradient, c, images)),
        wanted_(phasesRead(Part::WeightGradient, c)), data_(scratch), gradients_(data_ + planes_.floats()),
        offsets_(reinterpret_cast<int32_t *>(gradients_ + c.outChannels * gradientStride(planes_))),
        parallelFor_(parallelFor) {
    int32_t *offset = offsets_;
    Target all = targetsOf(Part::WeightGradient, c, planes_).front();
    for (int64_t channel = 0; channel < c.inChannels; ++channel)
      for (const Target::Tap &tap : all.taps)
        *offset++ = int32_t(channel * planes_.channelStride() + tap.offset);
    columns_ = offset - offsets_;
  }

  void run(const float *gradient, const float *input, float *result) {
    int64_t inSize = c_.in[0] * c_.in[1], outSize = c_.out[0] * c_.out[1];
    for (int64_t g = 0; g < c_.groups; ++g)
      for (int64_t n = 0; n < c_.batch; n += planes_.images()) {
        int64_t images = std::min(planes_.images(), c_.batch - n);
        bool clear = (g == 0 && n == 0) || images < planes_.images(); // what the last images left
        fillInput(input + (n * c_.groups + g) * c_.inChannels * inSize, images, clear);
        fillGradient(gradient + (n * c_.groups + g) * c_.outChannels * outSize, images, clear || n == 0);
        compute(images, result + g * c_.outChannels * columns_, n > 0);
      }
  }

private:
  void fillInput(const float *input, int64_t images, bool clear) {
    parallelFor_(
        c_.inChannels, std::max<int64_t>(1, kGrainWork / 8 / planes_.channelStride()), [&](int64_t begin, int64_t end) {
          if (clear)
            planes_.clear(data_, begin, end);
          planes_.fill(input, c_.groups * c_.inChannels * c_.in[0] * c_.in[1], images, data_, begin, end, wanted_);
        });
  }

  void fillGradient(const float *gradient, int64_t images, bool clear) {
    int64_t stride = gradientStride(planes_), imageStride = c_.groups * c_.outChannels * c_.out[0] * c_.out[1];
    parallelFor_(c_.outChannels, std::max<int64_t>(1, kGrainWork / 8 / stride), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        float *plane = gradients_ + k * stride;
        if (clear)
          std::memset(plane, 0, size_t(stride) * sizeof(float));
        for (int64_t n = 0; n < images; ++n)
          for (int64_t y = 0; y < c_.out[0]; ++y)
            std::copy_n(gradient + n * imageStride + (k * c_.out[0] + y) * c_.out[1], c_.out[1],
                        plane + (n * planes_.rows() + y) * planes_.pitch());
      }
    });
  }

  void compute(int64_t images, float *result, bool add) const {
    int64_t stride = gradientStride(planes_);
    int64_t count = ((images - 1) * planes_.rows() + c_.out[0] - 1) * planes_.pitch() + c_.out[1];
    int64_t rows = evenRows(c_.outChannels, loops_.mostA), columns = evenRows(columns_, loops_.mostB);
    int64_t across = divideUp(columns_, columns), blocks = divideUp(c_.outChannels, rows) * across;
    parallelFor_(blocks, std::max<int64_t>(1, kGrainWork / (1 + rows * columns * count)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t block = begin; block < end; ++block) {
                     int64_t row = block / across * rows, column = block % across * columns;
                     loops_.multiply({gradients_ + row * stride, data_, stride, offsets_ + column,
                                      std::min(rows, c_.outChannels - row), std::min(columns, columns_ - column), count,
                                      result + row * columns_ + column, columns_, add});
                   }
                 });
  }

  const Convolution &c_;
  const ConvolutionLoops &loops_;
  Planes planes_;
  std::vector<bool> wanted_;
  float *data_, *gradients_;
  int32_t *offsets_;
  const ParallelFor &parallelFor_;
  int64_t columns_ = 0;
};

} // namespace

bool DirectConvolution::supports(Part part, const Convolution &c) {
  if (!convolutionLoops() || c.batch < 1 || c.groups < 1 || c.inChannels < 1 || c.outChannels < 1)
    return false;
  for (size_t i : {0, 1}) {
    if (c.in[i] < 1 || c.out[i] < 1)
      return false;
    // More padding than the kernel reaches: outputs that lie in the padding alone.
    if (part != Part::InputGradient && outputAxis(c, i).length() < c.out[i])
      return false;
  }
  return scratchOf(part, c, 1) <= kMostScratchFloats;
}

DirectConvolution::DirectConvolution(Part part, const Convolution &sizes)
    : part_(part), sizes_(sizes), images_(imagesAtATime(part, sizes)),
      scratchFloats_(size_t(scratchOf(part, sizes, images_))) {}

bool DirectConvolution::run(const float *images, const float *weight, const float *bias, float *result, float *scratch,
                            const ParallelFor &parallelFor) const {
  int64_t weights = sizes_.groups * sizes_.inChannels * sizes_.outChannels * sizes_.kernel[0] * sizes_.kernel[1];
  if (!isFinite(weight, weights)) // a zero of the padding times infinity
    return false;
  Forward(part_, sizes_, images_, scratch, parallelFor).run(images, weight, bias, result);
  return true;
}

bool DirectConvolution::runWeight(const float *gradient, const float *input, float *result, float *scratch,
                                  const ParallelFor &parallelFor) const {
  Weight(sizes_, images_, scratch, parallelFor).run(gradient, input, result);
  return isFinite(result, sizes_.groups * sizes_.inChannels * sizes_.outChannels * sizes_.kernel[0] * sizes_.kernel[1]);
}

} // namespace terra::runtime
