// Which function is being compared with eager.
#pragma once

#include <atomic>
#include <cstdint>

namespace terra::runtime {

/// One function at a time: while another one changes its way too, waits move from one to the other and neither can be judged. A
/// function that is not called any more loses its turn.
class PaceTurn {
public:
  /// A call of `function` begins. True when it has the turn or can have it.
  bool free(const void *function) {
    uint64_t call = calls_.fetch_add(1, std::memory_order_relaxed);
    const void *holder = holder_.load(std::memory_order_relaxed);
    if (holder == function)
      seen_.store(call, std::memory_order_relaxed);
    return !holder || holder == function || call > seen_.load(std::memory_order_relaxed) + kForgotten;
  }
  bool has(const void *function) const { return holder_.load(std::memory_order_relaxed) == function; }
  void take(const void *function) {
    seen_.store(calls_.load(std::memory_order_relaxed), std::memory_order_relaxed);
    holder_.store(function, std::memory_order_relaxed);
  }
  void release(const void *function) { holder_.compare_exchange_strong(function, nullptr, std::memory_order_relaxed); }

  static constexpr uint64_t kForgotten = 1000; ///< calls of other functions

private:
  std::atomic<const void *> holder_{nullptr};
  std::atomic<uint64_t> calls_{0}, seen_{0};
};

} // namespace terra::runtime
