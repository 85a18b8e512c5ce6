// `loss.backward()` as one event.
#pragma once

#include "frontend/torch/Above.h"
#include "frontend/torch/BackwardWalk.h"
#include "runtime/BufferRef.h"

#include <memory>

namespace terra::frontend {

/// A backward that runs in PyTorch's engine and is watched, so that the next one like it is recognised.
class BackwardLearner;

/// What became of a `loss.backward()`.
struct BackwardOutcome {
  bool recognised = false; ///< done: gradients are in place
  std::shared_ptr<BackwardLearner> learner; ///< otherwise: run the engine, then `finishBackward`; may be null
};

/// `gradient` may be undefined. The caller has checked that nothing else was asked for (`inputs`, `create_graph`).
BackwardOutcome beginBackward(const at::Tensor &root, const at::Tensor &gradient, bool retainGraph);
void finishBackward(BackwardLearner &learner);

/// Before PyTorch's engine, or the program, looks at these tensors' history: CallNodes become eager's nodes. Returns them.
std::vector<CallNode *> showHistory(c10::ArrayRef<at::Tensor> roots);

} // namespace terra::frontend
