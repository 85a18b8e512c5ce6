// A host without a framework: runs the fake ops on real memory, slowly or with failures when asked to.
#pragma once

#include "FakeOps.h"
#include "runtime/Host.h"
#include "runtime/Run.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <random>
#include <stdexcept>
#include <thread>

namespace terra::fake {

/// Memory full of rubbish, so that reading a result before it is computed shows.
inline runtime::Memory allocate(size_t bytes) {
  void *data = std::malloc(bytes + 1);
  if (!data)
    throw std::bad_alloc();
  std::memset(data, 0xCD, bytes + 1);
  return {data, data, [](void *memory) { std::free(memory); }};
}

class FakeHost : public runtime::Host {
public:
  Generator generator;
  /// The longest random pause before an op; 0: none. Set before anything runs.
  int maxDelayMicros = 0;
  /// The extern op, counted from 0, that fails. -1: none.
  std::atomic<int64_t> failAtExtern{-1};
  std::atomic<int64_t> externs{0};

  explicit FakeHost(uint64_t seed = 0) : random_(seed) {}

  void runExtern(runtime::Run &run, uint32_t index) override {
    passGate();
    pause();
    if (externs.fetch_add(1) == failAtExtern.load())
      throw std::runtime_error("fake host: failure");
    compute(run, index, generator);
  }

  /// As `runExtern`, on any thread: neither held nor late, and without failures.
  static void compute(runtime::Run &run, uint32_t index, Generator &generator) {
    const graph::SegmentEvent &expected = run.segment().events[index];
    const graph::Event &event = *expected.event;
    std::vector<Elements> in, out;
    for (size_t i = 0; i < event.inputs.size(); ++i)
      in.push_back(operand(run, event.inputs[i].meta, expected.inputs[i]));
    std::vector<runtime::Buffer *> promised = giveMemory(run, expected);
    for (size_t i = 0; i < event.results.size(); ++i)
      out.push_back(operand(run, event.results[i].meta, expected.results[i]));
    int64_t extent = out.empty() ? in[0].numel() : out[0].numel();
    fakeOp(event).compute(in, scalarsOf(event, expected.scalarFeeds, run.binding.scalars), out, 0, extent, generator);
    for (runtime::Buffer *buffer : promised)
      buffer->ready();
  }

  runtime::Memory allocate(size_t bytes, Device) override { return fake::allocate(bytes); }

  /// Ranges in an order that no kernel may rely on.
  void parallelFor(int64_t extent, int64_t grain, const std::function<void(int64_t, int64_t)> &body) override {
    for (int64_t end = extent; end > 0; end -= grain)
      body(std::max<int64_t>(0, end - grain), end);
  }

  void enterRun(runtime::Run &) override { passGate(); }

  /// Holds the runner before its next run or extern op until `open`.
  void shut() { setGate(true); }
  void open() { setGate(false); }

private:
  static Elements operand(runtime::Run &run, const TensorMeta &meta, const graph::SlotRef &ref) {
    int64_t offset = ref.offsetFeed == graph::kNever ? meta.offset : run.binding.offsets[ref.offsetFeed];
    return {static_cast<int64_t *>(run.buffer(ref.slot).data()) + offset, &meta};
  }

  static std::vector<runtime::Buffer *> giveMemory(runtime::Run &run, const graph::SegmentEvent &expected) {
    std::vector<runtime::Buffer *> promised;
    for (size_t i = 0; i < expected.results.size(); ++i) {
      if (expected.event->results[i].alias != graph::Alias::Fresh)
        continue;
      runtime::Buffer &buffer = run.made(expected.results[i].slot);
      if (!promised.empty() && promised.back() == &buffer)
        continue;
      buffer.setMemory(fake::allocate(buffer.bytes()));
      promised.push_back(&buffer);
    }
    return promised;
  }

  void pause() {
    if (maxDelayMicros > 0 && random_() % 4 == 0)
      std::this_thread::sleep_for(std::chrono::microseconds(random_() % uint64_t(maxDelayMicros)));
  }

  void passGate() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !shut_; });
  }
  void setGate(bool shut) {
    std::lock_guard lock(mutex_);
    shut_ = shut;
    changed_.notify_all();
  }

  std::mt19937_64 random_; ///< used by the runner's thread only
  std::mutex mutex_;
  std::condition_variable changed_;
  bool shut_ = false;
};

} // namespace terra::fake
