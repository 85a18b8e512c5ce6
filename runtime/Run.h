// One walk through a segment: what it bound, and how far the GraphRunner may go.
#pragma once

#include "codegen/Executable.h"
#include "runtime/BufferRef.h"
#include "tracer/Cursor.h"

#include <atomic>
#include <memory>
#include <vector>

namespace terra::runtime {

class CompiledSegment;

/// Filled by the Python thread; instructions up to `published` belong to the GraphRunner. After `close` nothing is
/// published any more, and the runner first finishes the instructions, then `leftover` one by one as extern ops.
class Run {
public:
  tracer::Binding binding;
  std::vector<BufferRef> buffers; ///< parallel to the segment's slots
  std::shared_ptr<CompiledSegment> compiled;
  std::shared_ptr<const codegen::Executable> executable;
  std::vector<std::pair<uint32_t, BufferRef>> heldForReads; ///< bound slots that slices read (Python thread)
  std::vector<uint8_t> unfused;   ///< instructions whose fused-away values were alive after all
  std::vector<uint32_t> leftover; ///< events of instructions that never triggered (a flush)
  std::shared_ptr<DeathTable> deaths; ///< set while the segment's deaths are being learned
  std::shared_ptr<Failure> failure; ///< shared by the runs of one region
  uint64_t ticket = 0;
  int threads = 0;                ///< the caller's number of threads
  uint32_t next = 0;              ///< the next instruction to publish (Python thread)
  uint32_t announced = 0;         ///< published when the runner was last woken (Python thread)
  bool recognisedAll = false;     ///< walked to its end
  /// The first event in program order that failed, or kNever (GraphRunner). What comes before it is still computed, even where it was
  /// deferred: storages are as at the failing op.
  uint32_t failedAt = graph::kNever;
  int64_t failAt = -1; ///< for tests: the event whose execution raises an error

  std::atomic<uint32_t> published{0};
  std::atomic<bool> closed{false};

  const graph::Segment &segment() const;
  Buffer &buffer(uint32_t slot) const { return *buffers[slot].get(); }
  /// The buffer of a value made here. One that a span hides from Python gets it when it is first needed (GraphRunner).
  Buffer &made(uint32_t slot);
};

} // namespace terra::runtime
