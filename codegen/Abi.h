// The meeting point of compiled code and runtime: plain C types, one version.
#pragma once

#include <cstdint>

namespace terra::codegen {

inline constexpr uint32_t kAbiVersion = 2;

/// A compiled CPU kernel. `args` holds one pointer for each `KernelArg`: tensor data (element 0 of the operand's view),
/// the address of a scalar feed (8 bytes: int64_t or double), scratch memory, or, in place of a pointer, a number (8 bytes). Computes the part [begin, end) of the
/// kernel's parallel dimension; calls for disjoint ranges may run at the same time.
using KernelFn = void (*)(void *const *args, int64_t begin, int64_t end);

static_assert(sizeof(void *) == 8 && sizeof(double) == 8, "Terra's kernels assume a 64-bit machine");

} // namespace terra::codegen
