// A recursive lock for sections of a few hundred nanoseconds that are nearly always entered by the same thread.
#pragma once

#include <atomic>
#include <cstdint>

#include <pthread.h>

namespace terra::runtime {

/// Meets the Lockable requirements. An uncontended round trip costs one atomic exchange and one store; a thread that has to wait
/// sleeps (std::atomic::wait).
class RegionLock {
public:
  void lock() {
    // Not the address of a thread-local variable of this header's: each library would have one of its own.
    uintptr_t self = uintptr_t(pthread_self());
    if (owner_.load(std::memory_order_relaxed) == self) {
      ++depth_;
      return;
    }
    uintptr_t none = 0;
    while (!owner_.compare_exchange_weak(none, self, std::memory_order_acquire)) {
      if (none) {
        waiters_.fetch_add(1);
        owner_.wait(none);
        waiters_.fetch_sub(1);
      }
      none = 0;
    }
    depth_ = 1;
  }

  void unlock() {
    if (--depth_ != 0)
      return;
    owner_.store(0); // ordered before the look at waiters_: a waiter either sees it or is seen
    if (waiters_.load() != 0)
      owner_.notify_all();
  }

private:
  std::atomic<uintptr_t> owner_{0}; ///< the thread; 0: none
  std::atomic<int> waiters_{0};
  uint32_t depth_ = 0; ///< of the owner
};

} // namespace terra::runtime
