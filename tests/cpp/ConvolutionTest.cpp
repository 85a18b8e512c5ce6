#include "runtime/kernels/Convolution.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace terra::runtime {
namespace {

using Part = DirectConvolution::Part;
using Floats = std::vector<float>;

int64_t outputSize(int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  return (in + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

Floats randomFloats(int64_t count, std::mt19937 &random) {
  Floats values(size_t(count), 0);
  std::normal_distribution<float> normal;
  for (float &value : values)
    value = normal(random);
  return values;
}

struct Operands {
  Floats input, weight, gradient; ///< of the output

  Operands(const Convolution &c, uint32_t seed) {
    std::mt19937 random(seed);
    input = randomFloats(c.batch * c.groups * c.inChannels * c.in[0] * c.in[1], random);
    weight = randomFloats(c.groups * c.outChannels * c.inChannels * c.kernel[0] * c.kernel[1], random);
    gradient = randomFloats(c.batch * c.groups * c.outChannels * c.out[0] * c.out[1], random);
  }
};

/// Every product of the definition, in f64: `use(output element, input element, weight element)`.
template <class Use> void eachProduct(const Convolution &c, Use use) {
  for (int64_t n = 0; n < c.batch; ++n)
    for (int64_t g = 0; g < c.groups; ++g)
      for (int64_t k = 0; k < c.outChannels; ++k)
        for (int64_t ch = 0; ch < c.inChannels; ++ch)
          for (int64_t oy = 0; oy < c.out[0]; ++oy)
            for (int64_t ox = 0; ox < c.out[1]; ++ox)
              for (int64_t r = 0; r < c.kernel[0]; ++r)
                for (int64_t s = 0; s < c.kernel[1]; ++s) {
                  int64_t y = oy * c.stride[0] + r * c.dilation[0] - c.padding[0];
                  int64_t x = ox * c.stride[1] + s * c.dilation[1] - c.padding[1];
                  if (y < 0 || y >= c.in[0] || x < 0 || x >= c.in[1])
                    continue;
                  use((((n * c.groups + g) * c.outChannels + k) * c.out[0] + oy) * c.out[1] + ox,
                      (((n * c.groups + g) * c.inChannels + ch) * c.in[0] + y) * c.in[1] + x,
                      (((g * c.outChannels + k) * c.inChannels + ch) * c.kernel[0] + r) * c.kernel[1] + s);
                }
}

std::vector<double> expectedOf(Part part, const Convolution &c, const Operands &o, const Floats &bias) {
  size_t size = part == Part::Output          ? o.gradient.size()
                : part == Part::InputGradient ? o.input.size()
                                              : o.weight.size();
  std::vector<double> expected(size);
  if (!bias.empty()) {
    size_t image = size / size_t(c.batch), channel = image / bias.size();
    for (size_t i = 0; i < size; ++i)
      expected[i] = bias[i % image / channel];
  }
  eachProduct(c, [&](int64_t out, int64_t in, int64_t weight) {
    if (part == Part::Output)
      expected[size_t(out)] += double(o.input[size_t(in)]) * o.weight[size_t(weight)];
    else if (part == Part::InputGradient)
      expected[size_t(in)] += double(o.gradient[size_t(out)]) * o.weight[size_t(weight)];
    else
      expected[size_t(weight)] += double(o.gradient[size_t(out)]) * o.input[size_t(in)];
  });
  return expected;
}

/// Backwards and in parts, so that nothing depends on the order.
void inParts(int64_t extent, int64_t, const std::function<void(int64_t, int64_t)> &body) {
  for (int64_t i = extent; i-- > 0;)
    body(i, i + 1);
}

bool run(Part part, const Convolution &c, const Operands &o, const Floats &bias, Floats &result) {
  DirectConvolution direct(part, c);
  const float canary = 12345;
  // Whatever was in the scratch memory before, not a number included, must not be seen.
  Floats scratch(direct.scratchFloats() + 1, std::numeric_limits<float>::quiet_NaN());
  scratch.back() = canary;
  bool done = part == Part::WeightGradient
                  ? direct.runWeight(o.gradient.data(), o.input.data(), result.data(), scratch.data(), inParts)
                  : direct.run(part == Part::Output ? o.input.data() : o.gradient.data(), o.weight.data(),
                               bias.empty() ? nullptr : bias.data(), result.data(), scratch.data(), inParts);
  EXPECT_EQ(scratch.back(), canary);
  return done;
}

void check(Part part, const Convolution &c, uint32_t seed) {
  if (!DirectConvolution::supports(part, c))
    return;
  Operands operands(c, seed);
  int64_t channels = c.groups * (part == Part::Output ? c.outChannels : c.inChannels);
  std::mt19937 random(seed + 1);
  Floats bias = part != Part::WeightGradient && seed % 2 ? randomFloats(channels, random) : Floats();
  std::vector<double> expected = expectedOf(part, c, operands, bias);
  Floats result(expected.size(), std::numeric_limits<float>::quiet_NaN());
  ASSERT_TRUE(run(part, c, operands, bias, result));
  double error = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += (result[i] - expected[i]) * (result[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  EXPECT_LE(std::sqrt(error), 2e-6 * std::sqrt(norm) + 1e-12)
      << "part " << int(part) << ", batch " << c.batch << ", in " << c.in[0] << "x" << c.in[1] << ", kernel "
      << c.kernel[0] << "x" << c.kernel[1] << ", stride " << c.stride[0] << "x" << c.stride[1] << ", padding "
      << c.padding[0] << "x" << c.padding[1] << ", dilation " << c.dilation[0];
}

TEST(Convolution, AllSizesAreTheDefinition) {
  std::mt19937 random(7);
  auto between = [&](int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(random);
  };
  uint32_t supported = 0;
  for (uint32_t seed = 0; seed < 600; ++seed) {
    Convolution c;
    c.batch = between(1, 5), c.groups = between(1, 3), c.inChannels = between(1, 9), c.outChannels = between(1, 15);
    for (size_t i : {0, 1}) {
      c.kernel[i] = between(1, 5), c.stride[i] = between(1, 3), c.dilation[i] = between(1, 2);
      c.padding[i] = between(0, 3), c.in[i] = between(1, seed % 10 ? 12 : 40);
      c.out[i] = outputSize(c.in[i], c.kernel[i], c.stride[i], c.padding[i], c.dilation[i]);
    }
    if (c.in[0] + 2 * c.padding[0] < c.dilation[0] * (c.kernel[0] - 1) + 1 ||
        c.in[1] + 2 * c.padding[1] < c.dilation[1] * (c.kernel[1] - 1) + 1)
      continue;
    for (Part part : {Part::Output, Part::InputGradient, Part::WeightGradient}) {
      supported += DirectConvolution::supports(part, c);
      check(part, c, seed);
    }
  }
  if (DirectConvolution::supports(Part::Output, {1, 1, 1, 1, {8, 8}, {6, 6}, {3, 3}, {1, 1}, {0, 0}, {1, 1}}))
    EXPECT_GT(supported, 900u);
}

TEST(Convolution, BatchesThatDoNotFitTheCacheAtOnce) {
  for (Part part : {Part::Output, Part::InputGradient, Part::WeightGradient})
    check(part, {7, 2, 24, 20, {40, 40}, {20, 20}, {3, 3}, {2, 2}, {1, 1}, {1, 1}}, 3);
}

TEST(Convolution, WhatIsNotFiniteIsLeftToOthers) {
  Convolution c{2, 1, 3, 4, {6, 6}, {6, 6}, {3, 3}, {1, 1}, {1, 1}, {1, 1}};
  if (!DirectConvolution::supports(Part::Output, c))
    GTEST_SKIP() << "no vectors that the loops know";
  Operands operands(c, 1);
  Floats output(operands.gradient.size()), weight(operands.weight.size());
  operands.input[0] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(run(Part::WeightGradient, c, operands, {}, weight));
  EXPECT_TRUE(run(Part::Output, c, operands, {}, output));
  EXPECT_FALSE(std::isfinite(output[0]));
  EXPECT_TRUE(std::isfinite(output[12])); // two rows below
  operands.weight[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(run(Part::Output, c, operands, {}, output));
}

} // namespace
} // namespace terra::runtime
