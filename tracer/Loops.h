// Finds that a trace repeats itself while it is still being recorded: a training loop inside one region.
#pragma once

#include "tracer/Trace.h"

#include <cstddef>
#include <optional>

namespace terra::tracer {

struct Period {
  size_t start = 0;  ///< first event of the repeating part
  size_t length = 0; ///< events a turn
};

/// The shortest period with which the end of the trace repeats on the same state. The repeating part must cover three turns and
/// `kLeastRepetition` events: shorter repetitions compile better unrolled.
/// Linear in the trace's length (Z-algorithm on the reversed trace).
std::optional<Period> findPeriod(const Trace &events);

inline constexpr size_t kLeastRepetition = 192;

} // namespace terra::tracer
