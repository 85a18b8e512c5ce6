// Trace → TraceGraph.
#pragma once

#include "graph/TraceGraph.h"
#include "tracer/Loops.h"
#include "tracer/Trace.h"

#include <utility>
#include <vector>

namespace terra::tracer {

/// Storage numbers of a graph node's trace and of the new trace that stand for the same storage.
using StoragePairs = std::vector<std::pair<graph::StorageId, graph::StorageId>>;

struct MergeResult {
  bool changed = false;           ///< nodes, edges, boundaries or events differ from before
  size_t newNodes = 0;
  graph::NodeId first = graph::kNoNode, last = graph::kNoNode; ///< the nodes of the first and the last event
  std::vector<graph::NodeId> nodes; ///< by event; empty where the trace repeats an earlier one
};

/// Joins `events`, seen after node `from`, to the graph. `known` relates the storages of the segment that was under way
/// at `from`. The trace follows existing nodes as long as they agree (scalars that differ and may vary become feeds, offsets
/// likewise), then gets nodes of its own, and joins the longest tail that an existing path has in common with it: a branch that
/// meets the old path again, or a loop's back edge. Joining can never be wrong, since segments are closed functions.
/// Afterwards the trace shares the graph's events where it can, and knows what varies.
MergeResult merge(graph::TraceGraph &graph, graph::NodeId from, const StoragePairs &known, Trace &events);

/// The same for a trace that is still under way and has been found to repeat: one turn becomes a loop, the other turns only
/// generalise it. `first` is the loop's head.
MergeResult mergeLoop(graph::TraceGraph &graph, graph::NodeId from, const StoragePairs &known, Trace &events,
                      Period period);

} // namespace terra::tracer
