// Numbers for the kinds of calls that make many events (graph::Whole).
#pragma once

#include "graph/Event.h"

#include <cstdint>
#include <unordered_map>
#include <unordered_set>

namespace terra::runtime {

/// Calls of one kind have equal keys. The first structures get numbers, one for each of their sizes, so that the paths through them
/// are kept apart; a program that always makes new structures (layers that are dropped at random) is better off with paths that
/// meet as early as they can.
class Wholes {
public:
  struct Key {
    uint64_t structure = 0; ///< everything but sizes
    uint64_t sizes = 0; ///< and with them
  };

  /// 0 for all structures after the first few.
  graph::Whole numberOf(const Key &key) {
    auto it = numbers_.find(key.sizes);
    if (it != numbers_.end())
      return it->second;
    if (numbers_.size() == kMostNumbers || (structures_.size() == kMost && !structures_.contains(key.structure)))
      return 0;
    structures_.insert(key.structure);
    return numbers_[key.sizes] = graph::Whole(numbers_.size() + 1);
  }

private:
  static constexpr size_t kMost = 16, kMostNumbers = 4096;
  std::unordered_set<uint64_t> structures_;
  std::unordered_map<uint64_t, graph::Whole> numbers_;
};

/// Those of a function.
struct KnownWholes {
  Wholes backwards, steps;
};

} // namespace terra::runtime
