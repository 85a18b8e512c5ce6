// Elementwise groups: arithmetic, broadcasting, strides, in-place writes, element types, scalars.
#include "CompilerProgram.h"

#include <cstring>
#include <gtest/gtest.h>

#include <cmath>

namespace terra::test {
namespace {

using V = std::vector<double>;

V map(const V &a, const std::function<double(double)> &f) {
  V out;
  for (double x : a)
    out.push_back(f(x));
  return out;
}

V map(const V &a, const V &b, const std::function<double(double, double)> &f) {
  V out;
  for (size_t i = 0; i < a.size(); ++i)
    out.push_back(f(a[i], b[i % b.size()])); // b broadcasts over leading dimensions
  return out;
}

TEST(CompilerElementwise, chain_becomes_one_kernel_without_its_temporaries) {
  Program p;
  Tensor x = p.input({4, 33}), bias = p.input({33});
  Tensor h = p.call("aten::add.Tensor", {x, bias, int64_t(1)}, contiguous({4, 33}));
  Tensor r = p.call("aten::relu", {h}, contiguous({4, 33}));
  Tensor y = p.call("aten::mul.Tensor", {r, Number{2.5}}, contiguous({4, 33}));
  V expected = map(p.values(x), p.values(bias), [](double a, double b) { return 2.5 * std::max(0.0, a + b); });
  auto executable = compileAndRun(p, {y});
  expectNear(p.values(y), expected, 1e-6);
  ASSERT_EQ(executable->instructions.size(), 1u);
  EXPECT_EQ(executable->instructions[0].fusedAway, (std::vector<uint32_t>{p.slotOf(h), p.slotOf(r)}));
  EXPECT_EQ(executable->instructions[0].outputs, std::vector<uint32_t>{p.slotOf(y)});
  EXPECT_EQ(executable->instructions[0].kernels.size(), 1u);
}

TEST(CompilerElementwise, values_that_live_on_are_stored) {
  Program p;
  Tensor x = p.input({7});
  Tensor h = p.call("aten::exp", {x}, contiguous({7}));
  Tensor y = p.call("aten::neg", {h}, contiguous({7}));
  V expected = map(p.values(x), [](double a) { return std::exp(a); });
  auto executable = compileAndRun(p, {h, y});
  expectNear(p.values(h), expected, 1e-6);
  expectNear(p.values(y), map(expected, [](double a) { return -a; }), 1e-6);
  EXPECT_TRUE(executable->instructions[0].fusedAway.empty());
}

TEST(CompilerElementwise, adamw_step_is_one_kernel) {
  Program p;
  Tensor w = p.input({5, 6}), g = p.input({5, 6}), m = p.input({5, 6}), v = p.input({5, 6}, DType::Float32, 0, 1);
  V w0 = p.values(w), g0 = p.values(g), m0 = p.values(m), v0 = p.values(v);
  p.inPlace("aten::mul_.Tensor", {w, Number{0.99}});
  p.inPlace("aten::lerp_.Scalar", {m, g, 0.1});
  p.inPlace("aten::mul_.Tensor", {v, Number{0.999}});
  p.inPlace("aten::addcmul_", {v, g, g, 0.001});
  Tensor root = p.call("aten::sqrt", {v}, contiguous({5, 6}));
  Tensor scaled = p.call("aten::div.Tensor", {root, Number{0.5}}, contiguous({5, 6}));
  p.inPlace("aten::add_.Tensor", {scaled, Number{1e-8}, int64_t(1)});
  p.inPlace("aten::addcdiv_", {w, m, scaled, Varying{-0.01}});
  auto executable = compileAndRun(p, {});
  V em = map(m0, g0, [](double a, double b) { return a + 0.1 * (b - a); });
  V ev = map(v0, g0, [](double a, double b) { return a * 0.999 + 0.001 * b * b; });
  V ew;
  for (size_t i = 0; i < w0.size(); ++i)
    ew.push_back(w0[i] * 0.99 - 0.01 * em[i] / (std::sqrt(ev[i]) / 0.5 + 1e-8));
  expectNear(p.values(m), em, 1e-6);
  expectNear(p.values(v), ev, 1e-6);
  expectNear(p.values(w), ew, 1e-5);
  ASSERT_EQ(executable->instructions.size(), 1u);
  EXPECT_EQ(executable->instructions[0].kernels.size(), 1u);
}

TEST(CompilerElementwise, strided_and_offset_inputs) {
  Program p;
  Tensor base = p.input({6, 8});
  Tensor transposed = p.viewEvent(base, {4, 3}, {1, 8}, 10);
  Tensor y = p.call("aten::neg", {transposed}, contiguous({4, 3}));
  V expected = map(p.values(transposed), [](double a) { return -a; });
  compileAndRun(p, {y});
  expectNear(p.values(y), expected, 0);
}

TEST(CompilerElementwise, fed_offsets_move_the_operand) {
  Program p;
  Tensor data = p.input({10, 4});
  Tensor row = Program::view(data, {4}, {1}, 0);
  Tensor y = p.call("aten::mul.Tensor", {row, Number{3}}, contiguous({4}));
  p.feedOffset(0);
  V expected = map(p.values(Program::view(data, {4}, {1}, 28)), [](double a) { return 3 * a; });
  compileAndRun(p, {y}, {28});
  expectNear(p.values(y), expected, 1e-6);
}

TEST(CompilerElementwise, writes_to_a_view_keep_the_rest) {
  Program p;
  Tensor x = p.input({4, 4});
  V before = p.values(x);
  Tensor column = p.viewEvent(x, {4}, {4}, 1);
  p.inPlace("aten::zero_", {column});
  compileAndRun(p, {});
  for (size_t i = 0; i < before.size(); i += 1)
    EXPECT_EQ(p.values(x)[i], i % 4 == 1 ? 0 : before[i]);
}

TEST(CompilerElementwise, varying_scalars_are_read_on_each_run) {
  Program p;
  Tensor x = p.input({9});
  p.inPlace("aten::add_.Tensor", {x, x, Varying{0.5}});
  V before = p.values(x);
  p.scalarFeeds[0] = 3;
  compileAndRun(p, {});
  expectNear(p.values(x), map(before, [](double a) { return 4 * a; }), 1e-6);
}

/// The nearest bf16 value, ties to even.
double roundToBf16(double value) {
  float f = float(value);
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof bits);
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

TEST(CompilerElementwise, bf16_rounds_after_every_op_as_eager_does) {
  Program p;
  Tensor x = p.input({100}, DType::BFloat16), y = p.input({100}, DType::BFloat16);
  Tensor h = p.call("aten::mul.Tensor", {x, y}, contiguous({100}, DType::BFloat16));
  Tensor z = p.call("aten::tanh", {h}, contiguous({100}, DType::BFloat16));
  V expected =
      map(p.values(x), p.values(y), [](double a, double b) { return roundToBf16(std::tanh(roundToBf16(a * b))); });
  compileAndRun(p, {z});
  expectNear(p.values(z), expected, 1.0 / 1024);
}

TEST(CompilerElementwise, half_precision) {
  Program p;
  Tensor x = contiguous({4}, DType::Float16);
  x = p.input({4}, DType::Float16);
  p.set(x, {0.5, -2, 1.5, 0});
  Tensor y = p.call("aten::add.Tensor", {x, x, int64_t(1)}, contiguous({4}, DType::Float16));
  compileAndRun(p, {y});
  expectNear(p.values(y), {1, -4, 3, 0}, 0);
}

TEST(CompilerElementwise, integers_promote_and_wrap) {
  Program p;
  Tensor small = p.input({40}, DType::Int8, -100, 100), wide = p.input({40}, DType::Int64, -5, 5);
  Tensor sum = p.call("aten::add.Tensor", {small, wide, int64_t(2)}, contiguous({40}, DType::Int64));
  Tensor doubled = p.call("aten::mul.Tensor", {small, small}, contiguous({40}, DType::Int8));
  Tensor ratio = p.call("aten::div.Tensor", {wide, Number{4}}, contiguous({40}));
  V a = p.values(small), b = p.values(wide);
  compileAndRun(p, {sum, doubled, ratio});
  expectNear(p.values(sum), map(a, b, [](double x, double y) { return x + 2 * y; }), 0);
  expectNear(p.values(doubled), map(a, [](double x) { return double(int8_t(int(x * x))); }), 0);
  expectNear(p.values(ratio), map(b, [](double x) { return x / 4; }), 1e-7);
}

TEST(CompilerElementwise, comparisons_and_where_on_bool) {
  Program p;
  Tensor x = p.input({50}), y = p.input({50});
  Tensor mask = p.call("aten::gt.Tensor", {x, y}, contiguous({50}, DType::Bool));
  Tensor inverse = p.call("aten::logical_not", {mask}, contiguous({50}, DType::Bool));
  Tensor picked = p.call("aten::where.self", {inverse, x, y}, contiguous({50}));
  V a = p.values(x), b = p.values(y);
  compileAndRun(p, {mask, picked});
  expectNear(p.values(mask), map(a, b, [](double u, double v) { return u > v; }), 0);
  expectNear(p.values(picked), map(a, b, [](double u, double v) { return std::min(u, v); }), 0);
}

TEST(CompilerElementwise, nan_stays_nan) {
  Program p;
  Tensor x = p.input({3}), y = p.input({3});
  p.set(x, {NAN, 1, -INFINITY});
  p.set(y, {1, NAN, 2});
  Tensor most = p.call("aten::maximum", {x, y}, contiguous({3}));
  Tensor relu = p.call("aten::relu", {x}, contiguous({3}));
  Tensor clamped = p.call("aten::clamp", {x, double(-1), double(1)}, contiguous({3}));
  compileAndRun(p, {most, relu, clamped});
  expectNear(p.values(most), {NAN, NAN, 2}, 0);
  expectNear(p.values(relu), {NAN, 1, 0}, 0);
  expectNear(p.values(clamped), {NAN, 1, -1}, 0);
}

TEST(CompilerElementwise, casts) {
  Program p;
  Tensor x = p.input({20}, DType::Float32, -3, 3);
  Tensor i = p.call("aten::_to_copy", {x, int64_t(4)}, contiguous({20}, DType::Int64));
  Tensor d = p.call("aten::_to_copy", {x, int64_t(7)}, contiguous({20}, DType::Float64));
  Tensor b = p.call("aten::_to_copy", {i, int64_t(11)}, contiguous({20}, DType::Bool));
  V a = p.values(x);
  compileAndRun(p, {i, d, b});
  expectNear(p.values(i), map(a, [](double v) { return std::trunc(v); }), 0);
  expectNear(p.values(d), a, 0);
  expectNear(p.values(b), map(a, [](double v) { return std::trunc(v) != 0; }), 0);
}

TEST(CompilerElementwise, activations_and_gradients) {
  Program p;
  Tensor x = p.input({64}), g = p.input({64});
  Tensor gelu = p.call("aten::gelu", {x, std::string("none")}, contiguous({64}));
  Tensor dgelu = p.call("aten::gelu_backward", {g, x, std::string("none")}, contiguous({64}));
  Tensor tanhGelu = p.call("aten::gelu", {x, std::string("tanh")}, contiguous({64}));
  Tensor dtanhGelu = p.call("aten::gelu_backward", {g, x, std::string("tanh")}, contiguous({64}));
  Tensor dsilu = p.call("aten::silu_backward", {g, x}, contiguous({64}));
  Tensor drelu = p.call("aten::threshold_backward", {g, x, int64_t(0)}, contiguous({64}));
  V a = p.values(x), dy = p.values(g);
  compileAndRun(p, {gelu, dgelu, tanhGelu, dtanhGelu, dsilu, drelu});
  auto geluOf = [](double v) { return 0.5 * v * (1 + std::erf(v / std::sqrt(2.0))); };
  auto tanhOf = [](double v) { return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v))); };
  auto siluOf = [](double v) { return v / (1 + std::exp(-v)); };
  auto slope = [&](auto f) {
    return map(a, dy, [&](double v, double d) { return d * (f(v + 1e-5) - f(v - 1e-5)) / 2e-5; });
  };
  expectNear(p.values(gelu), map(a, geluOf), 1e-6);
  expectNear(p.values(tanhGelu), map(a, tanhOf), 1e-6);
  expectNear(p.values(dgelu), slope(geluOf), 1e-5);
  expectNear(p.values(dtanhGelu), slope(tanhOf), 1e-5);
  expectNear(p.values(dsilu), slope(siluOf), 1e-5);
  expectNear(p.values(drelu), map(a, dy, [](double v, double d) { return v <= 0 ? 0 : d; }), 0);
}

