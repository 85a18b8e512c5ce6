// Ops whose results' sizes turned out to depend on data, though nothing says so.
#pragma once

#include "graph/Op.h"

namespace terra::tracer {

/// `op` is a gate from now on, and recorded promises of its results match no more.
void markDynamic(const graph::Op &op);

/// True once any op has been marked: until then nobody has to look.
bool anyDynamic();

} // namespace terra::tracer
