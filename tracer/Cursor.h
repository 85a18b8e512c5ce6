// Compares what the program does next with what a segment expects.
#pragma once

#include "graph/Segment.h"
#include "tracer/CallView.h"

#include <string>
#include <vector>

namespace terra::tracer {

/// What one walk through a segment has bound so far. Slots and feeds are numbered as in the segment.
struct Binding {
  uint64_t epoch = 0;
  std::vector<graph::StorageTag *> slots;
  std::vector<Scalar> scalars;
  std::vector<int64_t> offsets;
  /// External slots bound by the last successful match, for the owner to hold on to.
  std::vector<uint32_t> bound;

  void reset(const graph::Segment &segment, uint64_t newEpoch);
};

enum class Mismatch : uint8_t { None, Op, Context, Whole, Argument, Meta, Offset, Storage, Dynamic };

struct MatchResult {
  Mismatch mismatch = Mismatch::None;
  uint32_t index = 0; ///< argument or operand
  explicit operator bool() const { return mismatch == Mismatch::None; }
};

/// "argument 2 ('alpha') of aten::add.Tensor changed", for messages.
std::string describe(const MatchResult &result, const graph::Event &expected);

/// Checks op, context, enclosing call, attributes, operand metas and where operands come from; on success binds externals and feeds.
/// After a failure the binding may hold externals of the failed event, which no recognised event uses.
MatchResult match(const graph::Segment &segment, uint32_t index, const CallView &call, Binding &binding);

/// The same for a call that stands for several events of the segment; `expected` has the segment's slots. After a failure the
/// binding is as before.
MatchResult matchSpan(const graph::Segment &segment, const graph::SegmentEvent &expected, const CallView &call,
                      Binding &binding);

} // namespace terra::tracer
