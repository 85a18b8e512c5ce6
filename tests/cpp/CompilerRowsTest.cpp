// Reductions over rows: order of floats, NaN and infinities, masks.
#include "CompilerProgram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace terra::test {
namespace {

using V = std::vector<double>;
constexpr double kInf = std::numeric_limits<double>::infinity(), kNan = std::numeric_limits<double>::quiet_NaN();

class CompilerExtrema : public testing::TestWithParam<DType> {};

TEST_P(CompilerExtrema, order_negative_numbers_infinities_and_nan_as_floats) {
  Program p;
  int64_t rows = 6, n = 100;
  Tensor x = p.input({rows, n}, GetParam());
  V values = p.values(x);
  for (int64_t k = 0; k < n; ++k) {
    values[size_t(n + k)] = -1.0 - double(k);    // all negative
    values[size_t(2 * n + k)] = k == 7 ? kNan : double(k);
    values[size_t(3 * n + k)] = k == 90 ? -kNan : -double(k);
    values[size_t(4 * n + k)] = -kInf;
    values[size_t(5 * n + k)] = kInf;
  }
  p.set(x, values);
  Tensor most = p.call("aten::amax", {x, Sizes{1}, false}, contiguous({rows}, GetParam()));
  Tensor least = p.call("aten::amin", {x, Sizes{1}, false}, contiguous({rows}, GetParam()));
  compileAndRun(p, {most, least});
  V high = p.values(most), low = p.values(least);
  EXPECT_EQ(high[0], *std::max_element(values.begin(), values.begin() + n));
  EXPECT_EQ(low[0], *std::min_element(values.begin(), values.begin() + n));
  EXPECT_EQ(high[1], -1);
  EXPECT_EQ(low[1], -100);
  for (size_t row : {2, 3}) {
    EXPECT_TRUE(std::isnan(high[row]));
    EXPECT_TRUE(std::isnan(low[row]));
  }
  EXPECT_EQ(high[4], -kInf);
  EXPECT_EQ(low[4], -kInf);
  EXPECT_EQ(high[5], kInf);
  EXPECT_EQ(low[5], kInf);
}

INSTANTIATE_TEST_SUITE_P(types, CompilerExtrema, testing::Values(DType::Float32, DType::Float64));

TEST(CompilerRows, softmax_of_masked_rows) {
  Program p;
  int64_t rows = 3, n = 200;
  Tensor x = p.input({rows, n}), mask = p.input({rows, n}, DType::Bool, 0, 2);
  V bits = p.values(mask);
  std::fill(bits.begin() + n, bits.begin() + 2 * n, 1); // everything masked: NaN, as eager
  bits[0] = 0;
  p.set(mask, bits);
  Tensor filled = p.call("aten::masked_fill.Scalar", {x, mask, -kInf}, contiguous({rows, n}));
  Tensor y = p.call("aten::_softmax", {filled, int64_t(1), false}, contiguous({rows, n}));
  V a = p.values(x);
  compileAndRun(p, {y});
  V actual = p.values(y);
  for (int64_t row = 0; row < rows; ++row) {
    double sum = 0, most = -kInf;
    auto at = [&](int64_t k) { return size_t(row * n + k); };
    for (int64_t k = 0; k < n; ++k)
      most = bits[at(k)] ? most : std::max(most, a[at(k)]);
    for (int64_t k = 0; k < n; ++k)
      sum += bits[at(k)] ? 0 : std::exp(a[at(k)] - most);
    for (int64_t k = 0; k < n; ++k) {
      if (row == 1)
        EXPECT_TRUE(std::isnan(actual[at(k)]));
      else if (bits[at(k)])
        EXPECT_EQ(actual[at(k)], 0);
      else
        EXPECT_NEAR(actual[at(k)], std::exp(a[at(k)] - most) / sum, 1e-6);
    }
  }
}

/// As eager: NaN for a whole slice with a NaN or an infinity, or with nothing but -inf (safe softmax: 0).
V softmaxOfSlice(const std::string &op, const V &a) {
  double most = -kInf, sum = 0;
  bool isNan = false;
  for (double x : a) {
    most = std::max(most, x);
    isNan |= std::isnan(x);
  }
  for (double x : a)
    sum += std::exp(x - most);
  V y;
  for (double x : a) {
    double p = op == "aten::_log_softmax" ? x - most - std::log(sum) : std::exp(x - most) / sum;
    y.push_back(isNan ? NAN : op == "aten::_safe_softmax" && most == -kInf ? 0 : p);
  }
  return y;
}

struct SoftmaxCase {
  const char *op;
  int64_t size; ///< of the dimension
  bool rows;    ///< it is the last one
};

void PrintTo(const SoftmaxCase &c, std::ostream *os) {
  *os << c.op << (c.rows ? " rows of " : " columns of ") << c.size;
}

class CompilerSoftmax : public testing::TestWithParam<SoftmaxCase> {};

TEST_P(CompilerSoftmax, special_values_are_as_in_eager) {
  SoftmaxCase c = GetParam();
  constexpr int64_t slices = 24;
  Program p;
  Sizes sizes = c.rows ? Sizes{slices, c.size} : Sizes{c.size, slices};
  auto at = [&](int64_t slice, int64_t k) { return size_t(c.rows ? slice * c.size + k : k * slices + slice); };
  Tensor x = p.input(sizes, DType::Float32, -30, 30);
  V a = p.values(x);
  for (int64_t slice = 0; slice < slices; ++slice)
    for (int64_t k = 0; k < c.size; ++k) {
      double &value = a[at(slice, k)];
      bool first = k == slice * 7 % c.size; // somewhere else in each slice
      switch (slice % 6) {
      case 1:
        value = first ? NAN : value;
        break;
      case 2:
        value = k % 3 ? -kInf : value;
        break;
      case 3:
        value = first ? kInf : value;
        break;
      case 4:
        value = -kInf;
        break;
      case 5:
        value = first ? -NAN : -kInf;
        break;
      default:
        break;
      }
    }
  p.set(x, a);
  int64_t dim = c.rows ? 1 : 0;
  bool safe = std::string(c.op) == "aten::_safe_softmax";
  Tensor y = p.call(c.op, safe ? std::vector<Argument>{x, dim, None{}} : std::vector<Argument>{x, dim, false},
                    contiguous(sizes));
  a = p.values(x);
  compileAndRun(p, {y});
  V actual = p.values(y);
  for (int64_t slice = 0; slice < slices; ++slice) {
    V in, out;
    for (int64_t k = 0; k < c.size; ++k) {
      in.push_back(a[at(slice, k)]);
      out.push_back(actual[at(slice, k)]);
    }
    SCOPED_TRACE(slice);
    expectNear(out, softmaxOfSlice(c.op, in), 2e-6);
  }
}

INSTANTIATE_TEST_SUITE_P(
    all, CompilerSoftmax,
    testing::Values(SoftmaxCase{"aten::_softmax", 37, true}, SoftmaxCase{"aten::_softmax", 37, false},
                    SoftmaxCase{"aten::_softmax", 5000, true}, SoftmaxCase{"aten::_softmax", 2000, false},
                    SoftmaxCase{"aten::_log_softmax", 37, true}, SoftmaxCase{"aten::_log_softmax", 9000, true},
                    SoftmaxCase{"aten::_log_softmax", 37, false}, SoftmaxCase{"aten::_safe_softmax", 37, true},
                    SoftmaxCase{"aten::_safe_softmax", 5000, true}, SoftmaxCase{"aten::_safe_softmax", 37, false}));

} // namespace
} // namespace terra::test
