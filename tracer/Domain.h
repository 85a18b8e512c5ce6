// Whether a scalar that varies is one that the operator takes, and that leaves the results as they were recorded.
#pragma once

#include "tracer/CallView.h"

namespace terra::tracer {

/// False: the call raises, rounds in a way that raises, or has a result of another length; it has to run at once.
bool inDomain(const graph::Event &event, const CallView &call, uint32_t arg);

} // namespace terra::tracer
