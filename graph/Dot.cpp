#include "graph/Dot.h"

namespace terra::graph {

namespace {
/// For HTML-like labels. Control characters are not allowed there.
std::string escape(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else
      out += (unsigned char)c < 32 || c == 127 ? ' ' : c;
  }
  return out;
}

std::string cell(const std::string &attributes, const std::string &content) {
  return "<tr><td align=\"left\" " + attributes + ">" + content + "</td></tr>";
}
} // namespace

std::string dotQuote(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '\n') {
      out += "\\l";
      continue;
    }
    if (c == '"' || c == '\\')
      out += '\\';
    out += (unsigned char)c < 32 || c == 127 ? ' ' : c;
  }
  return out + "\"";
}

std::string dotDefaults() {
  return "  node [shape=plain fontname=\"monospace\" fontsize=10];\n"
         "  edge [fontname=\"monospace\" fontsize=8 color=\"#555555\"];\n";
}

std::string dotTable(const std::string &id, const std::string &title, const char *color,
                     const std::vector<DotRow> &rows) {
  std::string table = "<table border=\"1\" cellborder=\"0\" cellspacing=\"0\" cellpadding=\"2\">";
  table += cell("bgcolor=\"" + std::string(color) + "\"", "<b>" + escape(title) + "</b>");
  std::string line;
  for (const DotRow &row : rows) {
    if (row.line != line && !row.line.empty())
      table += cell("bgcolor=\"#f2f2f2\"", "<font color=\"#777777\" point-size=\"9\">" + escape(row.line) + "</font>");
    line = row.line;
    table += cell("", row.text.empty() ? " " : escape(row.text));
  }
  return "  " + id + " [label=<" + table + "</table>>];\n";
}

std::string withoutLocation(const Event &event) {
  Event bare = event;
  bare.location.clear();
  return toString(bare);
}

namespace {
/// The rows of the straight run that starts at `first`; `last` becomes its last node.
std::vector<DotRow> rowsFrom(const TraceGraph &graph, NodeId first, NodeId &last) {
  std::vector<DotRow> rows;
  for (NodeId id = first;; id = graph[id].next[0]) {
    last = id;
    if (const Event *event = graph[id].event.get(); event && id != TraceGraph::kEnd)
      rows.push_back({"#" + std::to_string(id) + "  " + withoutLocation(*event), event->location});
    if (graph[id].next.size() != 1 || graph.startsSegment(graph[id].next[0]))
      return rows;
  }
}
} // namespace

std::string dotBody(const TraceGraph &graph, const std::string &prefix) {
  std::string text;
  uint32_t number = 0;
  for (NodeId id = 0; id < graph.size(); ++id) {
    if (id != TraceGraph::kStart && !graph.startsSegment(id))
      continue;
    NodeId last = id;
    std::vector<DotRow> rows = rowsFrom(graph, id, last);
    bool isEnd = id == TraceGraph::kEnd, isGate = !isEnd && graph[id].event && graph[id].event->gate;
    std::string title = id == TraceGraph::kStart ? "start" : isEnd ? "end" : "segment " + std::to_string(number++);
    if (isGate)
      title += " (gate: runs on the Python thread)";
    std::string node = prefix + std::to_string(id);
    text += dotTable(node, title, isGate ? "#f6d5a8" : rows.empty() ? "#d9d9d9" : "#bcd6f0", rows);
    for (NodeId next : graph[last].next)
      text += "  " + node + " -> " + prefix + std::to_string(next) + ";\n";
  }
  return text;
}

std::string toDot(const TraceGraph &graph) {
  return "digraph TraceGraph {\n" + dotDefaults() + dotBody(graph, "n") + "}\n";
}

} // namespace terra::graph
