// What is left of a segment when its sizes are left out: programs whose sizes vary have many segments of one structure.
#pragma once

#include "graph/Segment.h"

namespace terra::graph {

/// Tensors that differ in sizes, strides and offset only.
bool sameKind(const TensorMeta &a, const TensorMeta &b);
/// Operands and results are of the same kinds, and come about in the same way.
bool sameTensors(const Event &a, const Event &b);

/// Equal for segments of one structure.
uint64_t structureHash(const Segment &segment);

/// The same calls with the same dataflow on tensors of the same types and ranks. Sizes, strides, offsets and the values of
/// numbers and lists of integers may differ, and which of them are fed.
bool sameStructure(const Segment &a, const Segment &b);
/// The same numbers and offsets are fed, in segments of one structure.
bool sameFeeds(const Segment &a, const Segment &b);

} // namespace terra::graph
