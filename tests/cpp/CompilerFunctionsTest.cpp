// Elementary functions of f32 against f64's, over the whole range of floats and at their special values.
#include "CompilerProgram.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

namespace terra::test {
namespace {

using V = std::vector<double>;

/// Distance in units of the last place of the float nearest to `expected`; infinite where they differ in kind.
double ulps(double actual, double expected) {
  float f = float(expected);
  if (std::isnan(f) || std::isnan(actual))
    return std::isnan(f) && std::isnan(actual) ? 0 : INFINITY;
  if (std::isinf(f) || std::isinf(actual))
    return double(f) == actual ? 0 : INFINITY;
  if (f == 0 && actual == 0)
    return std::signbit(f) == std::signbit(actual) ? 0 : INFINITY;
  double unit = double(std::nextafter(std::fabs(f), INFINITY)) - double(std::fabs(f));
  return std::fabs(actual - expected) / unit;
}

/// Half of them uniform in [low, high), the others floats of any bits; then special ones.
V samples(size_t count, double low, double high) {
  std::mt19937 random(5);
  V values = {0.0, -0.0, INFINITY, -INFINITY, NAN,  1, -1,    2,      -2,     3,
              0.5, -0.5, 1000,     200,       -200, 8, 1e-45, -1e-45, 3.4e38, -3.4e38};
  while (values.size() < count) {
    uint32_t bits = uint32_t(random());
    float any;
    std::memcpy(&any, &bits, sizeof(any));
    bool uniform = values.size() % 2;
    values.push_back(uniform ? double(float(std::uniform_real_distribution<>(low, high)(random))) : double(any));
  }
  return values;
}

struct FunctionCase {
  const char *op;
  double (*reference)(double);
  double low, high;
};

void PrintTo(const FunctionCase &c, std::ostream *os) { *os << c.op; }

class CompilerFunctions : public testing::TestWithParam<FunctionCase> {};

TEST_P(CompilerFunctions, within_four_ulp) {
  FunctionCase c = GetParam();
  Program p;
  Tensor x = p.input({20000});
  p.set(x, samples(20000, c.low, c.high));
  Tensor y = p.call(c.op, {x}, contiguous({20000}));
  V a = p.values(x);
  compileAndRun(p, {y});
  V actual = p.values(y);
  for (size_t i = 0; i < a.size(); ++i)
    ASSERT_LE(ulps(actual[i], c.reference(a[i])), 4.0) << a[i] << " gives " << actual[i];
}

INSTANTIATE_TEST_SUITE_P(
    all, CompilerFunctions,
    testing::Values(FunctionCase{"aten::exp", std::exp, -100, 88}, FunctionCase{"aten::exp2", std::exp2, -150, 128},
                    FunctionCase{"aten::expm1", std::expm1, -1, 3}, FunctionCase{"aten::log", std::log, 1e-30, 1e3},
                    FunctionCase{"aten::log", std::log, 0.9, 1.1}, FunctionCase{"aten::log2", std::log2, 0.5, 9},
                    FunctionCase{"aten::log10", std::log10, 0.5, 9}, FunctionCase{"aten::log1p", std::log1p, -0.9, 3},
                    FunctionCase{"aten::tanh", std::tanh, -10, 10}, FunctionCase{"aten::erf", std::erf, -5, 5},
                    FunctionCase{"aten::sqrt", std::sqrt, 0, 100}, FunctionCase{"aten::sin", std::sin, -100, 100},
                    FunctionCase{"aten::cos", std::cos, -100, 100}, FunctionCase{"aten::tan", std::tan, -100, 100},
                    FunctionCase{"aten::atan", std::atan, -4, 4}));

TEST(CompilerFunctionPairs, pow_of_any_pair) {
  constexpr size_t n = 20000, special = 20;
  Program p;
  Tensor x = p.input({n}), y = p.input({n});
  V bases = samples(n, 0, 10), exponents = samples(n + 13, -12, 12);
  exponents.erase(exponents.begin(), exponents.begin() + 13); // other pairs
  for (size_t i = 0; i < special * special; ++i) {
    bases[i + special] = bases[i % special];
    exponents[i + special] = samples(special, 0, 1)[i / special];
  }
  for (size_t i = n / 2; i < n; ++i) // whole exponents
    exponents[i] = std::fabs(exponents[i]) < 1e6 ? std::round(exponents[i]) : double(i % 7) - 3;
  p.set(x, bases);
  p.set(y, exponents);
  bases = p.values(x), exponents = p.values(y); // as floats
  Tensor z = p.call("aten::pow.Tensor_Tensor", {x, y}, contiguous({n}));
  compileAndRun(p, {z});
  V actual = p.values(z);
  for (size_t i = 0; i < n; ++i)
    ASSERT_LE(ulps(actual[i], std::pow(bases[i], exponents[i])), 4.0) << bases[i] << " to the " << exponents[i];
}

TEST(CompilerFunctionPairs, powers_of_two_and_ten_are_exact) {
  Program p;
  Tensor x = p.input({60}), t = p.input({20});
  V powers, integers, tens;
  for (int i = 0; i < 60; ++i) {
    integers.push_back(i - 30);
    powers.push_back(std::exp2(i - 30));
  }
  for (int i = 0; i < 20; ++i)
    tens.push_back(double(float(std::pow(10, i % 11))));
  p.set(x, powers);
  p.set(t, tens);
  Tensor log = p.call("aten::log2", {x}, contiguous({60}));
  Tensor back = p.call("aten::exp2", {log}, contiguous({60}));
  Tensor digits = p.call("aten::log10", {t}, contiguous({20}));
  compileAndRun(p, {log, back, digits});
  expectNear(p.values(log), integers, 0);
  expectNear(p.values(back), powers, 0);
  for (int i = 0; i < 20; ++i)
    EXPECT_EQ(p.values(digits)[size_t(i)], i % 11);
}

} // namespace
} // namespace terra::test
