// Scalars of a backward that vary from step to step. They come from scalars of the calls behind it: the backward of `loss * k`
// multiplies by `k`.
#pragma once

#include "frontend/torch/CallNode.h"
#include "frontend/torch/Promise.h"
#include "frontend/torch/SpanParts.h"
#include "graph/Event.h"
#include "runtime/Span.h"
#include "tracer/Cursor.h"

#include <vector>

namespace terra::frontend {

/// A scalar with which a call was made.
struct CallScalar {
  Scalar value{0};
  bool isInteger = false;
};

/// By call, in the order of the walk.
using CallScalars = std::vector<std::vector<CallScalar>>;
CallScalars scalarsOf(const std::vector<CallNode *> &calls);

/// What a backward makes for itself without an event: numbers, as `where`'s zero, and memory, as a transposed gradient's copy.
struct BackwardOwn {
  SpanConstants constants; ///< none that may be a function of a scalar that varies
  SpanMemory memory; ///< only what events touch

  /// False where the memory is not all its own.
  bool learn(FactoryWatch &watch, const runtime::SpanRange &range, const CallScalars &scalars);
  std::vector<uint32_t> slots() const;
  void lend(runtime::Session &session, Promiser &promiser) const;
};

/// Which scalar a feed takes is told by value, so several may be possible. All that are possible have to agree before a value is used.
class BackwardFeeds {
public:
  /// From a backward that ran operation by operation. False when some feed is no known function of one scalar.
  bool learn(const runtime::SpanRange &range, const CallScalars &scalars);
  /// Drops what an earlier backward has ruled out. False when nothing is left.
  bool narrow(const BackwardFeeds &earlier);
  /// Every feed has been seen with two values.
  bool believed() const;
  bool empty() const { return feeds_.empty(); }
  /// False when the values are not certain.
  bool values(const CallScalars &scalars, std::vector<Scalar> &out) const;
  void apply(tracer::Binding &binding, const std::vector<Scalar> &values) const;
  /// Whether `value` is one of the functions known here of a scalar.
  static bool mayComeFrom(const CallScalars &scalars, double value);

private:
  enum class Function : uint8_t { Same, Negative, Inverse, OneMinus, MinusOne };
  static constexpr Function kFunctions[] = {Function::Same, Function::Negative, Function::Inverse, Function::OneMinus,
                                            Function::MinusOne};
  struct Candidate {
    uint32_t call = 0, scalar = 0;
    Function function = Function::Same;
    bool operator==(const Candidate &) const = default;
  };
  struct Feed {
    uint32_t feed = 0;
    bool isInteger = false, varied = false;
    Scalar seen{0};
    std::vector<Candidate> candidates;
  };

  static bool valueOf(const CallScalar &scalar, Function function, bool integer, Scalar &out);
  bool learnArg(const graph::Arg &arg, uint32_t feed, Scalar value, const CallScalars &scalars);

  std::vector<Feed> feeds_;
};

} // namespace terra::frontend
