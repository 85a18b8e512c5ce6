// Numbers for the kinds of calls that make many events (graph::Whole).
#pragma once

#include "graph/Event.h"

#include <cstdint>
#include <unordered_map>

namespace terra::runtime {

/// Calls of one kind have equal keys. The first kinds get numbers of their own, so that the paths through them are kept apart; a program
/// that always makes new ones (layers that are dropped at random) is better off with paths that meet as early as they can.
class Wholes {
public:
  /// 0 for all kinds after the first few.
  graph::Whole numberOf(uint64_t key) {
    auto it = numbers_.find(key);
    if (it != numbers_.end())
      return it->second;
    return numbers_.size() < kMost ? numbers_[key] = graph::Whole(numbers_.size() + 1) : 0;
  }

private:
  static constexpr size_t kMost = 16;
  std::unordered_map<uint64_t, graph::Whole> numbers_;
};

/// Those of a function.
struct KnownWholes {
  Wholes backwards, steps;
};

} // namespace terra::runtime
