#include "runtime/GraphRunner.h"

#include "graph/Guards.h"
#include "runtime/Program.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <stdexcept>

#if defined(__linux__)
#include <sys/prctl.h>
#endif

namespace terra::runtime {

using codegen::Instruction;
using codegen::KernelArg;
using codegen::KernelCall;
using graph::kNever;
using Clock = std::chrono::steady_clock;

namespace {

/// A runner that sleeps for good is woken when this many instructions wait for it, a run is closed, or somebody waits: waking
/// costs the Python thread more than several events.
constexpr uint32_t kWakeBatch = 96;
/// Before that it naps once, and looks by itself whether something has been published: only somebody who waits wakes it then.
constexpr std::chrono::microseconds kNap(100);

} // namespace

GraphRunner::GraphRunner(Host &host) : host_(host), thread_([this] { loop(); }) {}

GraphRunner::~GraphRunner() { shutdown(); }

void GraphRunner::submit(const std::shared_ptr<Run> &run) {
  queuedEvents_.fetch_add(run->segment().events.size(), std::memory_order_relaxed);
  {
    std::lock_guard lock(mutex_);
    run->ticket = submitted_.load(std::memory_order_relaxed) + 1;
    queue_.push_back(run);
    submitted_.store(run->ticket, std::memory_order_release);
  }
}

void GraphRunner::publish(Run &run, uint32_t count) {
  run.published.store(count, std::memory_order_seq_cst);
  if (count - run.announced < kWakeBatch)
    return;
  run.announced = count;
  wake(Sleep::Deep);
}

void GraphRunner::close(Run &run) {
  run.closed.store(true, std::memory_order_seq_cst);
  wake(Sleep::Deep);
}

void GraphRunner::wake(Sleep from) {
  if (sleep_.load(std::memory_order_seq_cst) < from)
    return;
  std::lock_guard lock(mutex_);
  work_.notify_one();
}

/// Only somebody who need not wait any more is woken: to wake a thread costs as much as several instructions.
void GraphRunner::wakeWaiters() {
  if (waiters_.load(std::memory_order_seq_cst) == 0)
    return;
  {
    std::lock_guard lock(mutex_);
    if (std::none_of(waiting_.begin(), waiting_.end(), [](const Done *done) { return (*done)(); }))
      return;
  }
  progress_.notify_all();
}

void GraphRunner::wait(const Done &done, const Poll &poll, bool soon) {
  wake(Sleep::Nap);
  if (soon ? waitSpin_.until(done) : done())
    return;
  std::unique_lock lock(mutex_);
  waiting_.push_back(&done);
  waiters_.fetch_add(1, std::memory_order_seq_cst);
  struct Registered {
    GraphRunner &runner;
    std::unique_lock<std::mutex> &lock;
    const Done &done;
    ~Registered() {
      if (!lock.owns_lock())
        lock.lock();
      std::erase(runner.waiting_, &done);
      runner.waiters_.fetch_sub(1, std::memory_order_seq_cst);
    }
  } registered{*this, lock, done};
  while (!done()) {
    progress_.wait_for(lock, std::chrono::milliseconds(20));
    if (poll && !done()) {
      lock.unlock();
      poll();
      lock.lock();
    }
  }
}

void GraphRunner::waitFor(uint64_t ticket, const Poll &poll, bool soon) {
  wait([&] { return completedTicket() >= ticket; }, poll, soon);
}

void GraphRunner::waitFor(Buffer &buffer, const Poll &poll) {
  wait([&] { return buffer.state() != Buffer::State::Pending; }, poll, true);
}

void GraphRunner::shutdown() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    work_.notify_one();
  }
  if (thread_.joinable())
    thread_.join();
}

void GraphRunner::forget() {
  if (thread_.joinable())
    thread_.detach();
  queue_.clear();
  completed_.store(submitted_.load());
  waiting_.clear();
  waiters_.store(0);
  new (&mutex_) std::mutex; // its owner may not exist here
}

