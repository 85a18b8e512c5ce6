// A straight run of events as a closed function of storages and scalars: what passes and codegen compile.
#pragma once

#include "graph/Event.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace terra::graph {

inline constexpr uint32_t kNever = ~0u;

/// A storage as a segment sees it. Slots are numbered in the order of first appearance.
struct Slot {
  StorageId storage = kNoStorage; ///< its number in the events' trace
  bool external = false;         ///< bound when the segment is walked; otherwise made by `producer`
  uint32_t producer = kNever;    ///< index of the event that makes it
  bool written = false;          ///< some event of the segment writes it after it was made or bound
  int64_t bytes = 0;             ///< size of a storage made here
  Device device;
  uint32_t firstUse = kNever, lastUse = 0; ///< events
};

/// An operand or result of a segment event: which slot, and the offset feed if it varies.
struct SlotRef {
  uint32_t slot = kNever;        ///< kNever: undefined tensor
  uint32_t offsetFeed = kNever;  ///< index into the run's offset feeds when the storage offset varies
};

struct SegmentEvent {
  std::shared_ptr<const Event> event;
  std::vector<SlotRef> inputs, results; ///< parallel to event->inputs, event->results
  std::vector<uint32_t> scalarFeeds; ///< parallel to event->args: first index into the run's scalar feeds, or kNever
};

/// Learned from co-executed runs: for each slot the index of the first event that found the program's last reference
/// to it gone, or kNever when it was alive after the segment's last event (it is an output).
using Deaths = std::vector<uint32_t>;

struct Segment {
  std::vector<SegmentEvent> events;
  std::vector<Slot> slots;
  uint32_t numScalarFeeds = 0, numOffsetFeeds = 0;
};

/// Numbers the storages of `events` and fills the feeds. Every event must come from one trace (storage ids comparable).
Segment makeSegment(const std::vector<std::shared_ptr<const Event>> &events);

/// One event a line, with slots instead of trace-local storage numbers.
std::string toString(const Segment &segment);

} // namespace terra::graph
