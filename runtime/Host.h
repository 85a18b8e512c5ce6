// The framework underneath: allocates memory, runs extern ops, owns the thread pool.
#pragma once

#include "graph/Segment.h"
#include "runtime/Buffer.h"

#include <cstdint>
#include <functional>

namespace terra::runtime {

class Run;

class Host {
public:
  virtual ~Host() = default;

  /// Runs event `index` of the run's segment on its buffers: reads operands, fulfils the buffers of fresh results.
  /// Throws what the op throws. Called on the GraphRunner's thread; for a SideRun, on the thread that reads.
  virtual void runExtern(Run &run, uint32_t index) = 0;

  /// Uninitialised memory for a result. Throws when there is none.
  virtual Memory allocate(size_t bytes, Device device) = 0;

  /// Calls `body(begin, end)` for disjoint ranges that cover [0, extent), each at least `grain` long where possible.
  virtual void parallelFor(int64_t extent, int64_t grain, const std::function<void(int64_t, int64_t)> &body) = 0;

  /// Before the first instruction of a run: applies the caller's settings (threads, flush-denormal).
  virtual void enterRun(Run &run) = 0;
};

} // namespace terra::runtime
