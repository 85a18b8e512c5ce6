// How many regions Python may be ahead of the graph.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>

namespace terra::runtime {

/// One region ahead is enough to keep the graph busy. Where regions are short, a thread that falls asleep and is woken costs as
/// much as a region does, so Python may then be several ahead, and sleeps until half of them are done. What is queued is at most
/// some milliseconds of work, so that errors are not late and a program's inputs are not held for long.
class RunAhead {
public:
  static constexpr size_t kMaxRegions = 16;

  /// A region begins. `last`: the last ticket that was submitted before it; `completed`: the last one that is finished;
  /// `busySeconds`: what the graph has worked so far. Returns the ticket that has to be finished first; 0: none.
  uint64_t enter(uint64_t last, uint64_t completed, double busySeconds);

private:
  std::deque<uint64_t> ends_; ///< last tickets of regions that are not finished
  size_t limit_ = 1;
  uint64_t finished_ = 0; ///< regions since the last time at the limit
  double busyBefore_ = 0;
};

} // namespace terra::runtime
