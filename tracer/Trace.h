// The events of one recorded region, in order.
#pragma once

#include "graph/TraceGraph.h"

#include <memory>
#include <vector>

namespace terra::tracer {

/// A trace may share events with earlier ones: with the number of the earlier trace, but the same storage numbers.
struct Trace : std::vector<std::shared_ptr<const graph::Event>> {
  using std::vector<std::shared_ptr<const graph::Event>>::vector;

  /// Where a trace was merged.
  struct Place {
    uint64_t graph = 0; ///< `TraceGraph::id`; 0: nowhere
    graph::NodeId after = graph::TraceGraph::kStart;
    bool operator==(const Place &) const = default;
  };

  uint32_t number = 0;
  Place merged;
  /// All events are, in order, those of a trace that was merged there.
  Place repeats;
};

} // namespace terra::tracer
