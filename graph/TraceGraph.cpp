#include "graph/TraceGraph.h"

#include <algorithm>
#include <atomic>

namespace terra::graph {

TraceGraph::TraceGraph() : nodes_(2) {
  static std::atomic<uint64_t> ids{0};
  id_ = ++ids;
  auto end = std::make_shared<Event>();
  end->kind = EventKind::End;
  nodes_[kEnd].event = std::move(end);
}

NodeId TraceGraph::addNode(std::shared_ptr<const Event> event) {
  nodes_.push_back({std::move(event), {}, {}, false});
  return NodeId(nodes_.size() - 1);
}

void TraceGraph::addEdge(NodeId from, NodeId to) {
  std::vector<NodeId> &next = nodes_[from].next;
  if (std::find(next.begin(), next.end(), to) != next.end())
    return;
  next.push_back(to);
  nodes_[to].previous.push_back(from);
}

TraceGraph TraceGraph::without(const std::vector<bool> &dropped, std::vector<NodeId> &renumbered) const {
  renumbered.assign(nodes_.size(), kNoNode);
  TraceGraph rest;
  rest.nodes_.clear();
  for (NodeId id = 0; id < nodes_.size(); ++id)
    if (!dropped[id]) {
      renumbered[id] = NodeId(rest.nodes_.size());
      rest.nodes_.push_back(nodes_[id]);
    }
  for (Node &node : rest.nodes_)
    for (std::vector<NodeId> *list : {&node.next, &node.previous}) {
      std::erase_if(*list, [&](NodeId id) { return dropped[id]; });
      for (NodeId &id : *list)
        id = renumbered[id];
    }
  return rest;
}

bool TraceGraph::startsSegment(NodeId id) const {
  const Node &node = nodes_[id];
  auto stands_alone = [](const Node &n) { return !n.event || n.event->gate || n.event->kind != EventKind::Call; };
  if (node.boundary || stands_alone(node) || node.previous.size() != 1)
    return true;
  const Node &before = nodes_[node.previous[0]];
  return before.next.size() != 1 || stands_alone(before) || before.event->trace != node.event->trace;
}

std::string toString(const TraceGraph &graph) {
  std::string text;
  for (NodeId id = 0; id < graph.size(); ++id) {
    text += "#" + std::to_string(id) + " ";
    text += graph[id].event ? toString(*graph[id].event) : std::string("terra.start");
    text += "  ->";
    for (NodeId next : graph[id].next)
      text += " #" + std::to_string(next);
    text += "\n";
  }
  return text;
}

} // namespace terra::graph
