// Reductions in parts: column sums along with rows, and few results of much data.
#include "CompilerProgram.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace terra::test {
namespace {

using V = std::vector<double>;

/// Gradients of a layer norm over rows of `n`, with statistics as given.
struct Gradients {
  V dx, dweight, dbias;
};

Gradients layerNormGradients(const V &dy, const V &x, const V &mean, const V &rstd, const V &weight) {
  size_t n = weight.size();
  Gradients out{V(x.size()), V(n, 0), V(n, 0)};
  for (size_t row = 0; row < mean.size(); ++row) {
    double meanG = 0, meanGX = 0;
    auto normalised = [&](size_t k) { return (x[row * n + k] - mean[row]) * rstd[row]; };
    for (size_t k = 0; k < n; ++k) {
      meanG += dy[row * n + k] * weight[k] / double(n);
      meanGX += dy[row * n + k] * weight[k] * normalised(k) / double(n);
    }
    for (size_t k = 0; k < n; ++k) {
      out.dx[row * n + k] = rstd[row] * (dy[row * n + k] * weight[k] - meanG - normalised(k) * meanGX);
      out.dweight[k] += dy[row * n + k] * normalised(k);
      out.dbias[k] += dy[row * n + k];
    }
  }
  return out;
}

struct RowsCase {
  int64_t rows, n;
  DType dtype;
  size_t kernels;
};

void PrintTo(const RowsCase &c, std::ostream *os) { *os << c.rows << "x" << c.n << ", type " << int(c.dtype); }

class CompilerSplitRows : public testing::TestWithParam<RowsCase> {};

TEST_P(CompilerSplitRows, layer_norm_gradients) {
  auto [rows, n, dtype, kernels] = GetParam();
  Program p;
  Tensor x = p.input({rows, n}, dtype), w = p.input({n}, dtype), g = p.input({rows, n}, dtype);
  Tensor mean = p.input({rows, 1}), rstd = p.input({rows, 1}, DType::Float32, 0.5, 1);
  auto out = p.calls("aten::native_layer_norm_backward", {g, x, Sizes{n}, mean, rstd, w, w, Sizes{1, 1, 1}},
                     {contiguous({rows, n}, dtype), contiguous({n}, dtype), contiguous({n}, dtype)});
  Gradients expected = layerNormGradients(p.values(g), p.values(x), p.values(mean), p.values(rstd), p.values(w));
  auto executable = compileAndRun(p, out);
  double tolerance = dtype == DType::Float32 ? 2e-5 : 1e-2, ofSums = 5 * tolerance; // terms cancel
  expectNear(p.values(out[0]), expected.dx, tolerance);
  expectNear(p.values(out[1]), expected.dweight, ofSums);
  expectNear(p.values(out[2]), expected.dbias, ofSums);
  ASSERT_EQ(executable->instructions.size(), 1u);
  EXPECT_EQ(executable->instructions[0].kernels.size(), kernels);
  EXPECT_GT(executable->instructions[0].kernels[0].extent, 1);
  EXPECT_GT(executable->instructions[0].kernels[0].scratchBytes, 0);
}

INSTANTIATE_TEST_SUITE_P(all, CompilerSplitRows,
                         testing::Values(RowsCase{33, 20, DType::Float32, 2}, RowsCase{1031, 70, DType::Float32, 2},
                                         RowsCase{5000, 3, DType::Float32, 2}, RowsCase{64, 1100, DType::Float32, 2},
                                         RowsCase{200, 48, DType::BFloat16, 2}));

TEST(CompilerSplit, gradients_in_place_of_their_input) {
  constexpr int64_t rows = 300, n = 24;
  Program p;
  Tensor x = p.input({rows, n}), g = p.input({rows, n});
  Tensor e = p.call("aten::_softmax_backward_data", {g, x, int64_t(1), int64_t(6)}, contiguous({rows, n}));
  Tensor bias = p.call("aten::sum.dim_IntList", {g, Sizes{0}, true, None{}}, contiguous({1, n}));
  p.inPlace("aten::copy_", {g, e, false}); // the sum is of what was there before
  V dy = p.values(g), y = p.values(x), dx(dy.size()), expected(n, 0);
  for (size_t i = 0; i < dy.size(); ++i) {
    size_t row = i / n * n;
    double dot = 0;
    for (size_t k = 0; k < n; ++k)
      dot += dy[row + k] * y[row + k];
    dx[i] = y[i] * (dy[i] - dot);
    expected[i % n] += dy[i];
  }
  compileAndRun(p, {bias});
  expectNear(p.values(g), dx, 2e-5);
  expectNear(p.values(bias), expected, 2e-5);
}

struct FewCase {
  Sizes sizes, dims;
  size_t outer, n, inner;
};

void PrintTo(const FewCase &c, std::ostream *os) { *os << c.outer << "x" << c.n << "x" << c.inner; }

class CompilerSplitFew : public testing::TestWithParam<FewCase> {};

/// Sums of [outer, n, inner] over n, with something before and after; the results are few for so much data.
TEST_P(CompilerSplitFew, equals_the_loop) {
  FewCase c = GetParam();
  Program p;
  Tensor x = p.input(c.sizes, DType::Float32, -1, 2);
  Sizes out;
  for (size_t d = 0; d < c.sizes.size(); ++d)
    out.push_back(std::find(c.dims.begin(), c.dims.end(), int64_t(d)) != c.dims.end() ? 1 : c.sizes[d]);
  Tensor squares = p.call("aten::mul.Tensor", {x, x}, contiguous(c.sizes));
  Tensor sum = p.call("aten::sum.dim_IntList", {squares, c.dims, true, None{}}, contiguous(out));
  Tensor root = p.call("aten::sqrt", {sum}, contiguous(out));
  Tensor largest = p.call("aten::amax", {x, c.dims, true}, contiguous(out));
  V a = p.values(x), sums(c.outer * c.inner, 0), maxima(c.outer * c.inner, -INFINITY);
  for (size_t i = 0; i < a.size(); ++i) {
    size_t at = i / (c.n * c.inner) * c.inner + i % c.inner;
    sums[at] += a[i] * a[i];
    maxima[at] = std::max(maxima[at], a[i]);
  }
  for (double &s : sums)
    s = std::sqrt(s);
  auto executable = compileAndRun(p, {root, largest});
  expectNear(p.values(root), sums, 1e-6);
  expectNear(p.values(largest), maxima, 0);
  for (const auto &instruction : executable->instructions)
    EXPECT_GE(instruction.kernels.at(0).extent, 4) << "parts that could run in parallel";
}

INSTANTIATE_TEST_SUITE_P(all, CompilerSplitFew,
                         testing::Values(FewCase{{200003}, {0}, 1, 200003, 1},
                                         FewCase{{500, 401}, {0, 1}, 1, 200500, 1},
                                         FewCase{{2, 90001}, {1}, 2, 90001, 1}, FewCase{{9001, 16}, {0}, 1, 9001, 16},
                                         FewCase{{2, 5003, 20}, {1}, 2, 5003, 20}));

TEST(CompilerSplit, partial_sums_are_more_accurate_than_one) {
  constexpr int64_t n = 1 << 22;
  Program p;
  Tensor x = p.input({n}, DType::Float32, 0, 1);
  Tensor y = p.call("aten::sum", {x, None{}}, contiguous({}));
  V a = p.values(x);
  double exact = std::accumulate(a.begin(), a.end(), 0.0);
  compileAndRun(p, {y});
  EXPECT_NEAR(p.values(y)[0] / exact, 1, 2e-7);
}

} // namespace
} // namespace terra::test
