// Calls whose compiled code computes nothing useful for some values of their operands: eager raises there.
#pragma once

#include "graph/Event.h"

#include <cstdint>

namespace terra::graph {

/// The operand that has to be looked at before compiled code stands for the call; kNoGuard for most calls.
inline constexpr uint32_t kNoGuard = ~0u;
uint32_t guardedOperand(const Event &event);

/// `data`: the first element of the guarded operand, which is contiguous. False: eager's kernel has to run, and will raise.
bool guardHolds(const Event &event, const void *data);

} // namespace terra::graph
