// Fetches that need not wait for the queue.
#pragma once

#include "runtime/Session.h"

#include <ATen/core/stack.h>

#include <optional>

namespace terra::frontend {

/// Before a fetch (`item`, `bool`) runs for real: where its operand, the top of the stack, is promised and little work from
/// what is there already, computes it on this thread and puts it in the operand's place. The tensor's memory is the result's:
/// it has to live until the fetch is done. Errors are left to the runner, which computes the same.
std::optional<runtime::SideRun> fetchBeside(runtime::Session &session, torch::jit::Stack &stack);

} // namespace terra::frontend
