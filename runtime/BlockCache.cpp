#include "runtime/BlockCache.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>

namespace terra::runtime {

namespace {

constexpr size_t kPage = size_t(4) << 10, kHugePage = size_t(2) << 20;
constexpr size_t kChunk = size_t(64) << 20;

size_t roundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }
char *roundUp(char *address, size_t unit) {
  return reinterpret_cast<char *>(roundUp(reinterpret_cast<size_t>(address), unit));
}

/// Addresses without pages, aligned to huge ones.
char *mapChunk(size_t bytes) {
  void *mapped =
      mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED)
    return nullptr;
  char *start = static_cast<char *>(mapped), *aligned = roundUp(start, kHugePage);
  if (aligned != start)
    munmap(start, size_t(aligned - start));
  if (size_t tail = kHugePage - size_t(aligned - start))
    munmap(aligned + bytes, tail);
  madvise(aligned, bytes, MADV_NOHUGEPAGE);
  return aligned;
}

/// Only advice: without huge pages a block works as well. Huge pages that it does not fill would be memory for nothing.
void adviseHugePages(char *start, size_t bytes) {
  char *first = roundUp(start, kHugePage), *end = start + bytes;
  if (end - first >= ptrdiff_t(kHugePage))
    madvise(first, size_t(end - first) / kHugePage * kHugePage, MADV_HUGEPAGE);
}

} // namespace

void trimHeap() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

BlockCache &BlockCache::get() {
  static auto &cache = []() -> BlockCache & {
    // A child of fork must not find the lock taken by a thread that it does not have.
    pthread_atfork([] { get().mutex_.lock(); }, [] { get().mutex_.unlock(); }, [] { get().mutex_.unlock(); });
    return *new BlockCache();
  }();
  return cache;
}

BlockCache::~BlockCache() {
  for (auto [start, bytes] : chunks_)
    munmap(start, bytes);
}

void *BlockCache::allocate(size_t bytes) {
  bytes = roundUp(std::max<size_t>(bytes, 1), kPage);
  std::lock_guard lock(mutex_);
  keeps_ = true;
  if (++requests_ % kPatience == 0)
    giveBackUnwanted();
  char *block = takeKept(bytes);
  if (!block)
    block = takeWindow(bytes);
  most_ = std::max(most_, inUse_);
  leastKept_ = std::min(leastKept_, keptBytes_);
  return block;
}

bool BlockCache::release(void *block) {
  std::lock_guard lock(mutex_);
  auto used = used_.find(block);
  if (used == used_.end())
    return false;
  inUse_ -= used->second;
  auto piece = join(insert(static_cast<char *>(block), {used->second, true, requests_}));
  used_.erase(used);
  if (!keeps_)
    giveBack(piece->first, SIZE_MAX);
  return true;
}

/// From the smallest kept piece that is large enough.
char *BlockCache::takeKept(size_t bytes) {
  auto found = bySize_.lower_bound({bytes, 0, nullptr});
  if (found == bySize_.end())
    return nullptr;
  char *block = std::get<char *>(*found);
  auto piece = free_.find(block);
  cut({piece, piece}, bytes);
  return block;
}

/// From neighbouring pieces, of which some may be fresh.
char *BlockCache::takeWindow(size_t bytes) {
  size_t allowed = std::max(most_, inUse_ + bytes) + kSlack;
  for (;;) {
    std::optional<Window> window = bestWindow(bytes);
    if (!window) {
      if (!reserve(bytes))
        return nullptr;
    } else if (size_t held = inUse_ + keptBytes_ + window->fresh; held > allowed && window->fresh > 0) {
      giveBack(byAge_.begin()->second, held - allowed); // which may change the window
    } else {
      char *block = window->first->first + window->skipped;
      cut(*window, bytes);
      if (window->fresh > 0)
        adviseHugePages(block, bytes);
      return block;
    }
  }
}

bool BlockCache::adjoin(FreeMap::iterator left, FreeMap::iterator right) const {
  return left->first + left->second.bytes == right->first && !chunks_.contains(right->first);
}

/// The one with the fewest bytes without pages. It begins where a piece begins, or ends where one ends.
std::optional<BlockCache::Window> BlockCache::bestWindow(size_t bytes) {
  std::optional<Window> best;
  auto offer = [&](Window window) {
    if (!best || window.fresh < best->fresh)
      best = window;
  };
  // The window [first, last] covers `total` bytes, `fresh` of them without pages, and is too short without its first or last piece.
  auto freshOf = [](const Free &piece) { return piece.kept ? 0 : piece.bytes; };
  auto first = free_.begin();
  size_t total = 0, fresh = 0;
  for (auto last = free_.begin(); last != free_.end(); ++last) {
    if (last != free_.begin() && !adjoin(std::prev(last), last)) {
      first = last;
      total = fresh = 0;
    }
    total += last->second.bytes;
    fresh += freshOf(last->second);
    while (total >= bytes) {
      size_t surplus = total - bytes;
      offer({first, last, 0, fresh - (last->second.kept ? 0 : surplus)});
      if (surplus < first->second.bytes)
        offer({first, last, surplus, fresh - (first->second.kept ? 0 : surplus)});
      total -= first->second.bytes;
      fresh -= freshOf(first->second);
      ++first;
    }
  }
  return best;
}

