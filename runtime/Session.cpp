// Recording, co-executing, diverging: the state machine of a decorated function.
//
// A region starts at the graph's start node. While the next event matches, it is *recognised*: the frontend hands out
// promises, and the instructions that it triggers go to the GraphRunner. Once an event matches nothing, the walk is
// flushed (what was recognised is computed, nothing else), the region goes on eagerly and is recorded; at its end the new events are
// merged into the graph after the last node that was passed, and the next call knows the path.
#include "runtime/Session.h"

#include "runtime/BlockCache.h"

#include <algorithm>
#include <chrono>

namespace terra::runtime {

using graph::NodeId;
using graph::TraceGraph;
using tracer::CallView;

namespace {
double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// A function whose regions hardly ever repeat runs eagerly for a while, then ever longer: recording costs.
constexpr uint32_t kMaxFruitless = 200, kFruitlessAfterRest = 160;
constexpr uint32_t kWorthOfOne = 16; ///< recordings that a co-executed region makes up for
constexpr size_t kMaxNodes = 200'000;

/// A recording of this length is searched for repetition, and again whenever it has grown by half.
constexpr size_t kFirstLoopCheck = 2 * tracer::kLeastRepetition;
/// A region that goes on this long without repeating runs on as eager.
constexpr size_t kMaxRecording = 500'000;
/// Divergences after which the memory that is kept for the graph is given back; later only after so many calls without one.
constexpr uint64_t kMostTrims = 8, kStableForTrim = 64;
} // namespace

Session::Session(Runtime &runtime, SessionOptions options) : runtime_(runtime), options_(options) {}

Session::~Session() {
  if (runtime_.active() == this)
    runtime_.deactivate();
}

bool Session::enter() {
  for (const auto &failure : runtime_.takeUndelivered())
    failure->deliver();
  if (!runtime_.activate(this))
    return false;
  GraphRunner &runner = runtime_.runner();
  try {
    runtime_.wait(ahead_.enter(runner.lastTicket(), runner.completedTicket(), runner.busySeconds()));
  } catch (...) {
    runtime_.deactivate();
    throw;
  }
  std::lock_guard guard(runtime_.lock());
  region_ = runtime_.newEpoch();
  failure_ = std::make_shared<Failure>();
  runtime_.keepFailure(failure_);
  leaveRun();
  runStarts_.clear();
  last_ = TraceGraph::kStart;
  regionEvents_ = 0;
  enteredAt_ = now();
  waitedAtEnter_ = Runtime::waitedSeconds();
  if (graph_.size() > kMaxNodes)
    mode_ = Mode::Eager;
  else if (options_.recordOnly || graph_[TraceGraph::kStart].next.empty()) {
    startRecording(0);
    makeRoom();
  } else
    mode_ = Mode::CoExecuting;
  return true;
}

void Session::startRecording(uint64_t left) {
  mode_ = Mode::Recording;
  nextLoopCheck_ = kFirstLoopCheck;
  recording_ = runtime_.newEpoch();
  recordedCalls_.clear();
  recorder_.start(recording_, left);
}

Session::Action Session::onCall(const CallView &call) {
  throwIfFailed();
  runtime_.eventIndex.store(position_ + 1, std::memory_order_relaxed);
  ++regionEvents_;
  if (mode_ == Mode::CoExecuting) {
    if (int64_t(regionEvents_) - 1 == forceDivergenceAt) {
      forceDivergenceAt = -1;
      diverge("divergence forced by a test");
    } else if (matchNext(call)) {
      return run_->compiled->gate() ? Action::Gate : Action::Recognised;
    } else {
      diverge(mismatchText_.empty() ? tracer::describe(mismatch_, *graph_[last_].event) : mismatchText_);
    }
    throwIfFailed();
  }
  if (mode_ == Mode::Recording && !options_.recordOnly && (repeats() || rejoin(call)))
    if (matchNext(call))
      return run_->compiled->gate() ? Action::Gate : Action::Recognised;
  if (mode_ == Mode::CoExecuting)
    diverge("a loop ended as soon as it had been learned");
  if (recorder_.size() > kMaxRecording)
    mode_ = Mode::Eager;
  return mode_ == Mode::Recording ? Action::Record : Action::Eager;
}

void Session::abandon() {
  leaveRun();
  left_.reset();
  recorder_.clear();
  mode_ = Mode::Eager;
}

void Session::interrupt(const std::string &reason) {
  if (open() && run_->recognisedAll)
    finishWalk();
  else
    diverge(reason);
}

void Session::diverge(const std::string &reason) {
  if (mode_ != Mode::CoExecuting)
    return;
  flush();
  stableBefore_ = std::exchange(stable_, 0);
  ++stats_.regionsDiverged;
  ++divergences_[reason];
  bool inside = run_ && !run_->recognisedAll;
  left_ = inside ? run_->compiled : nullptr;
  startRecording(inside ? run_->binding.epoch : 0);
  leaveRun();
  makeRoom();
}

/// The rest of the region is eager's, with memory from PyTorch's allocator: kept as well, the graph's would be a higher peak than
/// either. Where calls leave the graph all the time, pages that are new each time would cost more.
void Session::makeRoom() {
  runtime_.waitLocked(runtime_.runner().lastTicket());
  if (maySpareMemory())
    BlockCache::get().trim();
}

bool Session::maySpareMemory() const { return stats_.regionsDiverged <= kMostTrims || stableBefore_ >= kStableForTrim; }

void Session::onRead(const tracer::TensorView *tensor) {
  throwIfFailed();
  if (mode_ == Mode::CoExecuting) {
    if (!run_ || run_->recognisedAll)
      for (NodeId next : graph_[last_].next) {
        const graph::Event &event = *graph_[next].event;
        if (event.kind != graph::EventKind::Read || event.inputs.size() != size_t(tensor != nullptr))
          continue;
        last_ = next;
        ++stats_.gates;
        return;
      }
    diverge(tensor ? "the data of a tensor was read here for the first time"
                   : "the random number generator was accessed here for the first time");
  }
  if (mode_ == Mode::Recording)
    recorder_.read(tensor);
}

void Session::throwIfFailed() {
  if (!failure_ || !failure_->failed.load(std::memory_order_acquire))
    return;
  flush();
  runtime_.waitLocked(runtime_.runner().lastTicket());
  if (mode_ == Mode::CoExecuting || mode_ == Mode::Recording)
    mode_ = Mode::Eager; // the exception may be caught by the program: the region goes on, unlearned
  leaveRun();
  auto failure = std::exchange(failure_, std::make_shared<Failure>());
  ++stats_.regionsFailed;
  if (!failure->delivered.load())
    failure->deliver();
}

void Session::exit(bool raised) {
  std::lock_guard guard(runtime_.lock());
  struct End {
    Session &session;
    ~End() { session.endRegion(); }
  } end{*this};
  if (raised) {
    flush();
    return;
  }
  throwIfFailed();
  if (mode_ == Mode::CoExecuting) {
    const auto &next = graph_[last_].next;
    bool whole = (!run_ || run_->recognisedAll) && std::find(next.begin(), next.end(), TraceGraph::kEnd) != next.end();
    if (whole) {
      if (open())
        finishWalk();
      ++stats_.regionsCoexecuted;
      fruitless_ -= std::min(fruitless_, kWorthOfOne);
      if (++stable_ == patience_ && hasColdPaths())
        forgetColdPaths();
      return;
    }
    diverge("the region ended earlier than before");
  }
  if (mode_ != Mode::Recording)
    return;
  recorder_.end();
  ++stats_.regionsRecorded;
  if (++fruitless_ > kMaxFruitless)
    rest();
  merge();
  if (maySpareMemory())
    trimHeap();
}

void Session::rest() {
  pacing_.forceEager(rest_);
  rest_ *= 4;
  fruitless_ = kFruitlessAfterRest;
}

tracer::StoragePairs Session::knownStorages() const {
  tracer::StoragePairs known;
  if (left_)
    for (auto [slot, storage] : recorder_.known())
      known.emplace_back(left_->segment().slots[slot].storage, storage);
  return known;
}

void Session::merge() {
  tracer::MergeResult result = tracer::merge(graph_, last_, knownStorages(), recorder_.events());
  if (!result.changed)
    fruitless_ = 0;
  if (!options_.recordOnly && result.changed)
    program_.rebuild(graph_);
  if (!options_.recordOnly && result.newNodes > 0) {
    carryOver(result);
    forgetSizes();
  }
  recorder_.clear();
  left_.reset();
}

void Session::endRegion() {
  mode_ = Mode::Idle;
  stats_.events += regionEvents_;
  stats_.waitSeconds += Runtime::waitedSeconds() - waitedAtEnter_;
  stats_.skeletonSeconds += now() - enteredAt_ - (Runtime::waitedSeconds() - waitedAtEnter_);
  failKernelAt = -1;
  leaveRun();
  left_.reset();
  runtime_.deactivate();
}

} // namespace terra::runtime
