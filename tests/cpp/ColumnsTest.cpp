#include "runtime/kernels/Columns.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <vector>

namespace terra::runtime {
namespace {

using Floats = std::vector<float>;

void backwards(int64_t extent, int64_t, const std::function<void(int64_t, int64_t)> &body) {
  for (int64_t i = extent; i-- > 0;)
    body(i, i + 1);
}

Convolution randomSizes(std::mt19937 &random) {
  auto between = [&](int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(random);
  };
  Convolution c{between(1, 3), 1, between(1, 3), between(1, 3), {}, {}, {}, {}, {}, {}};
  for (size_t i : {0, 1}) {
    c.kernel[i] = between(1, 4), c.stride[i] = between(1, 3), c.dilation[i] = between(1, 2),
    c.padding[i] = between(0, 5);
    int64_t reach = c.dilation[i] * (c.kernel[i] - 1) + 1;
    c.in[i] = std::max<int64_t>(between(1, 9), reach - 2 * c.padding[i]);
    c.out[i] = (c.in[i] + 2 * c.padding[i] - reach) / c.stride[i] + 1;
  }
  return c;
}

/// `use(element of the columns, element of the input or -1)` for every element of the columns.
template <class Use> void eachElement(const Convolution &c, Use use) {
  int64_t element = 0;
  for (int64_t channel = 0; channel < c.inChannels; ++channel)
    for (int64_t r = 0; r < c.kernel[0]; ++r)
      for (int64_t s = 0; s < c.kernel[1]; ++s)
        for (int64_t n = 0; n < c.batch; ++n)
          for (int64_t oy = 0; oy < c.out[0]; ++oy)
            for (int64_t ox = 0; ox < c.out[1]; ++ox) {
              int64_t y = oy * c.stride[0] + r * c.dilation[0] - c.padding[0];
              int64_t x = ox * c.stride[1] + s * c.dilation[1] - c.padding[1];
              bool inside = y >= 0 && y < c.in[0] && x >= 0 && x < c.in[1];
              use(element++, inside ? ((n * c.inChannels + channel) * c.in[0] + y) * c.in[1] + x : -1);
            }
}

/// Whole numbers, so that sums are exact in any order.
Floats wholeNumbers(int64_t count, std::mt19937 &random) {
  Floats values(size_t(count), 0);
  for (float &value : values)
    value = float(std::uniform_int_distribution<int>(-100, 100)(random));
  return values;
}

constexpr float kNone = std::numeric_limits<float>::quiet_NaN();

TEST(Columns, AreTheInputsOfEachOutput) {
  std::mt19937 random(11);
  for (int trial = 0; trial < 300; ++trial) {
    Convolution c = randomSizes(random);
    Columns columns(c);
    Floats input = wholeNumbers(c.batch * c.inChannels * c.in[0] * c.in[1], random);
    Floats made(size_t(columns.rows() * columns.columns()), kNone), expected(made.size());
    eachElement(c, [&](int64_t to, int64_t from) { expected[size_t(to)] = from < 0 ? 0 : input[size_t(from)]; });
    columns.gather(input.data(), made.data(), backwards);
    ASSERT_EQ(made, expected) << "trial " << trial;
  }
}

TEST(Columns, AnInputsGradientIsTheSumOfItsColumns) {
  std::mt19937 random(12);
  for (int trial = 0; trial < 300; ++trial) {
    Convolution c = randomSizes(random);
    Columns columns(c);
    Floats gradients = wholeNumbers(columns.rows() * columns.columns(), random);
    Floats made(size_t(c.batch * c.inChannels * c.in[0] * c.in[1]), kNone), expected(made.size());
    eachElement(c, [&](int64_t from, int64_t to) {
      if (to >= 0)
        expected[size_t(to)] += gradients[size_t(from)];
    });
    columns.scatter(gradients.data(), made.data(), backwards);
    ASSERT_EQ(made, expected) << "trial " << trial;
  }
}

TEST(Columns, OutputsComeAndGoByChannel) {
  std::mt19937 random(13);
  for (int trial = 0; trial < 100; ++trial) {
    Convolution c = randomSizes(random);
    Columns columns(c);
    int64_t places = c.out[0] * c.out[1];
    Floats images = wholeNumbers(c.batch * c.outChannels * places, random), bias = wholeNumbers(c.outChannels, random);
    Floats matrix(images.size(), kNone), expected(images.size()), back(images.size(), kNone), biased = images;
    for (int64_t n = 0; n < c.batch; ++n)
      for (int64_t k = 0; k < c.outChannels; ++k)
        for (int64_t i = 0; i < places; ++i) {
          expected[size_t((k * c.batch + n) * places + i)] = images[size_t((n * c.outChannels + k) * places + i)];
          biased[size_t((n * c.outChannels + k) * places + i)] += bias[size_t(k)];
        }
    columns.fromImages(images.data(), matrix.data(), backwards);
    ASSERT_EQ(matrix, expected);
    columns.toImages(matrix.data(), nullptr, back.data(), backwards);
    ASSERT_EQ(back, images);
    columns.toImages(matrix.data(), bias.data(), back.data(), backwards);
    ASSERT_EQ(back, biased);
  }
}

} // namespace
} // namespace terra::runtime
