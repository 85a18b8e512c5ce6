#include "frontend/torch/RunnerAllocator.h"

#include "runtime/BlockCache.h"
#include "runtime/SmallBlocks.h"

#include <c10/core/CPUAllocator.h>

namespace terra::frontend {

using runtime::BlockCache;
using runtime::SmallBlocks;

namespace {

thread_local bool isRunner = false;

/// glibc's arenas of threads other than the first map every large block anew, and the pages of each cost more than the
/// kernels that fill them; what is small is freed by the program's thread, which would wait for the arena's lock.
class RunnerAllocator final : public c10::Allocator {
public:
  explicit RunnerAllocator(c10::Allocator &base) : base_(base) {}

  c10::DataPtr allocate(size_t bytes) override {
    if (!isRunner || bytes == 0)
      return base_.allocate(bytes);
    bool small = bytes <= SmallBlocks::kMost;
    void *block = small ? SmallBlocks::get().allocate(bytes) : nullptr;
    if (!small && bytes >= BlockCache::kLeast)
      block = BlockCache::get().allocate(bytes);
    if (!block)
      return base_.allocate(bytes);
    c10::profiledCPUMemoryReporter().New(block, bytes);
    return {block, block, small ? &releaseSmall : &release, c10::Device(c10::kCPU)};
  }

  /// Memory of `raw_allocate` may be of either kind.
  c10::DeleterFnPtr raw_deleter() const override { return &releaseEither; }

  void copy_data(void *to, const void *from, size_t bytes) const override { base_.copy_data(to, from, bytes); }

private:
  static void releaseSmall(void *block) {
    c10::profiledCPUMemoryReporter().Delete(block);
    SmallBlocks::get().release(block);
  }

  static void release(void *block) {
    c10::profiledCPUMemoryReporter().Delete(block);
    BlockCache::get().release(block);
  }

  static void releaseEither(void *memory) {
    if (!SmallBlocks::get().release(memory) && !BlockCache::get().release(memory))
      c10::GetDefaultCPUAllocator()->raw_deleter()(memory);
  }

  c10::Allocator &base_;
};

} // namespace

void installRunnerAllocator() {
  static auto *allocator = [] {
    auto *made = new RunnerAllocator(*c10::GetCPUAllocator());
    c10::SetCPUAllocator(made);
    return made;
  }();
  static_cast<void>(allocator);
}

void useBlockCacheOnThisThread() { isRunner = true; }

} // namespace terra::frontend
