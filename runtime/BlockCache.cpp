#include "runtime/BlockCache.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>

namespace terra::runtime {

namespace {

constexpr size_t kPage = size_t(4) << 10, kHugePage = size_t(2) << 20;

size_t roundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

/// Pages of their own; the part that fills huge pages is aligned to them.
void *mapPages(size_t bytes) {
  size_t slack = bytes >= kHugePage ? kHugePage : 0;
  void *mapped = mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED)
    return nullptr;
  if (slack == 0)
    return mapped;
  char *start = static_cast<char *>(mapped);
  char *aligned = reinterpret_cast<char *>(roundUp(reinterpret_cast<size_t>(start), kHugePage));
  if (aligned != start)
    munmap(start, size_t(aligned - start));
  if (size_t tail = slack - size_t(aligned - start))
    munmap(aligned + bytes, tail);
  madvise(aligned, bytes, MADV_HUGEPAGE); // only advice: without huge pages the block works as well
  return aligned;
}

} // namespace

BlockCache &BlockCache::get() {
  static auto &cache = []() -> BlockCache & {
    // A child of fork must not find the lock taken by a thread that it does not have.
    pthread_atfork([] { get().mutex_.lock(); }, [] { get().mutex_.unlock(); }, [] { get().mutex_.unlock(); });
    return *new BlockCache();
  }();
  return cache;
}

BlockCache::~BlockCache() { trim(); }

void *BlockCache::allocate(size_t bytes) {
  bytes = roundUp(std::max<size_t>(bytes, 1), kPage);
  std::lock_guard lock(mutex_);
  ++requests_;
  void *block = takeKept(bytes);
  if (!block) {
    makeRoomFor(bytes);
    block = mapPages(bytes);
    if (!block)
      return nullptr;
    used_[block] = bytes;
    inUse_ += bytes;
  }
  most_ = std::max(most_, inUse_);
  return block;
}

bool BlockCache::release(void *block) {
  std::lock_guard lock(mutex_);
  auto used = used_.find(block);
  if (used == used_.end())
    return false;
  size_t bytes = used->second;
  used_.erase(used);
  inUse_ -= bytes;
  keptBytes_ += bytes;
  kept_.push_back({block, bytes, requests_});
  bySize_.emplace(bytes, std::prev(kept_.end()));
  return true;
}

/// The smallest kept block that fits without wasting an eighth of it.
void *BlockCache::takeKept(size_t bytes) {
  while (!kept_.empty() && requests_ - kept_.front().since > kPatience)
    giveBack(kept_.begin());
  auto found = bySize_.lower_bound(bytes);
  if (found == bySize_.end() || found->first > bytes + bytes / 8)
    return nullptr;
  // Among equals the one freed last: its end is likeliest to be in a cache.
  found = std::prev(bySize_.upper_bound(found->first));
  Kept kept = *found->second;
  kept_.erase(found->second);
  bySize_.erase(found);
  keptBytes_ -= kept.bytes;
  inUse_ += kept.bytes;
  used_[kept.block] = kept.bytes;
  return kept.block;
}

void BlockCache::makeRoomFor(size_t bytes) {
  while (!kept_.empty() && inUse_ + keptBytes_ + bytes > most_)
    giveBack(kept_.begin());
}

void BlockCache::giveBack(List::iterator kept) {
  auto [begin, end] = bySize_.equal_range(kept->bytes);
  bySize_.erase(std::find_if(begin, end, [&](const auto &entry) { return entry.second == kept; }));
  munmap(kept->block, kept->bytes);
  keptBytes_ -= kept->bytes;
  kept_.erase(kept);
}

void BlockCache::trim() {
  std::lock_guard lock(mutex_);
  while (!kept_.empty())
    giveBack(kept_.begin());
}

size_t BlockCache::bytesInUse() {
  std::lock_guard lock(mutex_);
  return inUse_;
}

size_t BlockCache::bytesKept() {
  std::lock_guard lock(mutex_);
  return keptBytes_;
}

} // namespace terra::runtime
