// Which scalars of which ops may vary from run to run, and what they do to results.
#pragma once

#include "tracer/CallView.h"

namespace terra::tracer {

/// True when argument `index` of `event` may become a feed: the op's result metas do not depend on its value, or
/// depend on it in a way that `resultOffset` and `keepsResultMetas` know (`select`, `slice`, `narrow`).
bool mayVary(const graph::Event &event, uint32_t index);

/// For calls with varying scalars: the results have the recorded sizes and strides (a `slice` may change its length).
bool keepsResultMetas(const graph::Event &event, const CallView &call);

/// Storage offset of result `index` (a view), in elements, for a call that matched `event`.
int64_t resultOffset(const graph::Event &event, const CallView &call, uint32_t index);

} // namespace terra::tracer
