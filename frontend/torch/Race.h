// Which of several ways to compute the same is faster: found out by using all of them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <limits>

namespace terra::frontend {

/// Seconds since it was made. One thread's work is timed by its processor time, which other work on a busy machine does not
/// lengthen.
class Stopwatch {
public:
  explicit Stopwatch(int threads) : clock_(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC), start_(now()) {}
  double seconds() const { return now() - start_; }

private:
  double now() const {
    timespec time;
    clock_gettime(clock_, &time);
    return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
  }

  clockid_t clock_;
  double start_;
};

/// What is known of them for calls of one kind and size. Runner 0 is the host, which another one has to beat clearly. Not
/// thread-safe: the runner's thread only.
class Race {
public:
  static constexpr uint32_t kHost = 0, kOther = 1;
  static constexpr uint32_t kMost = 4;

  explicit Race(uint32_t runners = 2) {
    for (uint32_t i = 0; i < runners; ++i)
      lanes_[i].running = true;
  }

  /// Who runs next: each in turn until all have been seen often enough.
  uint32_t next() const { return next_; }
  bool decided() const { return decided_; }
  void took(uint32_t runner, double seconds) {
    Lane &lane = lanes_[runner];
    if (!lane.running)
      return;
    if (lane.turns++) // the first one prepares code and buffers
      lane.best = std::min(lane.best, seconds);
    double best = std::numeric_limits<double>::infinity();
    for (const Lane &other : lanes_)
      best = std::min(best, other.best);
    if (lane.turns == kGlance && lane.best > kHopeless * best)
      lane.running = false;
    goOn();
  }
  /// What cannot run these calls after all. Without any other the host runs them.
  void refuse(uint32_t runner) {
    lanes_[runner] = {};
    goOn();
  }

private:
  struct Lane {
    double best = std::numeric_limits<double>::infinity();
    uint32_t turns = 0;
    bool running = false;
  };

  static constexpr uint32_t kTurns = 6, kGlance = 4;
  static constexpr double kHopeless = 2, kClearly = 0.95;

  void goOn() {
    uint32_t running = 0, fewest = kTurns;
    for (uint32_t i = 0; i < kMost; ++i) {
      running += lanes_[i].running;
      if (lanes_[i].running && lanes_[i].turns < fewest) {
        fewest = lanes_[i].turns;
        next_ = i;
      }
    }
    decided_ = running <= 1 || fewest == kTurns;
    if (decided_)
      next_ = winner();
  }

  uint32_t winner() const {
    uint32_t winner = kHost;
    double best = kClearly * lanes_[kHost].best;
    for (uint32_t i = 1; i < kMost; ++i)
      if (lanes_[i].best < best) {
        best = lanes_[i].best;
        winner = i;
      }
    return winner;
  }

  std::array<Lane, kMost> lanes_{};
  uint32_t next_ = kHost;
  bool decided_ = false;
};

} // namespace terra::frontend
