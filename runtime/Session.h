// One decorated function: what it has learned, and what it is doing now.
#pragma once

#include "runtime/Pacing.h"
#include "runtime/RunAhead.h"
#include "runtime/Runtime.h"
#include "runtime/SessionTypes.h"
#include "runtime/Wholes.h"
#include "tracer/Merge.h"
#include "tracer/Recorder.h"

#include <deque>
#include <functional>
#include <optional>

namespace terra::runtime {

class Session {
public:
  using Action = SessionAction;

  Session(Runtime &runtime, SessionOptions options);
  ~Session();

  /// Begins a region on this thread. False when a region is active already: the call runs as eager.
  bool enter();
  /// Ends it; `raised`: an exception is leaving the region.
  void exit(bool raised);

  /// The one switch. Throws the region's error when queued work failed.
  Action onCall(const tracer::CallView &call);
  /// Data (null: the default generator) is about to be looked at without an op.
  void onRead(const tracer::TensorView *tensor);

  /// After Recognised: the event and the run whose buffers take its results.
  const graph::SegmentEvent &expected() const { return run_->segment().events[position_]; }
  Run &run() { return *run_; }
  /// After Gate: what computes the promised `buffer` here and now, instead of waiting for it.
  std::optional<SideRun> sideRunFor(const Buffer &buffer);
  /// Gives slot `slot` of the run a buffer promised by the event under way.
  void promise(uint32_t slot, Buffer *buffer);
  /// The event is complete: publish what it triggers.
  void advance();

  /// The spans of `op` that may come next, or those that `call` may be: of its operands only the sizes are looked at, if at all.
  void spansNext(const graph::Op *op, std::vector<SpanCandidate> &candidates) const;
  void spansNext(const tracer::CallView &call, std::vector<SpanCandidate> &candidates);
  /// Recognises all events of a candidate when `call` fits it: promise its results, then `leaveSpan`. Else nothing has changed.
  bool enterSpan(const SpanCandidate &candidate, const tracer::CallView &call);
  void leaveSpan(const Span &span);
  /// Between `enterSpan` and `leaveSpan`: memory of the caller's for an external slot that the call makes for itself.
  void lend(uint32_t slot, Buffer *buffer);
  /// Where the walk is now. This and the three that follow take the runtime's lock; the others need it held.
  SpanMark markSpan() const;
  bool nothingSince(const SpanMark &mark) const; ///< no event has passed
  /// False where calls have been watched in vain before.
  bool mayLearnSpan() const;
  /// Keeps `span` when `learn` completes it from what was recognised since the mark, or notes that the call was watched in vain.
  void learnSpan(const SpanMark &mark, const std::shared_ptr<const Span> &span, const CompleteSpan &learn);
  /// Nothing when it was before the region or too long ago.
  std::optional<RunPlace> runAt(uint64_t sequence) const;
  KnownWholes &wholes() { return wholes_; }
  bool coExecuting() const { return mode_ == Mode::CoExecuting; }
  /// Calls are worth watching while they are recorded: they may be like calls that are known, with other sizes.
  bool recordsCalls() const;

  /// Number of the region under way. A buffer that carries it has been touched by one of its events.
  uint64_t region() const { return region_; }
  tracer::Recorder &recorder() { return recorder_; }
  bool recording() const { return mode_ == Mode::Recording; }
  /// Locations are worth their cost while the function is new.
  bool wantsLocations() const { return stats_.regionsRecorded < 8; }

  /// Leaves the graph in the middle of a segment and goes on recording (an unexpected read, another thread).
  void interrupt(const std::string &reason = "data was read in the middle of a segment");
  /// The rest of the region runs as eager and is not learned.
  void abandon();
  /// True when the run with this ticket (or epoch) is being walked.
  bool holdsOpen(uint64_t id, bool byEpoch) const;

  Pacing &pacing() { return pacing_; }
  const SessionOptions &options() const { return options_; }
  void setMostNodes(size_t nodes) { options_.mostNodes = nodes; }
  SessionStats stats() const { return stats_; }
  const Divergences &divergences() const { return divergences_; }
  void notePiece(bool recognised) { ++(recognised ? stats_.pieces : stats_.piecesStepped); }
  void noteLeft(const char *reason) { ++leftBackwards_[reason]; } ///< a backward, to the host's engine
  const Divergences &leftBackwards() const { return leftBackwards_; }
  const CompileStats &compileStats() const { return *compileStats_; }
  void setCompileBudget(double seconds) { compileStats_->budgetSeconds.store(seconds); }
  void waitCompiled() { runtime_.compileQueue().waitFor(*compileStats_); }
  const graph::TraceGraph &graph() const { return graph_; }
  const Program &program() const { return program_; }
  /// Of how many sizes the segment is known that is known with most.
  size_t specialisations() const;

