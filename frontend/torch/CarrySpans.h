// What was learned of a segment, for a segment of the same structure with other sizes.
#pragma once

#include "runtime/Program.h"

#include <optional>

namespace terra::frontend {

using SpansByEvent = std::vector<std::vector<std::shared_ptr<const runtime::Span>>>;

/// The spans of `from` as they are in `to`. Sizes are never derived: those of calls come from the real calls that were recorded with
/// `to`, and what a backward makes has to have the same sizes in both. Nothing when a call was recorded otherwise.
std::optional<SpansByEvent> carrySpans(const runtime::CompiledSegment &from, const runtime::CompiledSegment &to);

} // namespace terra::frontend
