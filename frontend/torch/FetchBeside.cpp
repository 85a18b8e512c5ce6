#include "frontend/torch/FetchBeside.h"

#include "frontend/torch/Compat.h"
#include "frontend/torch/Frontend.h"
#include "frontend/torch/Hook.h"
#include "frontend/torch/Storage.h"
#include "frontend/torch/TorchHost.h"
#include "tracer/Recorder.h"

#include <ATen/record_function.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <atomic>

namespace terra::frontend {

using runtime::Buffer;
using runtime::SideRun;

namespace {

/// The op calls of a side run are nobody's: not the program's, its modes' or its profiler's.
class Unseen {
  RealScope real_;
  c10::impl::ForceDispatchKeyGuard keys_{c10::default_included_set, c10::default_excluded_set |
                                                                        c10::DispatchKeySet(kBelowAutograd) |
                                                                        c10::DispatchKeySet(kAboveAutograd)};
  at::DisableRecordFunctionGuard noRecords_;
};

} // namespace

std::optional<SideRun> fetchBeside(runtime::Session &session, torch::jit::Stack &stack) {
  if (!stack.back().isTensor() || !stack.back().toTensor().defined())
    return std::nullopt;
  const c10::TensorImpl &impl = *stack.back().toTensor().unsafeGetTensorImpl();
  Buffer *buffer = impl.has_storage() ? bufferOf(*impl.unsafe_storage().unsafeGetStorageImpl()) : nullptr;
  if (!buffer || buffer->state() != Buffer::State::Pending)
    return std::nullopt;
  std::optional<SideRun> side;
  {
    std::lock_guard lock(runtimeInstance().lock());
    side = session.sideRunFor(*buffer);
  }
  if (!side)
    return std::nullopt;
  try {
    Unseen unseen;
    for (uint32_t event : side->slice->events)
      torchHost().runExtern(*side->run, event);
  } catch (const std::exception &) {
    return std::nullopt;
  }
  // Until the run is done that reads the same memory in its turn, nobody else may write there.
  std::atomic_thread_fence(std::memory_order_acquire);
  if (runtimeInstance().runner().completedTicket() >= side->source->ticket)
    return std::nullopt;
  stack.back() = makeTensor(hostStorage(side->run->buffer(side->slot)), tracer::Recorder::metaOf(viewOf(impl)),
                            impl.storage_offset());
  return side;
}

} // namespace terra::frontend
