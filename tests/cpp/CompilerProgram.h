// Builds segments by hand and runs what codegen::compile makes of them, on plain buffers.
#pragma once

#include "codegen/Compiler.h"

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <variant>
#include <vector>

namespace terra::test {

/// A tensor of a program: a view of one of its storages.
struct Tensor {
  graph::StorageId storage = graph::kNoStorage;
  TensorMeta meta;
};

struct Number {
  double value;
}; ///< a Python float where the op takes a tensor
struct Varying {
  double value;
}; ///< a Python float that is fed
struct None {};
using Sizes = std::vector<int64_t>;
using Argument = std::variant<Tensor, Number, Varying, None, int64_t, double, bool, Sizes, std::string>;

Tensor contiguous(Sizes sizes, DType dtype = DType::Float32);

class Program {
public:
  /// An external tensor with uniform values in [low, high).
  Tensor input(Sizes sizes, DType dtype = DType::Float32, double low = -2, double high = 2);
  /// The same storage seen otherwise; no event.
  static Tensor view(Tensor base, Sizes sizes, Sizes strides, int64_t offset = 0);
  /// As `view`, as an event that makes the view.
  Tensor viewEvent(Tensor base, Sizes sizes, Sizes strides, int64_t offset = 0);
  /// A call with fresh contiguous results of these metas.
  std::vector<Tensor> calls(const std::string &op, std::vector<Argument> args, std::vector<Tensor> results,
                            uint32_t flags = 0);
  Tensor call(const std::string &op, std::vector<Argument> args, Tensor result, uint32_t flags = 0) {
    return calls(op, std::move(args), {std::move(result)}, flags).front();
  }
  /// A call that writes its first tensor argument; `alsoWritten` lists further written arguments.
  void inPlace(const std::string &op, std::vector<Argument> args);
  /// Marks arguments of the last call as written although no result says so (batch norm's statistics).
  void markWritten(std::vector<uint32_t> operands);
  /// The offset of operand `operand` of the last call is fed on every run.
  void feedOffset(uint32_t operand);

  /// Runs each event as a segment of its own, with everything kept.
  void runEventByEvent();

  size_t lastEvent() const { return events_.size() - 1; }
  graph::Segment segment() const { return graph::makeSegment({events_.begin(), events_.end()}); }
  uint32_t slotOf(const Tensor &t) const;
  /// Every storage made by the program that is not kept dies at the event after its last use.
  graph::Deaths deaths(const std::vector<Tensor> &kept) const;

  /// The values of a tensor as doubles, in row-major order, from the program's own copy of the data.
  std::vector<double> values(const Tensor &t) const;
  void set(const Tensor &t, const std::vector<double> &values);

  std::map<graph::StorageId, std::vector<std::byte>> data; ///< of every storage
  std::vector<double> scalarFeeds;

private:
  std::shared_ptr<graph::Event> event(const std::string &op, std::vector<Argument> &args, uint32_t flags);
  graph::StorageId storage(int64_t bytes);

  std::vector<std::shared_ptr<graph::Event>> events_;
  std::mt19937 random_{7};
};

/// Compiles, checks `verify`, runs; results replace the data of the program's storages. Fails the test on externs.
/// Each kernel is called for several ranges. Code that takes all of its numbers as arguments has to compute the same.
std::shared_ptr<const codegen::Executable> compileAndRun(Program &program, const std::vector<Tensor> &kept,
                                                         const std::vector<int64_t> &offsetFeeds = {});
std::shared_ptr<const codegen::Executable>
compileOnly(const Program &program, const std::vector<Tensor> &kept,
            codegen::NumberChoice numbers = codegen::NumberChoice::Constants);
/// Runs what was compiled of the program.
void run(const codegen::Executable &executable, Program &program, const std::vector<int64_t> &offsetFeeds = {});

/// Elementwise comparison with relative tolerance `tolerance` (and as absolute one below 1).
void expectNear(const std::vector<double> &actual, const std::vector<double> &expected, double tolerance);

} // namespace terra::test