/// `lock` is held while `ready` is asked.
template <typename Ready> void GraphRunner::sleepUntil(const Ready &ready, std::unique_lock<std::mutex> &lock) {
  auto fallAsleep = [&](Sleep depth) { // whoever makes `ready` true after this sees how deep the sleep is
    sleep_.store(depth, std::memory_order_seq_cst);
    return !ready();
  };
  if (fallAsleep(Sleep::Nap))
    work_.wait_for(lock, kNap);
  while (fallAsleep(Sleep::Deep))
    work_.wait(lock);
  sleep_.store(Sleep::Awake, std::memory_order_seq_cst);
}

std::shared_ptr<Run> GraphRunner::nextRun() {
  auto available = [this] { return completedTicket() < lastTicket(); };
  idleSpin_.until(available);
  std::unique_lock lock(mutex_);
  sleepUntil([this] { return stop_ || !queue_.empty(); }, lock);
  if (queue_.empty())
    return nullptr;
  std::shared_ptr<Run> run = std::move(queue_.front());
  queue_.pop_front();
  return run;
}

void GraphRunner::loop() {
#if defined(__linux__)
  prctl(PR_SET_TIMERSLACK, 1000); // ns: naps end when they should
#endif
  while (std::shared_ptr<Run> run = nextRun()) {
    execute(*run);
    finish(*run);
  }
}

/// Waits until more than `done` instructions are published. False when the run is closed and there are none.
bool GraphRunner::awaitWork(Run &run, uint32_t done) {
  auto ready = [&] {
    return run.published.load(std::memory_order_seq_cst) > done || run.closed.load(std::memory_order_seq_cst);
  };
  if (!workSpin_.until(ready)) {
    std::unique_lock lock(mutex_);
    sleepUntil(ready, lock);
  }
  return run.published.load(std::memory_order_seq_cst) > done;
}

void GraphRunner::execute(Run &run) {
  host_.enterRun(run);
  for (uint32_t done = 0; awaitWork(run, done);) {
    auto start = Clock::now();
    uint32_t count = run.published.load(std::memory_order_acquire);
    for (; done < count; ++done)
      step(run, done);
    busyNanos_.fetch_add(uint64_t((Clock::now() - start).count()), std::memory_order_relaxed);
  }
  runExterns(run, run.leftover);
}

namespace {

void failOutputs(Run &run, const graph::SegmentEvent &event) {
  for (size_t i = 0; i < event.results.size(); ++i)
    if (event.event->results[i].alias == graph::Alias::Fresh)
      if (Buffer &buffer = run.made(event.results[i].slot); buffer.state() == Buffer::State::Pending)
        buffer.fail(run.failure);
}

bool injectsFailure(const Run &run, const Instruction &instruction) {
  return run.failAt >= 0 && std::find(instruction.events.begin(), instruction.events.end(), uint32_t(run.failAt)) !=
                                instruction.events.end();
}

/// Compiled code computes what eager does, for the values that are there.
bool guardsHold(const Run &run, const Instruction &instruction) {
  return std::all_of(instruction.guarded.begin(), instruction.guarded.end(), [&](uint32_t index) {
    const graph::SegmentEvent &event = run.segment().events[index];
    uint32_t operand = graph::guardedOperand(*event.event);
    const graph::SlotRef &ref = event.inputs[operand];
    const Buffer *buffer = run.buffers[ref.slot].get();
    if (!buffer || buffer->state() != Buffer::State::Ready) // made by the instruction itself
      return false;
    const TensorMeta &meta = event.event->inputs[operand].meta;
    int64_t offset = ref.offsetFeed == kNever ? meta.offset : run.binding.offsets[ref.offsetFeed];
    return graph::guardHolds(*event.event,
                             static_cast<const char *>(buffer->data()) + offset * int64_t(elementSize(meta.dtype)));
  });
}

void *resolve(Run &run, const KernelArg &arg, char *scratch) {
  switch (arg.kind) {
  case KernelArg::Kind::Scalar:
    return &run.binding.scalars[arg.index];
  case KernelArg::Kind::Scratch:
    return scratch + arg.byteOffset;
  case KernelArg::Kind::Number:
    return reinterpret_cast<void *>(arg.byteOffset);
  case KernelArg::Kind::Tensor:
    break;
  }
  int64_t offset = arg.byteOffset;
  if (arg.offsetFeed != kNever)
    offset = run.binding.offsets[arg.offsetFeed] * int64_t(arg.elementSize);
  return static_cast<char *>(run.buffer(arg.slot).data()) + offset;
}

} // namespace