/// Makes a block of the window's first `bytes` after what is skipped; what is left of its ends stays free.
void BlockCache::cut(Window window, size_t bytes) {
  char *start = window.first->first + window.skipped, *end = window.last->first + window.last->second.bytes;
  Free before = window.first->second, after = window.last->second;
  size_t rest = size_t(end - start) - bytes;
  if (after.kept && rest <= std::min(bytes / 8, kLeast)) { // not worth a piece
    bytes += rest;
    rest = 0;
  }
  char *first = window.first->first;
  for (auto piece = window.first; piece != free_.end() && piece->first < end;)
    piece = erase(piece);
  if (window.skipped > 0)
    insert(first, {window.skipped, before.kept, before.since});
  if (rest > 0)
    insert(start + bytes, {rest, after.kept, after.since});
  used_[start] = bytes;
  inUse_ += bytes;
}

BlockCache::FreeMap::iterator BlockCache::insert(char *start, const Free &free) {
  if (free.kept) {
    bySize_.emplace(free.bytes, UINT64_MAX - free.since, start);
    byAge_.emplace(free.since, start);
    keptBytes_ += free.bytes;
  }
  return free_.emplace(start, free).first;
}

BlockCache::FreeMap::iterator BlockCache::erase(FreeMap::iterator free) {
  auto &[start, piece] = *free;
  if (piece.kept) {
    bySize_.erase({piece.bytes, UINT64_MAX - piece.since, start});
    byAge_.erase({piece.since, start});
    keptBytes_ -= piece.bytes;
  }
  return free_.erase(free);
}

bool BlockCache::reserve(size_t bytes) {
  bytes = roundUp(std::max(bytes, kChunk), kHugePage);
  char *start = mapChunk(bytes);
  if (!start)
    return false;
  chunks_.emplace(start, bytes);
  insert(start, {bytes});
  return true;
}

/// Of the kept piece that begins here, not much more than `most` bytes.
void BlockCache::giveBack(char *start, size_t most) {
  auto piece = free_.find(start);
  auto [bytes, kept, since] = piece->second;
  erase(piece);
  if (most < bytes && bytes - roundUp(most, kPage) >= kLeast) {
    size_t part = roundUp(most, kPage);
    insert(start + part, {bytes - part, true, since});
    bytes = part;
  }
  madvise(start, bytes, MADV_DONTNEED);
  madvise(start, bytes, MADV_NOHUGEPAGE);
  auto fresh = join(insert(start, {bytes}));
  auto chunk = chunks_.find(fresh->first);
  if (chunk == chunks_.end() || chunk->second != fresh->second.bytes)
    return;
  munmap(chunk->first, chunk->second);
  chunks_.erase(chunk);
  free_.erase(fresh);
}

/// What was kept throughout the last requests, whatever they wanted.
void BlockCache::giveBackUnwanted() {
  for (size_t unwanted = leastKept_; unwanted > 0 && !byAge_.empty();) {
    size_t before = keptBytes_;
    giveBack(byAge_.begin()->second, unwanted);
    unwanted -= std::min(unwanted, before - keptBytes_);
  }
  leastKept_ = keptBytes_;
}

/// With neighbours of its kind.
BlockCache::FreeMap::iterator BlockCache::join(FreeMap::iterator piece) {
  auto joined = [&](FreeMap::iterator left, FreeMap::iterator right) {
    Free both{left->second.bytes + right->second.bytes, left->second.kept,
              std::max(left->second.since, right->second.since)};
    char *start = left->first;
    erase(left);
    erase(right);
    return insert(start, both);
  };
  auto fit = [&](FreeMap::iterator left, FreeMap::iterator right) {
    return left->second.kept == right->second.kept && adjoin(left, right);
  };
  if (auto next = std::next(piece); next != free_.end() && fit(piece, next))
    piece = joined(piece, next);
  if (piece != free_.begin() && fit(std::prev(piece), piece))
    piece = joined(std::prev(piece), piece);
  return piece;
}

void BlockCache::trim() {
  std::lock_guard lock(mutex_);
  keeps_ = false;
  while (!byAge_.empty())
    giveBack(byAge_.begin()->second, SIZE_MAX);
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
