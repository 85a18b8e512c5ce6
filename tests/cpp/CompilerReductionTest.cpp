// Groups with reductions: sums over any dimensions, softmax, layer norm, batch norm, and what fuses with them.
#include "CompilerProgram.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace terra::test {
namespace {

using V = std::vector<double>;

/// Sum over the middle of [outer, n, inner].
V sumMiddle(const V &x, size_t outer, size_t n, size_t inner) {
  V out(outer * inner, 0);
  for (size_t o = 0; o < outer; ++o)
    for (size_t i = 0; i < n; ++i)
      for (size_t k = 0; k < inner; ++k)
        out[o * inner + k] += x[(o * n + i) * inner + k];
  return out;
}

struct SumCase {
  Sizes sizes, dims;
  bool keepdim;
  size_t outer, n, inner;
};

void PrintTo(const SumCase &c, std::ostream *os) { *os << c.outer << "x" << c.n << "x" << c.inner; }

class CompilerSum : public testing::TestWithParam<SumCase> {};

TEST_P(CompilerSum, equals_the_loop) {
  SumCase c = GetParam();
  Program p;
  Tensor x = p.input(c.sizes);
  Sizes out;
  for (size_t d = 0; d < c.sizes.size(); ++d) {
    bool reduced = std::find(c.dims.begin(), c.dims.end(), int64_t(d)) != c.dims.end();
    if (!reduced || c.keepdim)
      out.push_back(reduced ? 1 : c.sizes[d]);
  }
  Tensor y = p.call("aten::sum.dim_IntList", {x, c.dims, c.keepdim, None{}}, contiguous(out));
  V expected = sumMiddle(p.values(x), c.outer, c.n, c.inner);
  compileAndRun(p, {y});
  expectNear(p.values(y), expected, 1e-5);
}

INSTANTIATE_TEST_SUITE_P(
    all, CompilerSum,
    testing::Values(SumCase{{7, 33}, {1}, false, 7, 33, 1}, SumCase{{7, 33}, {0}, true, 1, 7, 33},
                    SumCase{{7, 600}, {0}, false, 1, 7, 600}, SumCase{{3, 5, 40}, {1}, false, 3, 5, 40},
                    SumCase{{3, 5, 4}, {0, 1}, false, 1, 15, 4}, SumCase{{3, 5, 4}, {0, 1, 2}, false, 1, 60, 1},
                    SumCase{{2000, 10}, {0}, false, 1, 2000, 10}, SumCase{{2, 9000}, {1}, true, 2, 9000, 1},
                    SumCase{{4, 1, 6}, {1}, false, 4, 1, 6}));

TEST(CompilerReduction, long_sums_stay_accurate) {
  Program p;
  Tensor x = p.input({300000}, DType::Float32, 0, 1);
  Tensor y = p.call("aten::sum", {x, None{}}, contiguous({}));
  V a = p.values(x);
  double expected = std::accumulate(a.begin(), a.end(), 0.0);
  compileAndRun(p, {y});
  expectNear(p.values(y), {expected}, 1e-6);
}

TEST(CompilerReduction, integer_and_bool_sums_and_maxima) {
  Program p;
  Tensor i = p.input({6, 50}, DType::Int32, -100, 100), b = p.input({30}, DType::Bool, 0, 2);
  Tensor sum = p.call("aten::sum.dim_IntList", {i, Sizes{1}, false, None{}}, contiguous({6}, DType::Int64));
  Tensor count = p.call("aten::sum", {b, None{}}, contiguous({}, DType::Int64));
  Tensor most = p.call("aten::amax", {i, Sizes{0}, false}, contiguous({50}, DType::Int32));
  V a = p.values(i), bits = p.values(b);
  compileAndRun(p, {sum, count, most});
  expectNear(p.values(sum), sumMiddle(a, 6, 50, 1), 0);
  expectNear(p.values(count), {std::accumulate(bits.begin(), bits.end(), 0.0)}, 0);
  V expected(50, -1e9);
  for (size_t k = 0; k < a.size(); ++k)
    expected[k % 50] = std::max(expected[k % 50], a[k]);
  expectNear(p.values(most), expected, 0);
}

TEST(CompilerReduction, maximum_of_nan_is_nan) {
  Program p;
  Tensor x = p.input({2, 20});
  V a = p.values(x);
  a[7] = NAN;
  p.set(x, a);
  Tensor y = p.call("aten::amax", {x, Sizes{-1}, false}, contiguous({2}));
  compileAndRun(p, {y});
  expectNear(p.values(y), {NAN, *std::max_element(a.begin() + 20, a.end())}, 0);
}

/// Softmax over rows of length n.
V softmax(const V &x, size_t n) {
  V out(x.size());
  for (size_t row = 0; row < x.size(); row += n) {
    double most = *std::max_element(x.begin() + long(row), x.begin() + long(row + n)), sum = 0;
    for (size_t i = row; i < row + n; ++i)
      sum += out[i] = std::exp(x[i] - most);
    for (size_t i = row; i < row + n; ++i)
      out[i] /= sum;
  }
  return out;
}

TEST(CompilerReduction, masked_softmax_is_one_kernel) {
  Program p;
  Tensor x = p.input({3, 5, 17}), mask = p.input({17});
  Tensor scaled = p.call("aten::div.Tensor", {x, Number{2}}, contiguous({3, 5, 17}));
  Tensor masked = p.call("aten::add.Tensor", {scaled, mask, int64_t(1)}, contiguous({3, 5, 17}));
  Tensor y = p.call("aten::_softmax", {masked, int64_t(-1), false}, contiguous({3, 5, 17}));
  V a = p.values(x), m = p.values(mask);
  for (size_t i = 0; i < a.size(); ++i)
    a[i] = a[i] / 2 + m[i % 17];
  auto executable = compileAndRun(p, {y});
  expectNear(p.values(y), softmax(a, 17), 1e-6);
  ASSERT_EQ(executable->instructions.size(), 1u);
  EXPECT_EQ(executable->instructions[0].kernels.size(), 1u);
}

TEST(CompilerReduction, softmax_over_a_slow_dimension) {
  Program p;
  Tensor x = p.input({9, 40});
  Tensor y = p.call("aten::_softmax", {x, int64_t(0), false}, contiguous({9, 40}));
  Tensor turned = Program::view(x, {40, 9}, {1, 40});
  V expected = softmax(p.values(turned), 9);
  compileAndRun(p, {y});
  expectNear(p.values(Program::view(y, {40, 9}, {1, 40})), expected, 1e-6);
}

TEST(CompilerReduction, log_softmax_and_its_gradient) {
  Program p;
  Tensor x = p.input({6, 10}), g = p.input({6, 10});
  Tensor y = p.call("aten::_log_softmax", {x, int64_t(1), false}, contiguous({6, 10}));
  Tensor dx = p.call("aten::_log_softmax_backward_data", {g, y, int64_t(1), int64_t(6)}, contiguous({6, 10}));
  Tensor sm = p.input({6, 10}, DType::Float32, 0, 1);
  Tensor ds = p.call("aten::_softmax_backward_data", {g, sm, int64_t(1), int64_t(6)}, contiguous({6, 10}));
  V s = softmax(p.values(x), 10), dy = p.values(g), soft = p.values(sm), expected, expectedSoft;
  V sums = sumMiddle(dy, 6, 10, 1);
  V logs;
  for (size_t i = 0; i < s.size(); ++i) {
    logs.push_back(std::log(s[i]));
    expected.push_back(dy[i] - s[i] * sums[i / 10]);
    double dot = 0;
    for (size_t k = i / 10 * 10; k < i / 10 * 10 + 10; ++k)
      dot += dy[k] * soft[k];
    expectedSoft.push_back((dy[i] - dot) * soft[i]);
  }
  compileAndRun(p, {y, dx, ds});
  expectNear(p.values(y), logs, 1e-6);
  expectNear(p.values(dx), expected, 1e-5);
  expectNear(p.values(ds), expectedSoft, 1e-5);
}

struct Normalised {
  V y, mean, rstd;
};

Normalised layerNorm(const V &x, const V &w, const V &b, size_t n) {
  Normalised r;
  for (size_t row = 0; row < x.size(); row += n) {
    double mean = 0, variance = 0;
    for (size_t i = row; i < row + n; ++i)
      mean += x[i] / double(n);
    for (size_t i = row; i < row + n; ++i)
      variance += (x[i] - mean) * (x[i] - mean) / double(n);
    r.mean.push_back(mean);
    r.rstd.push_back(1 / std::sqrt(variance + 1e-5));
    for (size_t i = row; i < row + n; ++i)
      r.y.push_back((x[i] - mean) * r.rstd.back() * w[i - row] + b[i - row]);
  }
  return r;
}

TEST(CompilerReduction, layer_norm_with_gelu_is_one_kernel) {
  Program p;
  Tensor x = p.input({2, 6, 24}), w = p.input({24}), b = p.input({24});
  auto out = p.calls("aten::native_layer_norm", {x, Sizes{24}, w, b, 1e-5},
                     {contiguous({2, 6, 24}), contiguous({2, 6, 1}), contiguous({2, 6, 1})});
  Tensor y = p.call("aten::gelu", {out[0], std::string("none")}, contiguous({2, 6, 24}));
  Normalised expected = layerNorm(p.values(x), p.values(w), p.values(b), 24);
  auto executable = compileAndRun(p, {out[1], out[2], y});
  for (double &v : expected.y)
    v = 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
  expectNear(p.values(y), expected.y, 1e-5);
  expectNear(p.values(out[1]), expected.mean, 1e-6);
  expectNear(p.values(out[2]), expected.rstd, 1e-5);
  ASSERT_EQ(executable->instructions.size(), 1u);
  EXPECT_EQ(executable->instructions[0].kernels.size(), 1u);
  EXPECT_EQ(executable->instructions[0].fusedAway, std::vector<uint32_t>{p.slotOf(out[0])});
}

TEST(CompilerReduction, layer_norm_gradients) {
  constexpr size_t rows = 11, n = 20;
  Program p;
  Tensor x = p.input({rows, n}), w = p.input({n}), g = p.input({rows, n});
  Normalised forward = layerNorm(p.values(x), V(n, 1), V(n, 0), n);
  Tensor mean = p.input({rows, 1}), rstd = p.input({rows, 1});
  p.set(mean, forward.mean);
  p.set(rstd, forward.rstd);
  Tensor residual = p.input({rows, n});
  auto out = p.calls("aten::native_layer_norm_backward", {g, x, Sizes{n}, mean, rstd, w, w, Sizes{1, 1, 1}},
                     {contiguous({rows, n}), contiguous({n}), contiguous({n})});
  Tensor total = p.call("aten::add.Tensor", {out[0], residual, int64_t(1)}, contiguous({rows, n}));
  V dy = p.values(g), weight = p.values(w), expected = p.values(residual), dw(n, 0), db(n, 0);
  for (size_t i = 0; i < dy.size(); ++i) {
    size_t row = i / n * n;
    double meanG = 0, meanGX = 0;
    for (size_t k = 0; k < n; ++k) {
      meanG += dy[row + k] * weight[k] / double(n);
      meanGX += dy[row + k] * weight[k] * forward.y[row + k] / double(n);
    }
    expected[i] += forward.rstd[i / n] * (dy[i] * weight[i % n] - meanG - forward.y[i] * meanGX);
    dw[i % n] += dy[i] * forward.y[i];
    db[i % n] += dy[i];
  }
  auto executable = compileAndRun(p, {total, out[1], out[2]});
  expectNear(p.values(total), expected, 1e-5);
  expectNear(p.values(out[1]), dw, 1e-5);
  expectNear(p.values(out[2]), db, 1e-5);
  ASSERT_EQ(executable->instructions.size(), 1u);
  EXPECT_EQ(executable->instructions[0].kernels.size(), 2u);
}

TEST(CompilerReduction, bias_gradient_fuses_with_the_activation) {
  Program p;
  Tensor x = p.input({40, 12}), g = p.input({40, 12});
  Tensor dx = p.call("aten::threshold_backward", {g, x, int64_t(0)}, contiguous({40, 12}));
  Tensor bias = p.call("aten::sum.dim_IntList", {dx, Sizes{0}, true, None{}}, contiguous({1, 12}));
  Tensor grad = p.input({12});
  p.inPlace("aten::add_.Tensor", {grad, Program::view(bias, {12}, {1}), int64_t(1)});
  V expectedDx, a = p.values(x), dy = p.values(g), expected = p.values(grad);
  for (size_t i = 0; i < a.size(); ++i) {
    expectedDx.push_back(a[i] <= 0 ? 0 : dy[i]);
    expected[i % 12] += expectedDx.back();
  }
  auto executable = compileAndRun(p, {dx});
  expectNear(p.values(dx), expectedDx, 0);
  expectNear(p.values(grad), expected, 1e-5);
  EXPECT_EQ(executable->instructions.size(), 1u);
}

TEST(CompilerReduction, batch_norm_trains) {
  constexpr size_t N = 3, C = 4, S = 10;
  Program p;
  Tensor x = p.input({N, C, 2, 5}), w = p.input({C}), b = p.input({C}), rm = p.input({C}), rv = p.input({C});
  V a = p.values(x), weight = p.values(w), bias = p.values(b), em = p.values(rm), ev = p.values(rv), expected(a.size());
  auto out = p.calls("aten::native_batch_norm", {x, w, b, rm, rv, true, 0.1, 1e-5},
                     {contiguous({N, C, 2, 5}), contiguous({C}), contiguous({C})});
  p.markWritten({3, 4});
  Tensor y = p.call("aten::relu", {out[0]}, contiguous({N, C, 2, 5}));
  V means, rstds;
  for (size_t c = 0; c < C; ++c) {
    double mean = 0, variance = 0;
    auto each = [&](auto f) {
      for (size_t i = 0; i < a.size(); ++i)
        if (i / S % C == c)
          f(i);
    };
    each([&](size_t i) { mean += a[i] / (N * S); });
    each([&](size_t i) { variance += (a[i] - mean) * (a[i] - mean) / (N * S); });
    double rstd = 1 / std::sqrt(variance + 1e-5);
    each([&](size_t i) { expected[i] = std::max(0.0, (a[i] - mean) * rstd * weight[c] + bias[c]); });
    means.push_back(mean);
    rstds.push_back(rstd);
    em[c] = 0.9 * em[c] + 0.1 * mean;
    ev[c] = 0.9 * ev[c] + 0.1 * variance * (N * S) / (N * S - 1);
  }
  auto executable = compileAndRun(p, {out[1], out[2], y});
  expectNear(p.values(y), expected, 1e-5);
  expectNear(p.values(out[1]), means, 1e-6);
  expectNear(p.values(out[2]), rstds, 1e-5);
  expectNear(p.values(rm), em, 1e-6);
  expectNear(p.values(rv), ev, 1e-6);
  ASSERT_EQ(executable->instructions.size(), 1u);
  EXPECT_EQ(executable->instructions[0].kernels.size(), 1u);
}

TEST(CompilerReduction, batch_norm_gradients) {
  for (bool channelsLast : {false, true}) {
    constexpr size_t N = 5, C = 12, S = 6;
    Program p;
    auto shape = [&](Tensor t) { // [N, C, S], contiguous or with channels fastest
      return channelsLast ? Program::view(t, {N, C, S}, {C * S, 1, C}) : Program::view(t, {N, C, S}, {C * S, S, 1});
    };
    Tensor x = shape(p.input({N, C, S})), g = shape(p.input({N, C, S})), w = p.input({C});
    V a = p.values(x), dy = p.values(g), weight = p.values(w), mean(C, 0), rstd(C, 0), dot(C, 0), sum(C, 0),
      expected(a.size());
    auto channel = [&](size_t i) { return i / S % C; };
    for (size_t i = 0; i < a.size(); ++i)
      mean[channel(i)] += a[i] / (N * S);
    for (size_t i = 0; i < a.size(); ++i)
      rstd[channel(i)] += (a[i] - mean[channel(i)]) * (a[i] - mean[channel(i)]) / (N * S);
    for (double &v : rstd)
      v = 1 / std::sqrt(v + 1e-5);
    for (size_t i = 0; i < a.size(); ++i) {
      dot[channel(i)] += dy[i] * (a[i] - mean[channel(i)]) * rstd[channel(i)];
      sum[channel(i)] += dy[i];
    }
    for (size_t i = 0; i < a.size(); ++i) {
      size_t c = channel(i);
      expected[i] = weight[c] * rstd[c] * (dy[i] - sum[c] / (N * S) - (a[i] - mean[c]) * rstd[c] * dot[c] / (N * S));
    }
    Tensor m = p.input({C}), r = p.input({C});
    p.set(m, mean);
    p.set(r, rstd);
    auto out = p.calls("aten::native_batch_norm_backward", {g, x, w, None{}, None{}, m, r, true, 1e-5, Sizes{1, 1, 1}},
                       {shape(contiguous({N, C, S})), contiguous({C}), contiguous({C})});
    compileAndRun(p, out);
    expectNear(p.values(out[0]), expected, 1e-5);
    expectNear(p.values(out[1]), dot, 1e-5);
    expectNear(p.values(out[2]), sum, 1e-5);
  }
}

TEST(CompilerReduction, cross_entropy_gradient_is_one_kernel) {
  Program p;
  Tensor logp = p.input({6, 10}), target = p.input({6}, DType::Int64, 0, 10), g = p.input({}), total = p.input({});
  p.set(total, {5});
  V classes = p.values(target), lp = p.values(logp), expected;
  classes[2] = -100;
  p.set(target, classes);
  Tensor dlogp = p.call("aten::nll_loss_backward", {g, logp, target, None{}, int64_t(1), int64_t(-100), total},
                        contiguous({6, 10}));
  Tensor dx = p.call("aten::_log_softmax_backward_data", {dlogp, logp, int64_t(1), int64_t(6)}, contiguous({6, 10}));
  double slope = -p.values(g)[0] / 5;
  for (size_t i = 0; i < lp.size(); ++i) {
    bool used = classes[i / 10] >= 0;
    expected.push_back(!used ? 0 : (double(i % 10) == classes[i / 10] ? slope : 0) - std::exp(lp[i]) * slope);
  }
  auto executable = compileAndRun(p, {dx});
  expectNear(p.values(dx), expected, 1e-6);
  EXPECT_EQ(executable->kernelCount, 1u);
}

TEST(CompilerReduction, losses_with_their_reduction) {
  Program p;
  Tensor x = p.input({7, 9}), t = p.input({7, 9}, DType::Float32, 0, 1), g = p.input({});
  Tensor mse = p.call("aten::mse_loss", {x, t, int64_t(1)}, contiguous({}));
  Tensor dmse = p.call("aten::mse_loss_backward", {g, x, t, int64_t(1)}, contiguous({7, 9}));
  Tensor bce = p.call("aten::binary_cross_entropy_with_logits", {x, t, None{}, None{}, int64_t(2)}, contiguous({}));
  V a = p.values(x), b = p.values(t), slopes;
  double squares = 0, entropy = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    squares += (a[i] - b[i]) * (a[i] - b[i]) / 63;
    slopes.push_back(p.values(g)[0] * 2 * (a[i] - b[i]) / 63);
    entropy -= b[i] * std::log(1 / (1 + std::exp(-a[i]))) + (1 - b[i]) * std::log(1 - 1 / (1 + std::exp(-a[i])));
  }
  compileAndRun(p, {mse, dmse, bce});
  expectNear(p.values(mse), {squares}, 1e-6);
  expectNear(p.values(dmse), slopes, 1e-6);
  expectNear(p.values(bce), {entropy}, 1e-5);
}

