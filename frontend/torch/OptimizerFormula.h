// The scalars that PyTorch's optimizers compute in Python at each step, computed here to the same bits.
#pragma once

#include <cstdint>
#include <vector>

namespace terra::frontend {

/// Adam and AdamW: torch/optim/adam.py, `_single_tensor_adam` and `_multi_tensor_adam` (Kingma and Ba, "Adam: A Method for
/// Stochastic Optimization"; Loshchilov and Hutter, "Decoupled Weight Decay Regularization").
struct AdamOptions {
  double lr = 0, beta1 = 0, beta2 = 0, weightDecay = 0;
  bool decoupled = false;
};
/// Appends what depends on `lr` or on `step`, the count after this step: the factor of decoupled weight decay (when there is one), the
/// negative step size, and the square root of the second moment's bias correction.
void adamScalars(const AdamOptions &options, double step, std::vector<double> &scalars);

/// SGD, RMSprop, Adadelta: torch/optim/{sgd,rmsprop,adadelta}.py. Appends the negative learning rate.
void plainScalars(double lr, std::vector<double> &scalars);

/// Adagrad: torch/optim/adagrad.py (Duchi et al., "Adaptive Subgradient Methods"). Appends the negative decayed learning rate.
void adagradScalars(double lr, double decay, double step, std::vector<double> &scalars);

/// Adamax: torch/optim/adamax.py (Kingma and Ba). Appends the negative step size.
void adamaxScalars(double lr, double beta1, double step, std::vector<double> &scalars);

} // namespace terra::frontend
