// Results of events: promised ones are made here, real ones are described for the recorder.
#pragma once

#include "frontend/torch/CallBuilder.h"
#include "frontend/torch/HostCall.h"
#include "runtime/Session.h"

#include <ATen/core/stack.h>

#include <vector>

namespace terra::frontend {

/// Makes the results of a recognised event or span.
class Promiser {
public:
  Promiser(runtime::Session &session, const graph::SegmentEvent &expected, const HostCall &call,
           const CallBuilder &builder);

  /// Result `index`: an operand, a view of one, or a tensor whose data comes later.
  at::Tensor make(uint32_t index);
  /// Moves the operands' version counters as the call did when it was recorded.
  void bumpOperands();
  /// Several results, or later calls, may ask for the storage of one slot.
  void share() { sharing_ = true; }
  /// The promised storage of a slot that the event or span makes.
  c10::Storage storageOf(uint32_t slot);
  /// Real, uninitialised memory for an external slot that the span fills itself.
  c10::Storage lend(uint32_t slot, size_t bytes);
  void lend(const std::vector<std::pair<uint32_t, size_t>> &memory);

private:
  runtime::Session &session_;
  const CallBuilder &builder_;
  const graph::SegmentEvent &expected_;
  const graph::Event &event_;
  const HostCall &call_;
  bool sharing_ = false;
  c10::SmallVector<std::pair<uint32_t, c10::Storage>, 2> storages_;
};

/// Puts flattened results on the stack, in place of the call's arguments.
void pushResults(const graph::Event &event, c10::ArrayRef<at::Tensor> tensors, uint32_t numArgs,
                 torch::jit::Stack *stack);

/// Replaces the call's arguments on the stack by its results: tensors with the recorded metadata, whose data comes later.
void promiseResults(runtime::Session &session, const CallBuilder &builder, torch::jit::Stack *stack);

/// Describes the results that a real run left on the stack above `base`. `counts` gets -1 for a tensor, the length for a list.
/// False when they cannot be promised next time (not tensors, not plain, or on memory that is not ours).
bool viewResults(const torch::jit::Stack &stack, size_t base,
                 c10::ArrayRef<c10::intrusive_ptr<c10::TensorImpl>> operands, std::vector<int32_t> &counts,
                 std::vector<tracer::ResultView> &results);

/// Remembers which results came with a version counter that had moved already.
void noteResultVersions(const torch::jit::Stack &stack, size_t base, HostCall &call);

/// Marks the storages of recorded results as the graph's.
void markResults(const std::vector<tracer::ResultView> &results, uint64_t region);

} // namespace terra::frontend
