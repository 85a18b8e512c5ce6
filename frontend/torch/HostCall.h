// A recorded call prepared for running: what TorchHost needs besides the graph's event.
#pragma once

#include "frontend/torch/OpTable.h"
#include "graph/Event.h"

#include <ATen/core/stack.h>

#include <memory>
#include <vector>

namespace terra::frontend {

struct HostCall {
  const OpEntry *entry = nullptr;
  /// The arguments as they were; tensors that the run binds are left out.
  std::vector<c10::IValue> args;
};

/// Copies what the graph's event does not keep. `event` describes the same call.
std::shared_ptr<HostCall> makeHostCall(const OpEntry &entry, const c10::IValue *args, const graph::Event &event);

/// tracer::OpaqueEqual: `hostCall` points to the call's first IValue.
bool opaqueEqual(const void *hostCall, const graph::Event &event, uint32_t arg);
/// The same for two recorded events.
bool recordedOpaqueEqual(const graph::Event &a, const graph::Event &b, uint32_t arg);

} // namespace terra::frontend
