// Results of events: promised ones are made here, real ones are described for the recorder.
#pragma once

#include "frontend/torch/CallBuilder.h"
#include "frontend/torch/HostCall.h"
#include "runtime/Session.h"

#include <ATen/core/stack.h>

#include <vector>

namespace terra::frontend {

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
