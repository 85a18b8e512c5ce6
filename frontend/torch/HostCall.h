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
  /// How far the call moved the version counters of its operands (index, steps), and where its results' counters began:
  /// kernels bump them in their own ways, and the program can see them.
  std::vector<std::pair<uint32_t, uint32_t>> operandVersions, resultVersions;
  /// Kernels can tell whether two operands are one tensor object (attention does): the first operand that is the same, for
  /// each. Empty when all are different.
  std::vector<uint32_t> firstSame;
};

/// Version of a tensor; 0 for one without a counter (inference tensors).
inline uint32_t versionOf(const c10::TensorImpl &impl) {
  return impl.version_counter().enabled() ? impl.version_counter().current_version() : 0;
}

/// Copies what the graph's event does not keep. `event` describes the same call.
std::shared_ptr<HostCall> makeHostCall(const OpEntry &entry, const c10::IValue *args, const graph::Event &event);

/// True for the CPU's default generator, passed explicitly.
bool isDefaultGenerator(const c10::IValue &value);

/// tracer::OpaqueEqual: `hostCall` points to the call's first IValue.
bool opaqueEqual(const void *hostCall, const graph::Event &event, uint32_t arg);
/// The same for two recorded events.
bool recordedOpaqueEqual(const graph::Event &a, const graph::Event &b, uint32_t arg);

} // namespace terra::frontend
