#include "runtime/SmallBlocks.h"

#include <sys/mman.h>

#include <algorithm>
#include <functional>
#include <new>
#include <utility>

namespace terra::runtime {

namespace {
constexpr size_t kRun = size_t(16) << 10; ///< pages are taken in runs of about this size
}

SmallBlocks::SmallBlocks() {
  static_assert(classOf(kMost) + 1 == kClasses && sizeOf(kClasses - 1) == kMost);
  void *range = mmap(nullptr, kRange, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  base_ = range == MAP_FAILED ? nullptr : static_cast<char *>(range);
  next_ = base_;
  end_ = base_ ? base_ + kRange : nullptr;
}

SmallBlocks::~SmallBlocks() {
  if (base_)
    munmap(base_, kRange);
}

SmallBlocks &SmallBlocks::get() {
  static auto &blocks = *new SmallBlocks();
  return blocks;
}

void *SmallBlocks::allocate(size_t bytes) {
  size_t index = classOf(bytes);
  Class &of = classes_[index];
  if (!of.taken && of.freed.load(std::memory_order_relaxed))
    of.taken = of.freed.exchange(nullptr, std::memory_order_acquire);
  if (of.taken)
    return std::exchange(of.taken, of.taken->next);
  if (of.fresh == of.end && !startRun(of, index))
    return nullptr;
  return std::exchange(of.fresh, of.fresh + sizeOf(index));
}

bool SmallBlocks::startRun(Class &of, size_t index) {
  size_t size = sizeOf(index);
  size_t count = std::max<size_t>(kRun / size, 1);
  size_t pages = (count * size + kPage - 1) / kPage;
  if (size_t(end_ - next_) < pages * kPage)
    return false;
  for (size_t page = size_t(next_ - base_) / kPage, last = page + pages; page < last; ++page)
    classOfPage_[page].store(uint8_t(index), std::memory_order_relaxed); // seen by whoever is handed a block
  of.fresh = next_;
  of.end = next_ + count * size;
  next_ += pages * kPage;
  return true;
}

bool SmallBlocks::release(void *block) {
  auto *bytes = static_cast<char *>(block);
  if (!base_ || std::less<char *>()(bytes, base_) || !std::less<char *>()(bytes, end_))
    return false;
  Class &of = classes_[classOfPage_[size_t(bytes - base_) / kPage].load(std::memory_order_relaxed)];
  auto *link = new (block) Link{of.freed.load(std::memory_order_relaxed)};
  while (!of.freed.compare_exchange_weak(link->next, link, std::memory_order_release, std::memory_order_relaxed))
    ;
  return true;
}

} // namespace terra::runtime
