// What may be fused: hazards, convexity, deaths; and random programs, fused against event by event.
#include "CompilerProgram.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace terra::test {
namespace {

using codegen::Instruction;

size_t kernelInstructions(const codegen::Executable &executable) {
  size_t n = 0;
  for (const Instruction &instruction : executable.instructions)
    n += instruction.kind == Instruction::Kind::Kernel;
  return n;
}

TEST(CompilerLegality, a_write_between_keeps_groups_apart) {
  Program p;
  Tensor x = p.input({8});
  Tensor a = p.call("aten::exp", {x}, contiguous({8}));
  p.inPlace("test::negate_", {x}); // extern: `exp` must not move past it
  Tensor b = p.call("aten::add.Tensor", {a, x, int64_t(1)}, contiguous({8}));
  auto executable = compileAndRun(p, {b});
  EXPECT_EQ(kernelInstructions(*executable), 2u);
}

TEST(CompilerLegality, a_path_through_an_extern_keeps_groups_apart) {
  Program p;
  Tensor x = p.input({8});
  Tensor a = p.call("aten::exp", {x}, contiguous({8}));
  Tensor m = p.call("test::negate", {a}, contiguous({8}));
  Tensor b = p.call("aten::add.Tensor", {a, m, int64_t(1)}, contiguous({8}));
  auto executable = compileAndRun(p, {b});
  EXPECT_EQ(kernelInstructions(*executable), 2u);
  for (double v : p.values(b))
    EXPECT_EQ(v, 0);
}

TEST(CompilerLegality, unrelated_externs_between_do_not_matter) {
  Program p;
  Tensor x = p.input({8}), z = p.input({8});
  Tensor a = p.call("aten::exp", {x}, contiguous({8}));
  p.call("test::negate", {z}, contiguous({8}));
  Tensor b = p.call("aten::neg", {a}, contiguous({8}));
  auto executable = compileAndRun(p, {b});
  EXPECT_EQ(kernelInstructions(*executable), 1u);
}

TEST(CompilerLegality, a_survivor_is_an_output_although_its_group_is_fused) {
  Program p;
  Tensor x = p.input({8});
  Tensor a = p.call("aten::exp", {x}, contiguous({8}));
  Tensor b = p.call("aten::neg", {a}, contiguous({8}));
  auto executable = compileAndRun(p, {a, b});
  ASSERT_EQ(kernelInstructions(*executable), 1u);
  EXPECT_TRUE(executable->instructions[0].fusedAway.empty());
  EXPECT_EQ(executable->instructions[0].outputs.size(), 2u);
}

TEST(CompilerLegality, a_late_death_is_not_waited_for) {
  Program p;
  Tensor x = p.input({8});
  Tensor a = p.call("aten::exp", {x}, contiguous({8}));
  Tensor b = p.call("aten::neg", {a}, contiguous({8}));
  for (int i = 0; i < 60; ++i)
    p.call("test::negate", {x}, contiguous({8}));
  auto segment = p.segment();
  auto deaths = p.deaths({b});
  deaths[p.slotOf(a)] = 55;
  auto executable = codegen::compile(segment, deaths, {});
  EXPECT_EQ(codegen::verify(segment, deaths, executable->instructions), "");
  for (const Instruction &instruction : executable->instructions)
    if (instruction.kind == Instruction::Kind::Kernel)
      EXPECT_TRUE(instruction.fusedAway.empty());
}

TEST(CompilerLegality, overlapping_views_of_a_written_storage_are_not_fused) {
  Program p;
  Tensor x = p.input({10});
  Tensor left = Program::view(x, {8}, {1}, 0), right = Program::view(x, {8}, {1}, 2);
  p.inPlace("aten::mul_.Tensor", {left, Number{2}});
  Tensor y = p.call("aten::neg", {right}, contiguous({8}));
  std::vector<double> before = p.values(x);
  auto executable = compileAndRun(p, {y});
  EXPECT_EQ(kernelInstructions(*executable), 2u);
  for (int i = 0; i < 8; ++i)
    EXPECT_EQ(p.values(y)[size_t(i)], -(i + 2 < 8 ? 2 : 1) * before[size_t(i) + 2]);
}

TEST(CompilerLegality, disjoint_views_of_a_written_storage_are_fused) {
  Program p;
  Tensor x = p.input({16}), g = p.input({8});
  Tensor left = Program::view(x, {8}, {1}, 0), right = Program::view(x, {8}, {1}, 8);
  p.inPlace("aten::add_.Tensor", {left, g, int64_t(1)});
  p.inPlace("aten::sub_.Tensor", {right, g, int64_t(1)});
  std::vector<double> before = p.values(x), dg = p.values(g);
  auto executable = compileAndRun(p, {});
  EXPECT_EQ(kernelInstructions(*executable), 1u);
  for (size_t i = 0; i < 16; ++i)
    EXPECT_EQ(p.values(x)[i], float(i < 8 ? before[i] + dg[i] : before[i] - dg[i - 8]));
}

TEST(CompilerLegality, an_in_place_op_on_its_own_shifted_view_stays_extern) {
  Program p;
  Tensor x = p.input({10});
  Tensor left = Program::view(x, {8}, {1}, 0), right = Program::view(x, {8}, {1}, 1);
  p.inPlace("aten::add_.Tensor", {left, right, int64_t(1)});
  auto executable = compileOnly(p, {});
  EXPECT_EQ(executable->externCount, 1u);
}

TEST(CompilerLegality, transposed_use_of_a_temporary_is_not_fused) {
  Program p;
  Tensor x = p.input({4, 6}), z = p.input({6, 4});
  Tensor a = p.call("aten::exp", {x}, contiguous({4, 6}));
  Tensor b = p.call("aten::mul.Tensor", {Program::view(a, {6, 4}, {1, 6}), z}, contiguous({6, 4}));
  auto executable = compileAndRun(p, {b});
  EXPECT_EQ(kernelInstructions(*executable), 2u);
}

TEST(CompilerLegality, unknown_variants_stay_extern) {
  Program p;
  Tensor x = p.input({8}), flag = p.input({8}, DType::Bool, 0, 2), i = p.input({8}, DType::Int32, 1, 5);
  p.call("aten::add.Tensor", {flag, flag, int64_t(1)}, contiguous({8}, DType::Bool));
  p.call("aten::floor_divide", {i, i}, contiguous({8}, DType::Int32)); // raises on zero
  p.call("aten::gelu", {x, std::string("other")}, contiguous({8}));
  p.call("aten::exp", {x}, contiguous({8}, DType::Float64)); // not what eager would give
  Tensor expanded = Program::view(x, {3, 8}, {0, 1});
  p.inPlace("aten::mul_.Tensor", {expanded, Number{2}});
  auto executable = compileOnly(p, {});
  EXPECT_EQ(executable->externCount, 5u);
  EXPECT_EQ(executable->kernelCount, 0u);
}

TEST(CompilerLegality, exact_numerics_compile_nothing) {
  Program p;
  Tensor x = p.input({8});
  p.call("aten::exp", {x}, contiguous({8}));
  codegen::CompileOptions options;
  options.numerics = codegen::Numerics::Exact;
  EXPECT_EQ(codegen::compile(p.segment(), p.deaths({}), options)->externCount, 1u);
}

//===- Random programs --------------------------------------------------------------------------------------------===//

/// Draws the same program for the same seed.
class RandomProgram {
public:
  explicit RandomProgram(unsigned seed) : random_(seed) {
    for (int i = 0; i < 4; ++i)
      tensors_.push_back(program.input({6, 8}, DType::Float32, 0.5, 1.5));
    for (int i = 0; i < 2; ++i)
      rows_.push_back(program.input({8}, DType::Float32, 0.5, 1.5));
    for (int i = 0; i < 14; ++i)
      step();
  }

