// Comparison of a call with a recorded event.
#pragma once

#include "tracer/CallView.h"

#include <span>

namespace terra::tracer {

/// A few integers (sizes, counts): a loop is cheaper than the call of memcmp that std::equal becomes.
template <typename Integer> bool sameInts(std::span<const Integer> a, std::span<const Integer> b) {
  if (a.size() != b.size())
    return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (a[i] != b[i])
      return false;
  return true;
}

/// Argument `index` of `call` is that of `event`, or one that varies.
bool sameArg(const graph::Event &event, const CallView &call, uint32_t index);

/// Equal for calls that match one event, scalars and offsets aside: by operation and sizes of the operands.
uint64_t callKey(const CallView &call);
uint64_t callKey(const graph::Event &event);

/// All but the offset.
bool sameMeta(const TensorMeta &meta, const TensorView &view);

} // namespace terra::tracer
