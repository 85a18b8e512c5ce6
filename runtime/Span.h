// Several events of a segment recognised by one check: a call above autograd, a backward, an optimizer's step.
//
// The events stay what they are: compiled, scheduled and flushed one by one. A span only tells that a call whose operands come from
// the same slots is going to cause exactly these events, so that nobody has to walk through them. Where a span does not fit, the
// call goes its long way and its events are matched as ever.
#pragma once

#include "graph/Segment.h"

#include <cstdint>
#include <functional>
#include <memory>

namespace terra::runtime {

class CompiledSegment;
class Run;

struct Span {
  uint32_t first = 0, count = 0; ///< events of the segment
  /// The call: operands and results with the segment's slots, arguments with the segment's scalar feeds.
  graph::SegmentEvent call;
  /// What the frontend needs to make the call's results.
  std::shared_ptr<const void> host;

  uint32_t last() const { return first + count - 1; }
};

/// A place in a walk, so that the events recognised since can be found.
struct SpanMark {
  std::shared_ptr<Run> run;
  std::shared_ptr<CompiledSegment> segment; ///< where the next event is expected
  uint32_t first = 0;
  bool inside = false; ///< of a segment; otherwise the next event enters one
  uint64_t runs = 0, gates = 0, divergences = 0; ///< counted so far
  uint64_t recording = 0; ///< number of the recording under way, and `first` counts its events; 0: none
};

/// Events that were recognised one by one, all in one segment. Or that were recorded: then the segment holds nothing else, slots are
/// numbers of storages, and there is no run.
struct SpanRange {
  std::shared_ptr<CompiledSegment> segment;
  Run *run = nullptr;
  uint32_t first = 0, count = 0;
  uint64_t epoch = 0; ///< of the tags of storages that the events touched
};

/// A call above autograd as it was recorded. The span's slots are numbers of storages of the trace, and its first event is 0.
struct RecordedCall {
  uint32_t first = 0; ///< event of the trace; of the segment, once that is known
  std::shared_ptr<const Span> span;
};

/// Completes a span from what was recognised. False when that is none.
using CompleteSpan = std::function<bool(const SpanRange &)>;

} // namespace terra::runtime
