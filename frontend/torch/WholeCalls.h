// Backwards and optimizer steps that run operation by operation: which kind of call their events are part of.
#pragma once

#include "frontend/torch/BackwardWalk.h"
#include "frontend/torch/OptimizerStep.h"
#include "graph/Event.h"

#include <functional>

namespace terra::frontend {

/// What calls on this thread are part of.
graph::Whole currentWhole();
/// What is called from now on is part of a call, whose kind `kind` tells; inside another one it stays part of that. Returns what
/// `leaveWhole` takes.
graph::Whole enterWhole(const std::function<graph::Whole()> &kind);
void leaveWhole(graph::Whole before);

/// The kind of a backward that PyTorch's engine is about to run: by the shape of the graph (types of nodes, edges, sizes), which leaves
/// have gradients already, and what is asked for. CallNodes have to be materialized. 0 outside of regions, and where hooks
/// are called.
graph::Whole wholeOfBackward(const BackwardRequest &request);

/// The kind of an optimizer's step: by which options it has, and by the sizes of what it works on. 0 outside of regions.
graph::Whole wholeOfStep(const OptimizerState &state);

} // namespace terra::frontend
