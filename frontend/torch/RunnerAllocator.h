// What the GraphRunner allocates: large blocks from the block cache, the rest from PyTorch's allocator.
#pragma once

namespace terra::frontend {

/// Puts the allocator in front of PyTorch's CPU allocator, once a process. Other threads do not notice it.
void installRunnerAllocator();

/// From now on the calling thread's large blocks come from the cache.
void useBlockCacheOnThisThread();

} // namespace terra::frontend
