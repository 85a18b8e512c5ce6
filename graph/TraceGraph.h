// All traces of a function, merged: nodes are events, edges are "may come next".
#pragma once

#include "graph/Event.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace terra::graph {

using NodeId = uint32_t;
inline constexpr NodeId kNoNode = ~0u;

struct Node {
  std::shared_ptr<const Event> event; ///< null for the start
  std::vector<NodeId> next, previous;
  /// A segment starts here although the graph is straight: two traces agree on the events but not on where
  /// their inputs come from. Closed segments bind inputs by position, so a boundary makes both the same path.
  bool boundary = false;
};

/// Node 0 is the start, node 1 the end of a region.
class TraceGraph {
public:
  static constexpr NodeId kStart = 0, kEnd = 1;

  TraceGraph();

  /// Tells this graph, and copies of it, from all others of the process. Never 0.
  uint64_t id() const { return id_; }
  const Node &operator[](NodeId id) const { return nodes_[id]; }
  size_t size() const { return nodes_.size(); }

  NodeId addNode(std::shared_ptr<const Event> event);
  /// Does nothing when the edge exists.
  void addEdge(NodeId from, NodeId to);
  void setBoundary(NodeId id) { nodes_[id].boundary = true; }
  /// Replaces an event by a more general one (a scalar or an offset that varies).
  void setEvent(NodeId id, std::shared_ptr<const Event> event) { nodes_[id].event = std::move(event); }

  /// This graph without some nodes. `renumbered`: by node, its new number, or kNoNode.
  TraceGraph without(const std::vector<bool> &dropped, std::vector<NodeId> &renumbered) const;

  /// True when a segment has to start at `id`: a join, a branch before it, a gate at or before it, a boundary,
  /// or events of two traces (their storage numbers cannot be compared).
  bool startsSegment(NodeId id) const;

private:
  uint64_t id_;
  std::vector<Node> nodes_;
};

std::string toString(const TraceGraph &graph);
/// Graphviz source: a table a segment, with the lines of the program. In Dot.cpp.
std::string toDot(const TraceGraph &graph);

} // namespace terra::graph
