// A recursive lock for sections of a few hundred nanoseconds that are nearly always entered by the same thread.
#pragma once

#include <atomic>
#include <cstdint>

namespace terra::runtime {

/// Meets the Lockable requirements. An uncontended round trip costs one atomic exchange and one store; a thread that has to wait
/// sleeps (std::atomic::wait).
class RegionLock {
public:
  void lock() {
    const void *self = &identity();
    if (owner_.load(std::memory_order_relaxed) == self) {
      ++depth_;
      return;
    }
    const void *none = nullptr;
    while (!owner_.compare_exchange_weak(none, self, std::memory_order_acquire)) {
      if (none) {
        waiters_.fetch_add(1);
        owner_.wait(none);
        waiters_.fetch_sub(1);
      }
      none = nullptr;
    }
    depth_ = 1;
  }

  void unlock() {
    if (--depth_ != 0)
      return;
    owner_.store(nullptr); // ordered before the look at waiters_: a waiter either sees it or is seen
    if (waiters_.load() != 0)
      owner_.notify_all();
  }

private:
  /// Its address names the thread.
  static char &identity() {
    static thread_local char byte;
    return byte;
  }

  std::atomic<const void *> owner_{nullptr};
  std::atomic<int> waiters_{0};
  uint32_t depth_ = 0; ///< of the owner
};

} // namespace terra::runtime
