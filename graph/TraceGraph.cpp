#include "graph/TraceGraph.h"

#include <algorithm>

namespace terra::graph {

TraceGraph::TraceGraph() : nodes_(2) {
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

bool TraceGraph::startsSegment(NodeId id) const {
  const Node &node = nodes_[id];
  auto stands_alone = [](const Node &n) {
    return !n.event || n.event->gate || n.event->kind != EventKind::Call;
  };
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

namespace {
std::string escape(const std::string &text) {
  std::string out;
  for (char c : text) {
    if (std::string("\\\"{}<>|").find(c) != std::string::npos)
      out += '\\';
    out += c;
  }
  return out;
}

std::string label(const TraceGraph &graph, NodeId first, NodeId &last) {
  std::string text;
  for (NodeId id = first;; id = graph[id].next[0]) {
    last = id;
    const Event *event = graph[id].event.get();
    text += event ? escape(event->kind == EventKind::Call ? toString(*event) : event->name()) : "start";
    text += "\\l";
    if (graph[id].next.size() != 1 || graph.startsSegment(graph[id].next[0]))
      return text;
  }
}
} // namespace

std::string toDot(const TraceGraph &graph) {
  std::string text = "digraph TraceGraph {\n  node [shape=record fontname=monospace fontsize=9];\n";
  for (NodeId id = 0; id < graph.size(); ++id) {
    if (id != TraceGraph::kStart && !graph.startsSegment(id))
      continue;
    NodeId last = id;
    text += "  n" + std::to_string(id) + " [label=\"" + label(graph, id, last) + "\"];\n";
    for (NodeId next : graph[last].next)
      text += "  n" + std::to_string(id) + " -> n" + std::to_string(next) + ";\n";
  }
  return text + "}\n";
}

} // namespace terra::graph
