// Segments that are alike but for their sizes share code: after the first sizes nothing is compiled any more.
#include "CompilerProgram.h"

#include <gtest/gtest.h>

namespace terra::test {
namespace {

using codegen::NumberChoice;

struct Made {
  Program program;
  std::vector<Tensor> kept;
};

using Make = std::function<Made(int64_t rows, int64_t columns)>;

Made biasGelu(int64_t rows, int64_t columns) {
  Made m;
  Tensor x = m.program.input({rows, columns}), bias = m.program.input({columns});
  Tensor sum = m.program.call("aten::add.Tensor", {x, bias, int64_t(1)}, contiguous({rows, columns}));
  m.kept = {m.program.call("aten::gelu", {sum, std::string("none")}, contiguous({rows, columns}))};
  return m;
}

Made softmaxOfTransposed(int64_t rows, int64_t columns) {
  Made m;
  Tensor base = m.program.input({columns, rows});
  Tensor x = m.program.viewEvent(base, {rows, columns}, {1, rows});
  Tensor half = m.program.call("aten::mul.Tensor", {x, Number{0.5}}, contiguous({rows, columns}));
  m.kept = {m.program.call("aten::_softmax", {half, int64_t(1), false}, contiguous({rows, columns}))};
  return m;
}

Made layerNormAndMean(int64_t rows, int64_t columns) {
  Made m;
  Tensor x = m.program.input({rows, columns}), weight = m.program.input({columns}), bias = m.program.input({columns});
  std::vector<Tensor> norm =
      m.program.calls("aten::native_layer_norm", {x, Sizes{columns}, weight, bias, 1e-5},
                      {contiguous({rows, columns}), contiguous({rows, 1}), contiguous({rows, 1})});
  m.kept = norm;
  m.kept.push_back(m.program.call("aten::mean", {norm[0], None{}}, contiguous({})));
  return m;
}

Made columnSums(int64_t rows, int64_t columns) {
  Made m;
  Tensor grad = m.program.input({rows, columns}), x = m.program.input({rows, columns});
  Tensor product = m.program.call("aten::mul.Tensor", {grad, x}, contiguous({rows, columns}));
  m.kept = {m.program.call("aten::sum.dim_IntList", {product, Sizes{0}, false, None{}}, contiguous({columns})),
            m.program.call("aten::sum.dim_IntList", {product, Sizes{1}, false, None{}}, contiguous({rows}))};
  return m;
}

Made heads(int64_t rows, int64_t columns) {
  Made m;
  constexpr int64_t kHeads = 4, kWidth = 8;
  Tensor qkv = m.program.input({rows, columns, 3 * kHeads * kWidth});
  Tensor q = m.program.viewEvent(qkv, {rows, kHeads, columns, kWidth},
                                 {columns * 3 * kHeads * kWidth, kWidth, 3 * kHeads * kWidth, 1}, kHeads * kWidth);
  m.kept = {m.program.call("aten::mul.Tensor", {q, Number{0.25}}, contiguous({rows, kHeads, columns, kWidth}))};
  return m;
}

class CompilerSizes : public testing::TestWithParam<std::pair<const char *, Make>> {};

/// Compiles as the runtime does and runs; returns how many kernels LLVM had to compile.
uint32_t compileRemembered(Made &made) {
  graph::Segment segment = made.program.segment();
  auto executable = codegen::compile(segment, made.program.deaths(made.kept), {});
  EXPECT_GT(executable->kernelCount, 0u);
  run(*executable, made.program);
  return executable->cost.compiled;
}

TEST_P(CompilerSizes, compute_the_same_as_code_of_their_own) {
  const Make &make = GetParam().second;
  // Equal dimensions and different ones, one element, primes, more than a tile, more than a chunk.
  const std::vector<std::pair<int64_t, int64_t>> sizes = {{16, 16},  {16, 24},  {31, 24},   {24, 31},
                                                          {1, 7},    {7, 1},    {1, 1},     {97, 97},
                                                          {3, 1031}, {1031, 3}, {40, 4099}, {5000, 8}};
  for (auto [rows, columns] : sizes) {
    SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(columns));
    Made made = make(rows, columns), own = make(rows, columns);
    compileRemembered(made);
    run(*compileOnly(own.program, own.kept, NumberChoice::Constants), own.program);
    for (size_t i = 0; i < made.kept.size(); ++i)
      expectNear(made.program.values(made.kept[i]), own.program.values(own.kept[i]), 2e-5);
  }
}

TEST_P(CompilerSizes, find_the_code_of_others) {
  const Make &make = GetParam().second;
  auto compiled = [&](int64_t rows, int64_t columns) {
    Made made = make(rows, columns);
    return compileRemembered(made);
  };
  compiled(20, 33); // for itself
  compiled(22, 35); // for all
  uint32_t more = 0;
  for (auto [rows, columns] : {std::pair{23, 37}, {35, 35}, {29, 57}, {100, 64}, {64, 100}, {101, 103}})
    more += compiled(rows, columns);
  EXPECT_LE(more, 1u) << "only a number that was always the same, and varies late, makes code once more";
  for (auto [rows, columns] : {std::pair{24, 38}, {36, 36}, {31, 59}, {104, 66}, {66, 104}, {107, 109}})
    EXPECT_EQ(compiled(rows, columns), 0u) << rows << " x " << columns;
}

INSTANTIATE_TEST_SUITE_P(all, CompilerSizes,
                         testing::Values(std::pair{"biasGelu", Make(biasGelu)},
                                         std::pair{"softmaxOfTransposed", Make(softmaxOfTransposed)},
                                         std::pair{"layerNormAndMean", Make(layerNormAndMean)},
                                         std::pair{"columnSums", Make(columnSums)}, std::pair{"heads", Make(heads)}),
                         [](const auto &info) { return info.param.first; });

TEST(CompilerSizes, a_width_that_never_varies_stays_a_constant) {
  auto numbers = [](int64_t rows) {
    Made made = biasGelu(rows, 48);
    auto executable = codegen::compile(made.program.segment(), made.program.deaths(made.kept), {});
    std::vector<int64_t> found;
    for (const codegen::Instruction &instruction : executable->instructions)
      for (const codegen::KernelCall &call : instruction.kernels)
        for (const codegen::KernelArg &arg : call.args)
          if (arg.kind == codegen::KernelArg::Kind::Number)
            found.push_back(arg.byteOffset);
    return found;
  };
  numbers(19);
  for (int64_t number : numbers(21))
    EXPECT_NE(number, 48);
}

} // namespace
} // namespace terra::test
