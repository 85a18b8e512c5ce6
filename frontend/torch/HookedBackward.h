// A backward with hooks on its way: pieces that are recognised, and between them calls into Python, at the engine's place and in its
// order, with promised gradients.
//
// Hooks may do anything: change gradients, parameters or the graph, leave the path that is known, start other backwards, raise. So
// every piece stands for itself: what it needs is checked when its turn comes, and from any cut the rest can run node by node, as
// PyTorch's engine would. A parameter with hooks accumulates for real; its operations are events of their own.
#pragma once

#include "frontend/torch/BackwardWalk.h"

#include <optional>

namespace terra::frontend {

/// Python's interpreter lock, for code that does not know Python. Taken before the runtime's lock, never after it.
struct InterpreterLock {
  int (*acquire)() = nullptr; ///< what it returns belongs to `release`
  void (*release)(int) = nullptr;
};
void setInterpreterLock(InterpreterLock lock);

/// A backward over a graph with hooks. `request` belongs to the caller.
struct HookedJob {
  HookedJob(runtime::Session &owner, const BackwardRequest &wanted) : session(owner), request(wanted), edges(wanted) {}

  runtime::Session &session;
  BackwardRequest request;
  BackwardEdges edges;
  BackwardWalk::Scope walk;
};

/// Why only PyTorch's engine can run it; empty when it need not.
const char *whyNotHooked(const BackwardRequest &request);

/// Whether the innermost backward on this thread runs the node; nothing when it is the engine's own.
std::optional<bool> runsInPieces(torch::autograd::Node &node);

/// Does all that the engine would. Takes the interpreter's lock, which must not be held.
void runHooked(const HookedJob &job);

} // namespace terra::frontend
