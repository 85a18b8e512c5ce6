// A TraceGraph cut into segments, and what is known and compiled of each.
#pragma once

#include "codegen/Compiler.h"
#include "graph/TraceGraph.h"
#include "runtime/Run.h"
#include "runtime/SideRun.h"
#include "runtime/Span.h"
#include "tracer/CallView.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace terra::runtime {

/// A segment, the deaths learned from its first co-executed runs, and its newest executable.
class CompiledSegment {
public:
  CompiledSegment(std::vector<graph::NodeId> nodes, graph::Segment segment);

  const graph::Segment &segment() const { return segment_; }
  const std::vector<graph::NodeId> &nodes() const { return nodes_; }
  bool gate() const { return gate_; }
  /// Some event draws from the default generator.
  bool random() const { return random_; }

  std::shared_ptr<const codegen::Executable> executable() const;
  void setExecutable(std::shared_ptr<const codegen::Executable> executable);
  bool compiled() const { return compiled_.load(std::memory_order_acquire); }

  /// Deaths are learned for this many whole walks, then compilation is due.
  static constexpr uint32_t kLearningWalks = 2;
  bool learning() const { return walks_ < kLearningWalks; }
  /// After a whole walk (Python thread): what died stays dead only if it died every time. True when compilation is due.
  bool learn(const DeathTable &deaths);
  /// An instruction found a value alive that never had been: it is an output from now on. True when recompilation is due.
  bool survived(const std::vector<uint32_t> &slots);
  graph::Deaths deaths() const;

  /// Why the compiler gave the segment up, in its words; empty when it did not.
  std::string compileError() const;
  void setCompileError(std::string error);

  /// Spans that begin at `event` (Python thread). The newest come first.
  const std::vector<std::shared_ptr<const Span>> &spansAt(uint32_t event) const { return spans_[event]; }
  /// Keeps a few alternatives at an event and drops the oldest. What was learned about deaths is learned anew: values that a span
  /// hides die otherwise than those that Python holds.
  void addSpan(std::shared_ptr<const Span> span);
  /// A few attempts to learn a span at an event are enough.
  bool mayLearnSpan(uint32_t event) const {
    return event < attempts_.size() && attempts_[event].failed < 6 && attempts_[event].empty < 12;
  }
  void refuseSpan(uint32_t event) { attempts_[event].failed += 2; }
  /// A call before the event caused none.
  void noteEmptySpan(uint32_t event) { ++attempts_[event].empty; }

  /// How many regions had been co-executed when the last one came through here.
  uint64_t lastRegion = 0;
  /// The same for those that came from the node `from`; 0 when none did.
  uint64_t lastRegionFrom(graph::NodeId from) const;
  void noteRegion(graph::NodeId from, uint64_t region);
  /// Number of the region that came through here last, or recorded it.
  uint64_t lastUsed = 0;

  /// Equal for segments that differ in sizes only (graph::structureHash).
  uint64_t structure() const { return structure_; }
  /// Calls that were recorded with the segment, until what they are for has been learned or taken over.
  std::vector<RecordedCall> recordedCalls;
  /// How much has been learned: grows with each span and, after them, with each walk that taught deaths.
  uint64_t progress() const;
  /// Takes over what a segment of other sizes has learned.
  void inherit(const CompiledSegment &other, std::vector<std::vector<std::shared_ptr<const Span>>> spans);
  const std::vector<std::vector<std::shared_ptr<const Span>>> &spans() const { return spans_; }
  /// What the last segment whose knowledge was to be taken over knew.
  uint64_t lastInherited = 0;
  /// The number by which the graph knows the nodes has changed.
  void renumber(const std::vector<graph::NodeId> &numbers);

  /// What computes `slot` for a read; null where only the whole segment does (Python thread). From the first time on runs hold on
  /// to what it reads.
  const Slice *sliceFor(uint32_t slot);
  bool heldForReads(uint32_t slot) const { return !heldForReads_.empty() && heldForReads_[slot]; }

  uint64_t walks() const { return totalWalks_; }
  void countWalk() { ++totalWalks_; }

private:
  std::vector<graph::NodeId> nodes_;
  std::vector<std::pair<graph::NodeId, uint64_t>> regionsFrom_;
  graph::Segment segment_;
  bool gate_ = false, random_ = false;
  uint64_t structure_ = 0;
  mutable std::mutex mutex_;
  std::shared_ptr<const codegen::Executable> executable_;
  std::atomic<bool> compiled_{false};
  std::string compileError_;
  graph::Deaths deaths_;
  uint32_t walks_ = 0, recompilations_ = 0, relearned_ = 0;
  std::vector<std::vector<std::shared_ptr<const Span>>> spans_; ///< by first event
  struct Attempts {
    uint8_t failed = 0, empty = 0;
  };
  std::vector<Attempts> attempts_;
  uint64_t totalWalks_ = 0;
  std::unordered_map<uint32_t, std::optional<Slice>> slices_; ///< by slot
  std::vector<bool> heldForReads_;
};

/// The segments of one version of a TraceGraph. Segments whose events did not change are taken over from the last version.
class Program {
public:
  void rebuild(const graph::TraceGraph &graph);
  /// After nodes were dropped; `rebuild` comes next.
  void renumber(const std::vector<graph::NodeId> &numbers, size_t size);

  using Family = std::vector<std::shared_ptr<CompiledSegment>>;
  /// All segments that differ from this one in sizes only, itself included.
  const Family &family(const CompiledSegment &segment) const;
  const std::unordered_map<uint64_t, Family> &families() const { return families_; }

  /// Where many paths part: the successors of `node` whose first event may be `call`, or that have a span which may be.
  std::vector<graph::NodeId> successors(const graph::TraceGraph &graph, graph::NodeId node,
                                        const tracer::CallView &call);

  /// The segment that starts at `node`, or null (the start and the end of a region have none).
  const std::shared_ptr<CompiledSegment> &at(graph::NodeId node) const { return byNode_[node]; }
  std::vector<std::shared_ptr<CompiledSegment>> segments() const;

private:
  /// By callKey.
  struct Fork {
    uint64_t spansSeen = 0;
    std::unordered_multimap<uint64_t, graph::NodeId> byCall;
  };

  std::vector<std::shared_ptr<CompiledSegment>> byNode_;
  std::unordered_map<uint64_t, Family> families_; ///< by structure
  std::unordered_map<graph::NodeId, Fork> forks_;
};

} // namespace terra::runtime
