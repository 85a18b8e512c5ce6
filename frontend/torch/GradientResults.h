// What `torch.autograd.grad` returns: learned from the engine's results, made again without it.
#pragma once

#include "frontend/torch/Promise.h"
#include "frontend/torch/ViewHistory.h"
#include "runtime/Span.h"

#include <vector>

namespace terra::frontend {

class GradientResults {
public:
  /// `gradients`: those that were given for the roots. False when the results could not be made again.
  bool learn(const runtime::SpanRange &range, c10::ArrayRef<at::Tensor> gradients, c10::ArrayRef<at::Tensor> results);
  /// `promiser` has to share.
  std::vector<at::Tensor> make(Promiser &promiser, c10::ArrayRef<at::Tensor> gradients) const;

private:
  /// No tensor, a given gradient, an earlier result, or a new tensor: on memory of the graph's or on that of a given gradient.
  struct Result {
    enum class Kind : uint8_t { Undefined, Gradient, Earlier, Made, View } kind = Kind::Undefined;
    uint32_t of = 0; ///< gradient or earlier result
    uint32_t slot = graph::kNever, version = 0; ///< Made
    TensorMeta meta;
  };
  bool learnMade(const runtime::SpanRange &range, const at::Tensor &tensor, ViewReader &reader, Result &result) const;
  at::Tensor makeHidden(Promiser &promiser, uint32_t index) const;

  std::vector<Result> results_;
  CallViews views_;
};

} // namespace terra::frontend
