// Comparison of a call with a recorded event.
#pragma once

#include "tracer/CallView.h"

namespace terra::tracer {

/// Argument `index` of `call` is that of `event`, or one that varies.
bool sameArg(const graph::Event &event, const CallView &call, uint32_t index);

/// All but the offset.
bool sameMeta(const TensorMeta &meta, const TensorView &view);

} // namespace terra::tracer
