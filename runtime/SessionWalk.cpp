// One walk through a segment: its events are recognised one by one, their results promised, and what they trigger is handed
// to the GraphRunner, until the segment ends or the walk is flushed.
#include "runtime/Session.h"

#include <algorithm>

namespace terra::runtime {

using codegen::Instruction;
using graph::kNever;
using graph::NodeId;
using graph::TraceGraph;
using tracer::CallView;

namespace {
/// Python may be this many events ahead of the GraphRunner.
constexpr uint64_t kMaxQueuedEvents = 16'384;
} // namespace

void Session::limitRunAhead() {
  GraphRunner &runner = runtime_.runner();
  if (runner.queuedEvents() > kMaxQueuedEvents && runner.lastTicket() > 1)
    runtime_.waitLocked(runner.lastTicket() - 1);
}

bool Session::matchNext(const CallView &call) {
  bool inside = run_ && !run_->recognisedAll;
  if (!inside)
    return enterSegment(call);
  const graph::Segment &segment = run_->segment();
  mismatch_ = tracer::match(segment, position_ + 1, call, run_->binding);
  if (!mismatch_) {
    const graph::Event &event = *segment.events[position_ + 1].event;
    mismatchText_ = tracer::describe(mismatch_, event) + (event.location.empty() ? "" : " at " + event.location);
    return false;
  }
  holdBound();
  last_ = run_->compiled->nodes()[++position_];
  return true;
}

bool Session::enterSegment(const CallView &call) {
  mismatchText_ = std::string(call.op ? call.op->name : "?") + " is new after " +
                  (graph_[last_].event ? std::string(graph_[last_].event->name()) : "the start");
  for (NodeId next : program_.successors(graph_, last_, call)) {
    const std::shared_ptr<CompiledSegment> segment = program_.at(next);
    if (segment && segment->segment().events[0].event->op == call.op &&
        startRun(segment,
                 [&](tracer::Binding &binding) { return tracer::match(segment->segment(), 0, call, binding); })) {
      last_ = next;
      return true;
    }
  }
  return false;
}

bool Session::startRun(const std::shared_ptr<CompiledSegment> &segment, const Match &match) {
  std::shared_ptr<Run> run = spare_ ? std::move(spare_) : std::make_shared<Run>();
  run->binding.reset(segment->segment(), runtime_.newEpoch());
  mismatch_ = match(run->binding);
  if (!mismatch_) {
    const graph::Event &event = *segment->segment().events[0].event;
    mismatchText_ = tracer::describe(mismatch_, event) + (event.location.empty() ? "" : " at " + event.location);
    spare_ = std::move(run);
    return false;
  }
  if (!segment->gate())
    behind_.reset();
  else if (run_ && !run_->compiled->gate())
    behind_ = std::move(run_);
  run_ = std::move(run);
  position_ = 0;
  runtime_.eventIndex.store(0, std::memory_order_relaxed);
  ++runsStarted_;
  run_->compiled = segment;
  segment->noteRegion(last_, stats_.regionsCoexecuted);
  segment->lastUsed = region_;
  noteRunStart();
  if (segment->gate()) {
    run_->recognisedAll = true;
    ++stats_.gates;
    return true;
  }
  takeOver(segment);
  run_->executable = segment->executable();
  run_->buffers.resize(segment->segment().slots.size());
  run_->unfused.assign(run_->executable->instructions.size(), 0);
  run_->failure = failure_;
  run_->failAt = failKernelAt >= 0 ? failKernelAt - int64_t(regionEvents_ - 1) : -1;
  if (segment->learning()) {
    run_->deaths = std::make_shared<DeathTable>(segment->segment().slots.size());
    for (auto &death : *run_->deaths)
      death.store(kNever, std::memory_order_relaxed);
  }
  limitRunAhead();
  runtime_.runner().submit(run_);
  if (segment->random())
    runtime_.noteRandom(run_->ticket);
  holdBound();
  return true;
}

void Session::leaveRun() {
  run_.reset();
  behind_.reset();
}

void Session::holdBound() {
  const graph::Segment &segment = run_->segment();
  if (run_->compiled->gate())
    return;
  for (uint32_t slot : run_->binding.bound) {
    auto *buffer = static_cast<Buffer *>(run_->binding.slots[slot]);
    run_->buffers[slot] = BufferRef::retain(buffer);
    if (run_->compiled->heldForReads(slot))
      run_->heldForReads.emplace_back(slot, BufferRef::retain(buffer));
    buffer->lastUse.store(run_->ticket, std::memory_order_release);
    if (segment.slots[slot].written)
      buffer->lastWrite.store(run_->ticket, std::memory_order_release);
  }
}

void Session::promise(uint32_t slot, Buffer *buffer) {
  buffer->epoch = run_->binding.epoch;
  buffer->slot = slot;
  buffer->graphBorn = true;
  buffer->lastUse.store(run_->ticket, std::memory_order_relaxed);
  if (run_->segment().slots[slot].written)
    buffer->lastWrite.store(run_->ticket, std::memory_order_relaxed);
  if (run_->deaths)
    buffer->noteDeathIn(run_->deaths, slot);
  run_->binding.slots[slot] = buffer;
  run_->buffers[slot] = BufferRef::retain(buffer);
}

void Session::advance() {
  publish(position_);
  if (position_ + 1 != run_->segment().events.size())
    return;
  run_->recognisedAll = true;
  // What the program drops between its last call and the region's end (operands of that call) need not be stored: where nothing
  // else has ever followed and something waits for such a death, or deaths are being learned, the walk ends with the region.
  const auto &next = graph_[last_].next;
  bool endsRegion = next.size() == 1 && next.front() == TraceGraph::kEnd;
  if (!endsRegion || (!run_->deaths && run_->next == run_->executable->instructions.size()))
    finishWalk();
}

void Session::publish(uint32_t position) {
  const auto &instructions = run_->executable->instructions;
  uint32_t next = run_->next;
  std::vector<uint32_t> survivors;
  for (; next < instructions.size() && instructions[next].trigger <= position; ++next)
    for (uint32_t slot : instructions[next].fusedAway)
      if (run_->buffers[slot] && run_->buffers[slot]->alive()) {
        run_->unfused[next] = 1;
        survivors.push_back(slot);
      }
  if (next != run_->next) {
    run_->next = next;
    runtime_.runner().publish(*run_, next);
  }
  if (!survivors.empty()) {
    stats_.survivors += survivors.size();
    if (run_->compiled->survived(survivors))
      compile(run_->compiled);
  }
}

void Session::finishWalk() {
  publish(uint32_t(run_->segment().events.size()));
  if (open())
    runtime_.runner().close(*run_);
  run_->compiled->countWalk();
  if (run_->deaths && run_->compiled->learn(*run_->deaths)) {
    run_->compiled->recordedCalls = {};
    compile(run_->compiled);
  }
}

void Session::compile(const std::shared_ptr<CompiledSegment> &segment) {
  if (options_.numerics == codegen::Numerics::Exact)
    return;
  codegen::CompileOptions options;
  options.numerics = options_.numerics;
  runtime_.compileQueue().submit(segment, options, compileStats_);
}

bool Session::open() const { return run_ && !run_->compiled->gate() && !run_->closed.load(std::memory_order_relaxed); }

bool Session::holdsOpen(uint64_t id, bool byEpoch) const {
  if (mode_ != Mode::CoExecuting || !open())
    return false;
  return byEpoch ? run_->binding.epoch == id : run_->ticket <= id;
}

void Session::flush() {
  if (!open())
    return;
  std::vector<bool> covered(position_ + 1, false);
  for (uint32_t i = 0; i < run_->next; ++i)
    for (uint32_t event : run_->executable->instructions[i].events)
      covered[event] = true;
  for (uint32_t event = 0; event <= position_; ++event)
    if (!covered[event])
      run_->leftover.push_back(event);
  runtime_.runner().close(*run_);
}

} // namespace terra::runtime
