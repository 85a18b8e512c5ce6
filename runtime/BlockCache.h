// Large blocks of memory, kept for reuse: fresh pages cost more than most kernels that fill them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <tuple>
#include <unordered_map>
#include <utility>

namespace terra::runtime {

/// Gives the whole pages back that malloc keeps between the blocks in use (1 to 3 ms). What runs eagerly leaves holes between the
/// program's tensors, which the graph, with memory from the block cache, never fills.
void trimHeap();

/// Blocks cut from chunks of address space, in huge pages where they fit. Freed memory is kept, and cut or joined as later requests
/// want it, but only as far as what is in use and what is kept together stay below the most that was ever in use and a little
/// (`kSlack`, for pieces that do not fit): the cache hardly raises the process's peak. Thread-safe.
class BlockCache {
public:
  /// Smaller requests are not worth a block.
  static constexpr size_t kLeast = size_t(32) << 10;
  static constexpr size_t kSlack = size_t(2) << 20;
  /// What was kept throughout this many requests goes back to the system.
  static constexpr uint64_t kPatience = 2048;

  /// The process's cache; never destroyed, because memory may be freed until the process ends.
  static BlockCache &get();

  BlockCache() = default;
  ~BlockCache();
  BlockCache(const BlockCache &) = delete;
  BlockCache &operator=(const BlockCache &) = delete;

  /// At least `bytes`, aligned to a page; null when the system has none.
  void *allocate(size_t bytes);
  /// False for memory that is not from this cache.
  bool release(void *block);
  /// Gives everything that is kept back, and until the next request what is freed too: others are about to need the memory.
  void trim();

  size_t bytesInUse();
  size_t bytesKept();

private:
  /// Memory that nobody uses. `kept`: it has pages, some of which were used until request `since`; otherwise it is only addresses.
  /// Neighbours are of different kinds.
  struct Free {
    size_t bytes = 0;
    bool kept = false;
    uint64_t since = 0;
  };
  using FreeMap = std::map<char *, Free>;
  /// Neighbouring free memory that a block fits into.
  struct Window {
    FreeMap::iterator first, last;
    size_t skipped = 0; ///< of `first`
    size_t fresh = 0; ///< bytes without pages
  };

  char *takeKept(size_t bytes);
  char *takeWindow(size_t bytes);
  std::optional<Window> bestWindow(size_t bytes);
  void cut(Window window, size_t bytes);
  bool adjoin(FreeMap::iterator left, FreeMap::iterator right) const;
  FreeMap::iterator insert(char *start, const Free &free);
  FreeMap::iterator erase(FreeMap::iterator free);
  bool reserve(size_t bytes);
  void giveBack(char *start, size_t most);
  void giveBackUnwanted();
  FreeMap::iterator join(FreeMap::iterator piece);

  std::mutex mutex_;
  std::map<char *, size_t> chunks_;
  FreeMap free_;
  std::set<std::tuple<size_t, uint64_t, char *>>
      bySize_; ///< kept; among equals the one that was freed last comes first
  std::set<std::pair<uint64_t, char *>> byAge_; ///< kept
  std::unordered_map<void *, size_t> used_;
  bool keeps_ = true;
  size_t inUse_ = 0, keptBytes_ = 0, most_ = 0;
  size_t leastKept_ = 0; ///< in this round of requests
  uint64_t requests_ = 0;
};

} // namespace terra::runtime
