// `loss.backward()`, `torch.autograd.backward` and `torch.autograd.grad` as one event.
#pragma once

#include "frontend/torch/Above.h"
#include "frontend/torch/BackwardWalk.h"

#include <memory>

namespace terra::frontend {

/// A backward that runs in PyTorch's engine and is watched, so that the next one like it is recognised.
class BackwardLearner;
struct HookedJob;

/// What became of a backward.
struct BackwardOutcome {
  bool hasHooks = false; ///< not the engine's: to be tried again when it is next
  bool recognised = false; ///< done: gradients are in place, or in `results`
  std::vector<at::Tensor> results; ///< one for each input, where they are not accumulated
  std::shared_ptr<HookedJob> hooked; ///< otherwise: `runHooked` does the rest
  std::shared_ptr<BackwardLearner> learner; ///< otherwise: run the engine, then `finishBackward`; may be null
};

/// The caller has checked that nothing else was asked for (`create_graph`).
/// `last`: the engine is next; before that, gradients that nobody gave may still be made.
BackwardOutcome beginBackward(const BackwardRequest &request, bool last);
/// `results`: what the engine returned.
void finishBackward(BackwardLearner &learner, c10::ArrayRef<at::Tensor> results);

/// Before PyTorch's engine, or the program, looks at these tensors' history: CallNodes become eager's nodes. Returns them.
std::vector<CallNode *> showHistory(c10::ArrayRef<at::Tensor> roots);

} // namespace terra::frontend
