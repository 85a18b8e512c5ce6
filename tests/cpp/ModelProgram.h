// Random legal programs of the fake framework, and the machine that runs them on any frontend.
#pragma once

#include "FakeFrontend.h"

#include <functional>
#include <random>
#include <string>
#include <vector>

namespace terra::fake {

enum class StatementKind : uint8_t {
  Add,
  Mul,
  AddInPlace,
  Fill,
  Uniform,
  Foreach,
  Pair,
  View,
  Composite,
  Bind,       ///< another name for a tensor: no event, but the tensor lives longer
  Delete,
  Item,
  Read,
  Odd,
  Immediate,
  ReadGenerator,
  Barrier,
  ThreadRead, ///< another thread reads a new tensor whenever it likes
  If,
  Loop,
  Raise,
  Context
};

/// What a statement's number is made of, besides its constant.
enum class Varies : uint8_t { Never, ByIteration, ByFetch };

struct Statement {
  StatementKind kind = StatementKind::Add;
  uint32_t out = 0, out2 = 0, a = 0, b = 0, which = 0; ///< which: composite
  int64_t k = 0;
  Varies varies = Varies::Never;
  std::vector<Statement> body, otherwise;
};

struct Features {
  bool gates = true, reads = true, raises = true, threads = false, longLoop = false, immediate = true,
       composites = true;
};

std::vector<Statement> randomProgram(std::mt19937_64 &random, const Features &features);
std::string toString(const std::vector<Statement> &program, int indent = 0);

struct ProgramError {};

/// The program's variables. The first outlive the region; the others are its locals.
class Machine {
public:
  static constexpr uint32_t kParameters = 3, kLasting = 5, kVariables = 13;

  explicit Machine(Frontend &frontend) : frontend_(frontend), variables_(kVariables) {}

  void makeParameters();
  /// One call of the region. May throw ProgramError, or what the frontend throws.
  void run(const std::vector<Statement> &program, int64_t iteration);
  void dropLocals();

  std::vector<Tensor> &variables() { return variables_; }
  const std::vector<int64_t> &log() const { return log_; }
  /// Takes the tensor of a ThreadRead, whose value belongs to `log()[index]`; without it the machine reads at once.
  std::function<void(Tensor, size_t index)> handOver;
  /// Entries of the log that were handed over.
  const std::vector<size_t> &handedOver() const { return handedOver_; }

private:
  void execute(const std::vector<Statement> &statements);
  void execute(const Statement &statement);
  void compute(const Statement &statement);
  void control(const Statement &statement);
  void composite(const Statement &statement);
  void threadRead(const Statement &statement);
  bool holds(const Statement &statement) const;
  int64_t number(const Statement &statement) const;
  /// The first variable from `index` on that has a value; there always is one.
  const Tensor &value(uint32_t index) const;

  Frontend &frontend_;
  std::vector<Tensor> variables_;
  std::vector<int64_t> log_;
  std::vector<size_t> handedOver_;
  int64_t iteration_ = 0, fetched_ = 0;
};

} // namespace terra::fake
