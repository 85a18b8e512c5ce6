// What is known of an operator, independent of any call: interned once a process by the frontend.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace terra::graph {

/// Properties of an operator that matter to matching and ordering; facts about its arithmetic live in the dialect.
enum OpFlags : uint32_t {
  kOpRandom = 1u << 0,       ///< draws from the default generator
  kOpViewOnly = 1u << 1,     ///< the schema says that its results are views of its operands
  kOpGate = 1u << 2,         ///< its results cannot be promised ahead; it runs on the Python thread
  kOpMayFailOnData = 1u << 3,///< can raise an error that depends on the values of its inputs
  kOpFetch = 1u << 4,        ///< reads a tensor into a Python value (`_local_scalar_dense`)
};

/// Views whose storage offset depends on an integer argument.
enum class ViewRule : uint8_t { None, Select, Slice, AsStrided };

/// Which scalars an operator takes. Others raise at once in eager, so a call with one is never promised.
enum class Domain : uint8_t {
  Any,
  Position,        ///< into a dimension: no value at all
  NotNegative,
  Positive,
  Probability,     ///< 0 to 1
  NotZero,
  Divisor,         ///< not zero where integers are divided
  Exponent,        ///< not negative where integers are raised to it
  AtMostNext,      ///< not above the argument that follows
  AtLeastPrevious, ///< not below the argument before
  BelowNext,
  AbovePrevious,
  Range            ///< a bound of `arange`, which decides how long the result is
};

struct OpParam {
  std::string name;
  bool written = false;      ///< the schema marks the argument `(a!)`
  Domain domain = Domain::Any; ///< by `domainOf`
};

/// An operator and its schema. Identity is the address: the frontend keeps one object for each overload.
struct Op {
  std::string name;          ///< "aten::add.Tensor"
  uint32_t flags = 0;
  std::vector<OpParam> params;
  ViewRule viewRule = ViewRule::None; ///< by `viewRuleOf(name)`
  void *host = nullptr;      ///< the frontend's handle

  /// The op has been seen to return tensors of different sizes for equal calls, though nothing says so: it is a gate from
  /// then on, and recorded promises of its results match no more.
  mutable std::atomic<bool> dynamic{false};

  bool has(OpFlags flag) const { return (flags & flag) != 0 || (flag == kOpGate && isDynamic()); }
  bool isDynamic() const { return dynamic.load(std::memory_order_relaxed); }
};

ViewRule viewRuleOf(const std::string &name);
Domain domainOf(std::string_view op, std::string_view param);

/// "aten::add_.Tensor" → "add": one rule serves the functional, in-place and out forms.
std::string_view baseName(std::string_view name);

} // namespace terra::graph
