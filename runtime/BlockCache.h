// Large blocks of memory, kept for reuse: fresh pages cost more than most kernels that fill them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <unordered_map>

namespace terra::runtime {

/// Blocks from the operating system, in huge pages where they fit. Freed blocks are kept only as far as blocks in use
/// and blocks kept together stay below the most that was ever in use: the cache never raises the process's peak. Thread-safe.
class BlockCache {
public:
  /// Smaller requests are not worth a block.
  static constexpr size_t kLeast = size_t(256) << 10;
  /// A kept block goes back to the system after this many requests that did not want it.
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
  /// Gives every kept block back.
  void trim();

  size_t bytesInUse();
  size_t bytesKept();

private:
  struct Kept {
    void *block;
    size_t bytes;
    uint64_t since;
  };
  using List = std::list<Kept>; ///< longest kept first

  void *takeKept(size_t bytes);
  void makeRoomFor(size_t bytes);
  void giveBack(List::iterator kept);

  std::mutex mutex_;
  List kept_;
  std::multimap<size_t, List::iterator> bySize_;
  std::unordered_map<void *, size_t> used_;
  size_t inUse_ = 0, keptBytes_ = 0, most_ = 0;
  uint64_t requests_ = 0;
};

} // namespace terra::runtime
