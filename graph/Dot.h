// Pieces of Graphviz source that every picture of Terra is made of.
#pragma once

#include "graph/TraceGraph.h"

#include <string>
#include <string_view>
#include <vector>

namespace terra::graph {

/// One line of a node. `line` is where in the program it comes from: written once above all neighbours that share it.
struct DotRow {
  std::string text, line;
};

/// The statement of a node drawn as a table with a coloured title.
std::string dotTable(const std::string &id, const std::string &title, const char *color,
                     const std::vector<DotRow> &rows);

/// A quoted string for labels outside of tables.
std::string dotQuote(std::string_view text);

/// Attributes of nodes and edges, the first statement of every picture.
std::string dotDefaults();

/// The statements of `toDot(graph)`, for use inside of a larger picture; names begin with `prefix`.
std::string dotBody(const TraceGraph &graph, const std::string &prefix);

/// An event without its location: what is done to what.
std::string withoutLocation(const Event &event);

} // namespace terra::graph
