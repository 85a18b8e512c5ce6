// What a decorated function has learned, as a file: its TraceGraph and what is known of each segment.
#pragma once

#include "graph/Segment.h"
#include "graph/TraceGraph.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace terra::graph {

/// What has to be kept of a segment to compile it again.
struct SegmentRecord {
  std::vector<NodeId> nodes;
  Deaths deaths;            ///< empty while none have been learned: everything is an output
  uint64_t walks = 0;
  std::string compileError; ///< why the compiler gave the segment up; empty when it did not
};

/// The contents of a dump file.
struct Dump {
  std::string function;          ///< its name in the program
  std::string numerics = "fast"; ///< "fast" or "exact"
  TraceGraph graph;
  std::vector<SegmentRecord> segments;
  /// Operators that events of a loaded dump point to: such events must not outlive the dump.
  std::vector<std::unique_ptr<Op>> ops;

  /// Segment number `index`, ready for codegen::compile.
  Segment segment(size_t index) const;
};

/// Puts an opaque argument into words; an empty string where that is not possible.
using DescribeOpaque = std::function<std::string(const Event &event, uint32_t arg)>;

/// The dump as JSON. What belongs to the frontend (`Event::host`) is left out; opaque arguments are kept as words.
std::string serialize(const Dump &dump, const DescribeOpaque &describe = {});

/// The inverse. Throws std::runtime_error, beginning with `name` and saying what is wrong, unless `text` is a whole and unchanged
/// dump of this version; what it returns can be printed, cut into segments and compiled.
Dump deserialize(const std::string &text, const std::string &name);

/// The same with files. Both throw std::runtime_error with the path and the reason.
void save(const Dump &dump, const std::string &path, const DescribeOpaque &describe = {});
Dump load(const std::string &path);

} // namespace terra::graph
