// The thread that runs compiled segments: a first-in-first-out queue of runs, one a process.
#pragma once

#include "runtime/Host.h"
#include "runtime/Run.h"
#include "runtime/Spin.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace terra::runtime {

class GraphRunner {
public:
  /// Called every few milliseconds by waiting threads (checks for signals); may throw to give up waiting.
  using Poll = std::function<void()>;

  explicit GraphRunner(Host &host);
  ~GraphRunner();

  /// Appends a run and gives it its ticket. Instructions are published through the run afterwards.
  void submit(const std::shared_ptr<Run> &run);
  /// Lets the runner execute the run's first `count` instructions.
  void publish(Run &run, uint32_t count);
  void close(Run &run);

  /// Blocks until the run with `ticket`, and everything before it, has been executed. The run must be closed, or be closed by
  /// another thread. With `soon`, spins for a while before it sleeps.
  void waitFor(uint64_t ticket, const Poll &poll, bool soon = true);
  /// Blocks until the buffer is no longer pending. Its instruction must have been published.
  void waitFor(Buffer &buffer, const Poll &poll);
  /// Blocks until nothing is queued.
  void drain(const Poll &poll) { waitFor(lastTicket(), poll); }

  uint64_t lastTicket() const { return submitted_.load(std::memory_order_acquire); }
  uint64_t completedTicket() const { return completed_.load(std::memory_order_acquire); }
  bool idle() const { return completedTicket() == lastTicket(); }
  /// Events of runs that are not finished.
  uint64_t queuedEvents() const { return queuedEvents_.load(std::memory_order_relaxed); }
  /// The last run that failed, until `forgetFailed`; 0: none.
  uint64_t failedTicket() const { return failedTicket_.load(std::memory_order_acquire); }
  void forgetFailed(uint64_t ticket) { failedTicket_.compare_exchange_strong(ticket, 0); }
  double busySeconds() const { return double(busyNanos_.load(std::memory_order_relaxed)) * 1e-9; }

  /// Finishes what is queued and ends the thread. Idempotent. After it nothing may be submitted.
  void shutdown();
  /// In a child after fork: the thread does not exist there.
  void forget();

private:
  using Done = std::function<bool()>;
  enum class Sleep : uint8_t {
    Awake,
    Nap, ///< wakes by itself soon
    Deep
  };

  void loop();
  std::shared_ptr<Run> nextRun();
  void execute(Run &run);
  bool awaitWork(Run &run, uint32_t done);
  void step(Run &run, uint32_t instruction);
  void runKernels(Run &run, const codegen::Instruction &instruction);
  void runKernel(Run &run, const codegen::KernelCall &call);
  void runExterns(Run &run, const std::vector<uint32_t> &events);
  void finish(Run &run);
  void recordFailure(Run &run, uint32_t event, std::exception_ptr error);
  /// Wakes the runner if it sleeps that deeply, or more.
  void wake(Sleep from);
  template <typename Ready> void sleepUntil(const Ready &ready, std::unique_lock<std::mutex> &lock);
  void wakeWaiters();
  void wait(const Done &done, const Poll &poll, bool soon);

  Host &host_;
  std::mutex mutex_;
  std::condition_variable work_, progress_;
  std::deque<std::shared_ptr<Run>> queue_;
  std::atomic<uint64_t> submitted_{0}, completed_{0}, busyNanos_{0}, queuedEvents_{0};
  std::atomic<uint64_t> failedTicket_{0};
  std::atomic<Sleep> sleep_{Sleep::Awake};
  AdaptiveSpin idleSpin_, workSpin_; ///< between runs, between a run's instructions
  AdaptiveSpin waitSpin_; ///< of those who wait for the runner
  std::vector<const Done *> waiting_; ///< what the threads that sleep wait for
  std::atomic<int> waiters_{0}; ///< how many those are
  bool stop_ = false;
  std::vector<void *> args_; ///< of the kernel being called (runner thread)
  std::vector<char> scratch_;
  std::thread thread_;
};

} // namespace terra::runtime
