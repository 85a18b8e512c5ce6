// Recognising several events at once, and learning from a walk which events belong to one call.
#include "runtime/Session.h"
#include "tracer/Dynamic.h"

#include <algorithm>

namespace terra::runtime {

using graph::kNever;
using graph::NodeId;
using tracer::CallView;

namespace {
/// The call would promise results of an op whose sizes depend on data.
bool promisesDynamic(const CompiledSegment &segment, const Span &span) {
  auto first = segment.segment().events.begin() + span.first;
  return std::any_of(first, first + span.count, [](const auto &e) { return e.event->op && e.event->op->isDynamic(); });
}
} // namespace

void Session::addSpans(const graph::Op *op, const std::vector<NodeId> &next,
                       std::vector<SpanCandidate> &candidates) const {
  auto add = [&](const std::shared_ptr<CompiledSegment> &segment, uint32_t position) {
    for (const auto &span : segment->spansAt(position))
      if (span->call.event->op == op && !(tracer::anyDynamic() && promisesDynamic(*segment, *span)))
        candidates.push_back({segment, span});
  };
  if (run_ && !run_->recognisedAll)
    return add(run_->compiled, position_ + 1);
  for (NodeId id : next)
    if (const std::shared_ptr<CompiledSegment> &segment = program_.at(id))
      add(segment, 0);
}

void Session::spansNext(const graph::Op *op, std::vector<SpanCandidate> &candidates) const {
  candidates.clear();
  if (mode_ == Mode::CoExecuting)
    addSpans(op, graph_[last_].next, candidates);
}

void Session::spansNext(const CallView &call, std::vector<SpanCandidate> &candidates) {
  candidates.clear();
  if (mode_ != Mode::CoExecuting)
    return;
  if (run_ && !run_->recognisedAll)
    addSpans(call.op, {}, candidates);
  else
    addSpans(call.op, program_.successors(graph_, last_, call), candidates);
}

bool Session::enterSpan(const SpanCandidate &candidate, const CallView &call) {
  const Span &span = *candidate.span;
  auto within = [&](int64_t event) {
    return event >= int64_t(regionEvents_) && event < int64_t(regionEvents_ + span.count);
  };
  // A test wants the events one by one here.
  if (within(forceDivergenceAt))
    return false;
  throwIfFailed();
  if (mode_ != Mode::CoExecuting)
    return false;
  bool inside = run_ && !run_->recognisedAll;
  ++regionEvents_;
  if (inside) {
    bool here = run_->compiled == candidate.segment && position_ + 1 == span.first;
    if (!here || !tracer::matchSpan(run_->segment(), span.call, call, run_->binding)) {
      --regionEvents_;
      return false;
    }
    holdBound();
  } else {
    auto match = [&](tracer::Binding &binding) {
      return tracer::matchSpan(candidate.segment->segment(), span.call, call, binding);
    };
    if (!startRun(candidate.segment, match)) {
      --regionEvents_;
      return false;
    }
  }
  ++stats_.spans;
  stats_.spanEvents += span.count;
  regionEvents_ += span.count - 1;
  position_ = span.last();
  last_ = run_->compiled->nodes()[position_];
  // What the call drops is dead when its last event's instructions are enqueued.
  runtime_.eventIndex.store(position_ - 1, std::memory_order_relaxed);
  return true;
}

void Session::leaveSpan(const Span &span) {
  if (run_->deaths)
    for (uint32_t event = span.first; event <= span.last(); ++event)
      for (const graph::SlotRef &result : run_->segment().events[event].results)
        if (result.slot != kNever && !run_->segment().slots[result.slot].external && !run_->buffers[result.slot])
          (*run_->deaths)[result.slot].store(span.last(), std::memory_order_relaxed);
  advance();
  // What the program drops now was alive then.
  runtime_.eventIndex.store(span.last(), std::memory_order_relaxed);
}

void Session::noteRunStart() {
  constexpr size_t kRemembered = 64;
  if (!runtime_.sequence)
    return;
  runStarts_.push_back({runtime_.sequence(), run_->compiled});
  if (runStarts_.size() > kRemembered)
    runStarts_.pop_front();
}

std::optional<RunPlace> Session::runAt(uint64_t sequence) const {
  for (size_t ago = 0; ago < runStarts_.size(); ++ago)
    if (const RunStart &start = runStarts_[runStarts_.size() - 1 - ago]; start.sequence <= sequence)
      return RunPlace{ago, sequence - start.sequence, start.segment.get()};
  return std::nullopt;
}

void Session::lend(uint32_t slot, Buffer *buffer) {
  promise(slot, buffer);
  run_->binding.bound.clear();
}

bool Session::mayLearnSpan() const {
  std::lock_guard guard(runtime_.lock());
  SpanMark mark = markSpan();
  bool fork = !mark.inside && mark.segment && graph_[last_].next.size() > 1; // a path that is new may begin here
  return fork || (mark.segment && mark.segment->mayLearnSpan(mark.first));
}

void Session::learnSpan(const SpanMark &mark, const std::shared_ptr<const Span> &span, const CompleteSpan &learn) {
  std::lock_guard guard(runtime_.lock());
  // The recording may have begun with this very call.
  bool leftHere = runtime_.carrySpans && mode_ == Mode::Recording && mark.divergences + 1 == stats_.regionsDiverged &&
                  mark.gates == stats_.gates && mark.runs == runsStarted_ &&
                  (mark.inside ? left_ == mark.segment && left_->nodes()[mark.first - 1] == last_ : !left_);
  if (mark.recording || leftHere)
    return recordCall(leftHere ? SpanMark{{}, {}, 0, false, 0, 0, 0, recording_} : mark, span, learn);
  std::optional<SpanRange> range = spanSince(mark);
  if (range && learn(*range))
    range->segment->addSpan(span);
  else if (mark.segment && nothingSince(mark))
    mark.segment->noteEmptySpan(mark.first);
  else if (mark.segment)
    (range ? range->segment : mark.segment)->refuseSpan(mark.first);
}

SpanMark Session::markSpan() const {
  std::lock_guard guard(runtime_.lock()); // another thread may flush the walk
  SpanMark mark;
  if (mode_ == Mode::Recording) {
    mark.recording = recording_;
    mark.first = uint32_t(recorder_.size());
  }
  if (mode_ != Mode::CoExecuting)
    return mark;
  mark.inside = run_ && !run_->recognisedAll;
  mark.run = run_;
  mark.first = mark.inside ? position_ + 1 : 0;
  if (mark.inside)
    mark.segment = run_->compiled;
  else if (const auto &next = graph_[last_].next; !next.empty()) {
    // Which of them it will be is not known yet. One that is not given up speaks for all.
    auto mayLearn = [&](NodeId id) { return program_.at(id) && program_.at(id)->mayLearnSpan(0); };
    auto found = std::find_if(next.begin(), next.end(), mayLearn);
    mark.segment = program_.at(found == next.end() ? next.front() : *found);
  }
  mark.runs = runsStarted_;
  mark.gates = stats_.gates;
  mark.divergences = stats_.regionsDiverged;
  return mark;
}

bool Session::nothingSince(const SpanMark &mark) const {
  std::lock_guard guard(runtime_.lock());
  bool inside = run_ && !run_->recognisedAll;
  return mode_ == Mode::CoExecuting && mark.divergences == stats_.regionsDiverged && mark.gates == stats_.gates &&
         mark.runs == runsStarted_ && mark.inside == inside && (!inside || position_ + 1 == mark.first);
}

/// Nothing when the walk left the segment or the graph, or data was looked at.
std::optional<SpanRange> Session::spanSince(const SpanMark &mark) const {
  bool straight = mode_ == Mode::CoExecuting && run_ && !run_->compiled->gate() &&
                  mark.divergences == stats_.regionsDiverged && mark.gates == stats_.gates &&
                  (mark.inside ? run_ == mark.run : run_ != mark.run && runsStarted_ == mark.runs + 1);
  if (!straight || position_ + 1 <= mark.first)
    return std::nullopt;
  return SpanRange{run_->compiled, run_.get(), mark.first, position_ + 1 - mark.first, run_->binding.epoch};
}

} // namespace terra::runtime