TEST(CompilerReduction, batch_norm_infers_with_running_statistics) {
  Program p;
  Tensor x = p.input({2, 3, 4}), mean = p.input({3}), variance = p.input({3}, DType::Float32, 0.5, 1), w = p.input({3});
  auto out = p.calls("aten::native_batch_norm", {x, w, None{}, mean, variance, false, 0.1, 1e-5},
                     {contiguous({2, 3, 4}), contiguous({0}), contiguous({0})});
  V a = p.values(x), expected;
  for (size_t i = 0; i < a.size(); ++i) {
    size_t c = i / 4 % 3;
    expected.push_back((a[i] - p.values(mean)[c]) / std::sqrt(p.values(variance)[c] + 1e-5) * p.values(w)[c]);
  }
  compileAndRun(p, {out[0]});
  expectNear(p.values(out[0]), expected, 1e-6);
}

TEST(CompilerReduction, bf16_rows_accumulate_in_f32) {
  Program p;
  Tensor x = p.input({4, 512}, DType::BFloat16, 0.5, 1);
  Tensor y = p.call("aten::mean.dim", {x, Sizes{1}, true, None{}}, contiguous({4, 1}, DType::BFloat16));
  V expected = sumMiddle(p.values(x), 4, 512, 1);
  for (double &v : expected)
    v /= 512;
  compileAndRun(p, {y});
  expectNear(p.values(y), expected, 1.0 / 256);
}

