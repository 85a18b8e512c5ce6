#include "frontend/torch/RunnerAllocator.h"

#include "runtime/BlockCache.h"

#include <c10/core/CPUAllocator.h>

namespace terra::frontend {

using runtime::BlockCache;

namespace {

thread_local bool usesBlockCache = false;

/// glibc's arenas of threads other than the first map every large block anew, and the pages of each cost more than the
/// kernels that fill them.
class RunnerAllocator final : public c10::Allocator {
public:
  explicit RunnerAllocator(c10::Allocator &base) : base_(base) {}

  c10::DataPtr allocate(size_t bytes) override {
    void *block = usesBlockCache && bytes >= BlockCache::kLeast ? BlockCache::get().allocate(bytes) : nullptr;
    if (!block)
      return base_.allocate(bytes);
    c10::profiledCPUMemoryReporter().New(block, bytes);
    return {block, block, &release, c10::Device(c10::kCPU)};
  }

  /// Memory of `raw_allocate` may be of either kind.
  c10::DeleterFnPtr raw_deleter() const override { return &releaseEither; }

  void copy_data(void *to, const void *from, size_t bytes) const override { base_.copy_data(to, from, bytes); }

private:
  static void release(void *block) {
    c10::profiledCPUMemoryReporter().Delete(block);
    BlockCache::get().release(block);
  }

  static void releaseEither(void *memory) {
    if (!BlockCache::get().release(memory))
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

void useBlockCacheOnThisThread() { usesBlockCache = true; }

} // namespace terra::frontend