  Program program;
  std::vector<Tensor> everything() {
    std::vector<Tensor> all(tensors_);
    all.insert(all.end(), rows_.begin(), rows_.end());
    return all;
  }
  std::vector<Tensor> kept() {
    std::vector<Tensor> all;
    for (Tensor &t : everything())
      if (program.slotOf(t) != graph::kNever && below(2))
        all.push_back(t);
    return all;
  }

private:
  size_t below(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random_); }
  Tensor any() { return tensors_[below(tensors_.size())]; }
  Tensor anyRow() { return rows_[below(rows_.size())]; }

  void step() {
    Tensor a = any(), b = any();
    Tensor flat = Program::view(a, {48}, {1}), top = Program::view(a, {3, 8}, {8, 1}),
           bottom = Program::view(b, {3, 8}, {8, 1}, 24);
    switch (below(12)) {
    case 0:
      return keep(program.call("aten::add.Tensor", {a, b, int64_t(1)}, contiguous({6, 8})));
    case 1:
      return keep(program.call("aten::mul.Tensor", {a, anyRow()}, contiguous({6, 8})));
    case 2:
      return keep(program.call("aten::tanh", {a}, contiguous({6, 8})));
    case 3:
      return program.inPlace("aten::mul_.Tensor", {a, Number{0.5}});
    case 4:
      return program.inPlace("aten::add_.Tensor", {a, b, double(0.25)});
    case 5:
      return keep(program.call("test::negate", {a}, contiguous({6, 8})));
    case 6:
      return program.inPlace("test::negate_", {a});
    case 7:
      rows_.push_back(program.call("aten::sum.dim_IntList", {a, Sizes{0}, false, None{}}, contiguous({8})));
      return;
    case 8:
      return keep(program.call("aten::_softmax", {a, int64_t(1), false}, contiguous({6, 8})));
    case 9:
      return program.inPlace("aten::copy_", {top, bottom, false});
    case 10:
      return program.inPlace("aten::sigmoid_", {flat});
    default:
      return program.inPlace("aten::mul_.Tensor", {anyRow(), Number{0.5}});
    }
  }
  void keep(Tensor t) { tensors_.push_back(std::move(t)); }

  std::mt19937 random_;
  std::vector<Tensor> tensors_, rows_;
};

class CompilerRandom : public testing::TestWithParam<unsigned> {};

TEST_P(CompilerRandom, fused_equals_event_by_event) {
  RandomProgram fused(GetParam()), plain(GetParam());
  std::vector<Tensor> kept = fused.kept();
  compileAndRun(fused.program, kept);
  plain.program.runEventByEvent();
  for (const Tensor &t : fused.everything()) {
    bool external = t.storage < 6, wanted = external;
    for (const Tensor &k : kept)
      wanted |= k.storage == t.storage;
    if (wanted) {
      SCOPED_TRACE("storage " + std::to_string(t.storage));
      expectNear(fused.program.values(t), plain.program.values(t), 1e-5);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(seeds, CompilerRandom, testing::Range(0u, 60u));

} // namespace
} // namespace terra::test
