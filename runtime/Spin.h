// Waiting without sleeping, for as long as that has paid.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace terra::runtime {

/// Spins before a thread sleeps: to sleep and be woken costs several times 10 µs on both sides. How long it spins follows what it
/// has seen: longer after a wait that nearly outlasted it, half as long after one that did. Of the waits that are given up
/// early, every sixteenth gets the full time, since waits may have become short again. Several threads may share one; they
/// lose updates, no more.
class AdaptiveSpin {
public:
  using Clock = std::chrono::steady_clock;
  using Time = std::chrono::nanoseconds;
  static constexpr Time kLeast = std::chrono::microseconds(10), kMost = std::chrono::microseconds(100);

  /// Whether `done` became true.
  template <typename Done> bool until(const Done &done) {
    for (int i = 0; i < 8; ++i, relax())
      if (done())
        return true;
    Time limit = nextLimit();
    for (Clock::time_point start = Clock::now();;) {
      for (int i = 0; i < 8; ++i, relax())
        if (done()) {
          succeeded(Clock::now() - start);
          return true;
        }
      if (Clock::now() - start >= limit) {
        failed();
        return done();
      }
    }
  }

  /// How long the next wait may take, every sixteenth aside.
  Time limit() const { return limit_.load(std::memory_order_relaxed); }

private:
  static void relax() {
#if defined(__x86_64__)
    _mm_pause();
#endif
  }

  Time nextLimit() {
    Time limit = this->limit();
    return limit < kMost && waits_.fetch_add(1, std::memory_order_relaxed) % 16 == 15 ? kMost : limit;
  }
  void succeeded(Time took) {
    if (2 * took > limit())
      limit_.store(std::min(4 * took, kMost), std::memory_order_relaxed);
  }
  void failed() { limit_.store(std::max(limit() / 2, kLeast), std::memory_order_relaxed); }

  std::atomic<Time> limit_{kMost / 2};
  std::atomic<unsigned> waits_{0};
};

} // namespace terra::runtime
