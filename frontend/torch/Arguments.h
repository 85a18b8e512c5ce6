// A recorded call's arguments, put together again on the dispatcher's stack.
#pragma once

#include "frontend/torch/HostCall.h"

#include <c10/util/FunctionRef.h>

namespace terra::frontend {

/// `operand(i)` gives the tensor of the event's operand `i` (undefined: absent); `feeds(arg)` the first of the scalar feeds of an
/// argument that varies.
torch::jit::Stack makeArguments(const HostCall &call, const graph::Event &event,
                                c10::function_ref<at::Tensor(uint32_t)> operand,
                                c10::function_ref<const Scalar *(uint32_t)> feeds);

} // namespace terra::frontend