void GraphRunner::recordFailure(Run &run, uint32_t event, std::exception_ptr error) {
  Failure &failure = *run.failure;
  run.failedAt = std::min(run.failedAt, event);
  if (failure.failed.load(std::memory_order_relaxed))
    return; // an earlier event of the program, deferred: the error may have been delivered already
  failure.error = std::move(error);
  failure.op = run.segment().events[event].event->name();
  failure.location = run.segment().events[event].event->location;
  failure.failed.store(true, std::memory_order_release);
  failedTicket_.store(run.ticket, std::memory_order_release);
}

void GraphRunner::step(Run &run, uint32_t index) {
  const Instruction &instruction = run.executable->instructions[index];
  bool whole = instruction.kind == Instruction::Kind::Kernel && !run.unfused[index] &&
               !injectsFailure(run, instruction) && !run.failure->failed.load(std::memory_order_relaxed) &&
               guardsHold(run, instruction);
  if (whole)
    runKernels(run, instruction);
  else if (instruction.kind != Instruction::Kind::Nothing)
    runExterns(run, instruction.events);
  for (uint32_t slot : instruction.releases)
    run.buffers[slot].reset();
  wakeWaiters();
}

void GraphRunner::runExterns(Run &run, const std::vector<uint32_t> &events) {
  for (uint32_t index : events) {
    const graph::SegmentEvent &event = run.segment().events[index];
    if (event.event->onlyMakesViews())
      continue;
    if (!run.failure->failed.load(std::memory_order_relaxed) || (run.failedAt != kNever && index < run.failedAt)) {
      try {
        if (run.failAt == int64_t(index))
          throw std::runtime_error("terra: injected failure");
        host_.runExtern(run, index);
        continue;
      } catch (...) {
        recordFailure(run, index, std::current_exception());
      }
    }
    failOutputs(run, event);
    wakeWaiters();
  }
}

void GraphRunner::runKernels(Run &run, const Instruction &instruction) {
  try {
    for (uint32_t slot : instruction.outputs)
      if (Buffer &buffer = run.made(slot); buffer.state() == Buffer::State::Pending)
        buffer.setMemory(host_.allocate(buffer.bytes(), buffer.device()));
  } catch (...) {
    recordFailure(run, instruction.events.back(), std::current_exception());
    for (uint32_t event : instruction.events)
      failOutputs(run, run.segment().events[event]);
    return;
  }
  for (const KernelCall &call : instruction.kernels)
    runKernel(run, call);
  for (uint32_t slot : instruction.outputs)
    run.buffer(slot).ready();
}

void GraphRunner::runKernel(Run &run, const KernelCall &call) {
  if (scratch_.size() < size_t(call.scratchBytes))
    scratch_.resize(size_t(call.scratchBytes));
  args_.clear();
  for (const KernelArg &arg : call.args)
    args_.push_back(resolve(run, arg, scratch_.data()));
  if (call.serial || call.extent <= call.grain)
    call.fn(args_.data(), 0, call.extent);
  else
    host_.parallelFor(call.extent, call.grain, [&](int64_t begin, int64_t end) { call.fn(args_.data(), begin, end); });
}

void GraphRunner::finish(Run &run) {
  // Promised, but of an instruction that was dropped.
  if (run.failure->failed.load(std::memory_order_acquire))
    for (BufferRef &buffer : run.buffers)
      if (buffer && buffer->state() == Buffer::State::Pending)
        buffer->fail(run.failure);
  run.buffers.clear();
  queuedEvents_.fetch_sub(run.segment().events.size(), std::memory_order_relaxed);
  completed_.store(run.ticket, std::memory_order_release);
  wakeWaiters();
}

} // namespace terra::runtime