TEST(CompilerElementwise, equal_groups_share_code) {
  Program p;
  std::vector<Tensor> results;
  for (int i = 0; i < 3; ++i) {
    Tensor x = p.input({11, 3});
    results.push_back(p.call("aten::sigmoid", {x}, contiguous({11, 3})));
  }
  auto executable = compileAndRun(p, results);
  std::vector<codegen::KernelFn> functions;
  for (const auto &instruction : executable->instructions)
    for (const auto &call : instruction.kernels)
      functions.push_back(call.fn);
  ASSERT_EQ(functions.size(), 3u);
  EXPECT_EQ(functions[0], functions[1]);
  EXPECT_EQ(functions[0], functions[2]);
}

class CompilerTransposed : public testing::TestWithParam<DType> {};

TEST_P(CompilerTransposed, large_operands_and_results_meet_element_by_element) {
  constexpr int64_t batch = 3, rows = 70, columns = 131;
  Program p;
  Tensor x = p.input({batch, rows, columns}, GetParam(), 0, 9), y = p.input({batch, columns, rows}, GetParam(), 0, 9);
  Tensor xt = Program::view(x, {batch, columns, rows}, {rows * columns, 1, columns});
  bool isBool = GetParam() == DType::Bool;
  std::vector<Argument> operands = {y, xt};
  if (!isBool)
    operands.emplace_back(int64_t(1));
  Tensor sum = p.call(isBool ? "aten::bitwise_or.Tensor" : "aten::add.Tensor", operands,
                      contiguous({batch, columns, rows}, GetParam()));
  Tensor out = p.input({batch, rows, columns}, GetParam());
  Tensor outT = Program::view(out, {batch, columns, rows}, {rows * columns, 1, columns});
  p.inPlace("aten::copy_", {outT, y, false});
  V a = p.values(xt), b = p.values(y), expected;
  for (size_t i = 0; i < a.size(); ++i)
    expected.push_back(isBool ? double(a[i] != 0 || b[i] != 0) : a[i] + b[i]);
  compileAndRun(p, {sum, out});
  expectNear(p.values(sum), expected, GetParam() == DType::BFloat16 ? 1e-2 : 1e-6);
  expectNear(p.values(outT), b, 0);
}

INSTANTIATE_TEST_SUITE_P(types, CompilerTransposed,
                         testing::Values(DType::Float32, DType::Float64, DType::Int64, DType::BFloat16, DType::Bool));

} // namespace
} // namespace terra::test