TEST(CompilerReduction, variance_and_its_correction) {
  Program p;
  Tensor x = p.input({5, 30});
  Tensor y = p.call("aten::var.correction", {x, Sizes{1}, int64_t(1), false}, contiguous({5}));
  V a = p.values(x), sums = sumMiddle(a, 5, 30, 1), expected(5, 0);
  for (size_t i = 0; i < a.size(); ++i)
    expected[i / 30] += std::pow(a[i] - sums[i / 30] / 30, 2) / 29;
  compileAndRun(p, {y});
  expectNear(p.values(y), expected, 1e-5);
}

TEST(CompilerReduction, work_on_reshaped_rows_shares_loops) {
  Program p;
  Tensor x = p.input({4, 6, 16}), flat = p.input({24, 16});
  Tensor h = p.call("aten::exp", {x}, contiguous({4, 6, 16}));
  Tensor seen = p.viewEvent(h, {24, 16}, {16, 1});
  Tensor sum = p.call("aten::mul.Tensor", {seen, flat}, contiguous({24, 16}));
  Tensor y = p.call("aten::sum.dim_IntList", {sum, Sizes{1}, false, None{}}, contiguous({24}));
  V a = p.values(x), b = p.values(flat);
  for (size_t i = 0; i < a.size(); ++i)
    a[i] = std::exp(a[i]) * b[i];
  auto executable = compileAndRun(p, {y});
  expectNear(p.values(y), sumMiddle(a, 24, 16, 1), 1e-5);
  EXPECT_EQ(executable->kernelCount, 1u);
}

} // namespace
} // namespace terra::test
