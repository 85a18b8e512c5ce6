// `optimizer.step()` as one event.
#pragma once

#include "frontend/torch/SpanParts.h"

#include <memory>
#include <vector>

namespace terra::frontend {

enum class OptimizerKind : uint8_t {
  SGD,
  Adam,
  RMSprop,
  Adadelta,
  Adagrad,
  Adamax,
  NAdam,
  RAdam,
  Rprop,
  ASGD,
  Muon,
  Adafactor
};

/// An optimizer as it stands before a step, read from the Python object.
struct OptimizerState {
  OptimizerKind kind = OptimizerKind::SGD;
  /// Everything that decides which operations the step makes, or is a constant in them: compared bit by bit.
  std::vector<double> options;
  /// A parameter with a gradient: ranges of `tensors` (parameter, gradient, moments) and of `scalars`.
  struct Parameter {
    uint32_t firstTensor = 0, numTensors = 0, firstScalar = 0, numScalars = 0;
    uint32_t common = graph::kNever; ///< a scalar of its group (the fused forms take one learning rate)
  };
  std::vector<Parameter> parameters;
  std::vector<at::Tensor> tensors;
  /// What the step computes in Python from the options and the step count, or reads from numbers of its state.
  std::vector<double> scalars;
  /// Numbers of its state (the step count): real 0-dim tensors that the step changes at once, and what they will be.
  struct Number {
    at::Tensor tensor;
    double after = 0;
  };
  std::vector<Number> numbers;

  void clear();
};

/// True when the tensor is a real floating-point number that nothing queued touches: its value may be read and written here.
bool isRealNumber(const at::Tensor &tensor);
double numberIn(const at::Tensor &tensor);

class OptimizerLearner;

struct OptimizerOutcome {
  bool recognised = false; ///< done
  std::shared_ptr<OptimizerLearner> learner; ///< otherwise: run the step, then `finishOptimizerStep`; may be null
};

OptimizerOutcome beginOptimizerStep(const OptimizerState &state);
void finishOptimizerStep(OptimizerLearner &learner);

} // namespace terra::frontend
