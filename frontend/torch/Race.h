// Which of two ways to compute the same is faster: found out by using both.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace terra::frontend {

/// What is known of the two for calls of one kind and size. Not thread-safe: the runner's thread only.
class Race {
public:
  enum class Runner : uint8_t { Host, Other };

  /// Who runs next: each in turn until both have been seen often enough.
  Runner next() const { return decided() ? winner_ : Runner(turns_ % 2); }
  bool decided() const { return turns_ >= kTurns; }
  void took(Runner runner, double seconds) {
    if (turns_ >= 2) // the first ones prepare code and buffers
      best_[size_t(runner)] = std::min(best_[size_t(runner)], seconds);
    if (++turns_ == kTurns && best_[1] < 0.95 * best_[0])
      winner_ = Runner::Other;
  }
  void refuse() {
    winner_ = Runner::Host;
    turns_ = kTurns;
  }

private:
  static constexpr uint32_t kTurns = 12;
  std::array<double, 2> best_{std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
  uint32_t turns_ = 0;
  Runner winner_ = Runner::Host;
};

} // namespace terra::frontend
