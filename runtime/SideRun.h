// A read's data, computed beside the queue.
#pragma once

#include "graph/Segment.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace terra::runtime {

class Run;

/// The events that make one slot of a segment from bound ones, in their order.
struct Slice {
  std::vector<uint32_t> events, inputs; ///< inputs: the bound slots
};

/// Slices have at most this many events that compute something, on storages of at most so many bytes.
inline constexpr size_t kMostSliceEvents = 16;
inline constexpr int64_t kMostSliceBytes = 1 << 16;

/// The slice of `slot`, where it may be computed a second time and out of its turn: it is small, and nothing in it draws random
/// numbers, can fail on data, or is written after it was made or bound.
std::optional<Slice> sliceOf(const graph::Segment &segment, uint32_t slot);

/// A run of a slice for a read that would otherwise wait for all that was queued before. The program asks whether a mask that came
/// with the batch is all ones, and the last step's backward is still being computed: without this the two threads would
/// take turns. Nobody else knows the run; whoever has it lets the host run the events, with eager's kernels, and looks at
/// the slot. Every value is computed again in its turn by the runner, for the graph.
struct SideRun {
  std::shared_ptr<Run> run, source; ///< source: the run whose slot it is; holds the memory of what is bound
  const Slice *slice = nullptr;
  uint32_t slot = 0;
};

} // namespace terra::runtime
