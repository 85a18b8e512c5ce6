// What a session is told and what it tells.
#pragma once

#include "codegen/Compiler.h"
#include "runtime/Program.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>

namespace terra::runtime {

/// What the frontend does with a call.
enum class SessionAction {
  Recognised, ///< promise the results of `Session::expected()`, then `advance`
  Gate,       ///< settle the operands and run for real; results are real
  Record,     ///< settle the operands, `recorder().begin`, run for real, `recorder().finish`
  Eager       ///< settle the operands and run for real
};

struct SessionOptions {
  codegen::Numerics numerics = codegen::Numerics::Fast;
  bool preciseErrors = false; ///< every op that can fail on data runs as a gate
  bool recordOnly = false;    ///< never co-executes (for measuring)
  bool neverSlower = false;   ///< runs eagerly where that measures faster
  size_t mostNodes = 60'000;  ///< of the graph, before paths of sizes that have not been seen for long are forgotten
};

struct SessionStats {
  uint64_t regionsRecorded = 0, regionsCoexecuted = 0, regionsDiverged = 0, regionsFailed = 0, events = 0, gates = 0;
  uint64_t sideRuns = 0; ///< fetches that did not wait for the queue
  uint64_t survivors = 0;
  uint64_t inherited = 0; ///< times that a segment took over what was known of one of other sizes
  uint64_t spans = 0, spanEvents = 0; ///< calls recognised as a whole, and the events that they stand for
  /// Of backwards with hooks: recognised as a whole, and run node by node.
  uint64_t pieces = 0, piecesStepped = 0;
  double skeletonSeconds = 0, waitSeconds = 0;
};

/// Why and where the program left the graph, with a count.
using Divergences = std::map<std::string, uint64_t>;

/// A span that may come next, and the segment that it belongs to.
struct SpanCandidate {
  std::shared_ptr<CompiledSegment> segment;
  std::shared_ptr<const Span> span;
};

/// Where in the walks of a region the frontend's counter (`Runtime::sequence`) had a value: how many runs ago, in which segment, how
/// far after its start.
struct RunPlace {
  uint64_t runsAgo = 0, offset = 0;
  const CompiledSegment *segment = nullptr;
};

/// The beginning of a run, as `RunPlace` needs it.
struct RunStart {
  uint64_t sequence = 0;
  std::shared_ptr<CompiledSegment> segment;
};

} // namespace terra::runtime