  /// For tests: the event under way, a gate, is the one that has to fail.
  bool failsGate() const { return failKernelAt >= 0 && failKernelAt == int64_t(regionEvents_) - 1; }
  /// For tests: at this event of the next region, diverge, or make its execution fail. -1: never.
  int64_t forceDivergenceAt = -1, failKernelAt = -1;

private:
  enum class Mode { Idle, CoExecuting, Recording, Eager };

  bool matchNext(const tracer::CallView &call);
  bool enterSegment(const tracer::CallView &call);
  using Match = std::function<tracer::MatchResult(tracer::Binding &)>;
  bool startRun(const std::shared_ptr<CompiledSegment> &segment, const Match &match);
  void noteRunStart();
  std::optional<SpanRange> spanSince(const SpanMark &mark) const;
  void holdBound();
  void leaveRun();
  /// Hands the runner what is due once the events up to `position` have passed.
  void publish(uint32_t position);
  bool open() const; ///< the runner waits for more of `run_`
  void finishWalk();
  void flush();
  void diverge(const std::string &reason);
  void startRecording(uint64_t left);
  void makeRoom();
  bool maySpareMemory() const;
  void merge();
  void rest();
  tracer::StoragePairs knownStorages() const;
  bool repeats();
  bool rejoin(const tracer::CallView &call);
  void coexecuteFrom(graph::NodeId last);
  void limitRunAhead();
  void addSpans(const graph::Op *op, const std::vector<graph::NodeId> &next,
                std::vector<SpanCandidate> &candidates) const;
  void recordCall(const SpanMark &mark, const std::shared_ptr<const Span> &span, const CompleteSpan &learn);
  bool generaliseLikeOthers(const CompiledSegment &segment);
  void carryOver(const tracer::MergeResult &result);
  void attachCalls(const tracer::MergeResult &result);
  void takeOver(const std::shared_ptr<CompiledSegment> &segment);
  void forgetSizes();
  void dropUnreachable(std::vector<bool> &dropped, const std::function<void(const CompiledSegment &)> &drop);
  bool hasColdPaths() const;
  void forgetColdPaths();
  void compile(const std::shared_ptr<CompiledSegment> &segment);
  void throwIfFailed();
  void endRegion();

  Runtime &runtime_;
  SessionOptions options_;
  graph::TraceGraph graph_;
  Program program_;
  KnownWholes wholes_;
  tracer::Recorder recorder_;
  Pacing pacing_{runtime_, *this};
  SessionStats stats_;
  Divergences divergences_, leftBackwards_;
  std::shared_ptr<CompileStats> compileStats_ = std::make_shared<CompileStats>();

  std::atomic<Mode> mode_ = Mode::Idle; ///< others may make it leave the graph; written under the runtime's lock
  std::shared_ptr<Run> run_; ///< being walked, or just walked
  std::shared_ptr<Run> behind_; ///< the one before it, which a gate follows
  std::shared_ptr<Run> spare_; ///< a candidate that did not match
  uint32_t position_ = 0; ///< last recognised event of `run_`
  graph::NodeId last_ = graph::TraceGraph::kStart; ///< last node of the graph that was passed
  std::shared_ptr<CompiledSegment> left_; ///< the segment in which recording began
  tracer::MatchResult mismatch_;
  std::string mismatchText_;
  std::shared_ptr<Failure> failure_;
  RunAhead ahead_;
  uint64_t region_ = 0, regionEvents_ = 0, runsStarted_ = 0;
  std::deque<RunStart> runStarts_; ///< of this region, the last ones
  double enteredAt_ = 0, waitedAtEnter_ = 0;
  uint32_t fruitless_ = 0; ///< recordings that no co-executed regions have made up for
  uint64_t rest_ = 2000; ///< calls that are run eagerly when it has become too much
  uint64_t stable_ = 0, stableBefore_ = 0; ///< co-executed regions in a row, and those before the last divergence
  uint64_t recording_ = 0; ///< number of the last recording
  std::vector<RecordedCall> recordedCalls_; ///< of the recording under way
  uint64_t patience_ = 8; ///< so many, and paths that nobody takes are forgotten
  std::vector<graph::NodeId> loopHeads_; ///< where a loop inside a region begins its next turn
  size_t nextLoopCheck_ = 0; ///< length of the recording at which it is searched for repetition
};

} // namespace terra::runtime
