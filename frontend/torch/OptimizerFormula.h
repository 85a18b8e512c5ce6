// The scalars that PyTorch's optimizers compute in Python at each step, computed here to the same bits.
#pragma once

#include <cstdint>
#include <vector>

namespace terra::frontend {

/// A learning rate: a number of Python's, or of a real tensor without dimensions. What is computed with a tensor is rounded to its
/// type, as PyTorch does.
struct Rate {
  enum class Kind : uint8_t { Python, Float, Double } kind = Kind::Python;
  double value = 0;

  Rate over(double divisor) const;
  Rate times(double factor) const;
  Rate oneMinus() const;
};

/// Adam and AdamW: torch/optim/adam.py, `_single_tensor_adam` and `_multi_tensor_adam` (Kingma and Ba, "Adam: A Method for
/// Stochastic Optimization"; Loshchilov and Hutter, "Decoupled Weight Decay Regularization").
struct AdamOptions {
  Rate lr;
  double beta1 = 0, beta2 = 0, weightDecay = 0;
  bool decoupled = false;
};
/// Appends what depends on `lr` or on `step`, the count after this step: the factor of decoupled weight decay (when there is one), the
/// negative step size, and the square root of the second moment's bias correction.
void adamScalars(const AdamOptions &options, double step, std::vector<double> &scalars);

/// SGD, RMSprop, Adadelta: torch/optim/{sgd,rmsprop,adadelta}.py. Appends the negative learning rate.
void plainScalars(Rate lr, std::vector<double> &scalars);

/// Adagrad: torch/optim/adagrad.py (Duchi et al., "Adaptive Subgradient Methods"). Appends the negative decayed learning rate.
void adagradScalars(Rate lr, double decay, double step, std::vector<double> &scalars);

/// Adamax: torch/optim/adamax.py (Kingma and Ba). Appends the negative step size.
void adamaxScalars(Rate lr, double beta1, double step, std::vector<double> &scalars);

/// NAdam: torch/optim/nadam.py (Dozat, "Incorporating Nesterov Momentum into Adam"). `product` is the running product of the momentum
/// cache after this step, which multiplies it by `nadamMomentum`.
double nadamMomentum(double beta1, double momentumDecay, double step);
void nadamScalars(const AdamOptions &options, double momentumDecay, double step, double product, bool foreach,
                  std::vector<double> &scalars);

/// RAdam: torch/optim/radam.py (Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond"). True when the step is
/// rectified; the for-loop form then makes other operations.
bool radamScalars(const AdamOptions &options, double step, bool foreach, std::vector<double> &scalars);

/// Muon: torch/optim/_muon.py (Jordan et al.). `adjust`: 0 as the original does, 1 to match AdamW's updates.
void muonScalars(Rate lr, double weightDecay, int adjust, int64_t rows, int64_t columns, std::vector<double> &scalars);

/// Adafactor: torch/optim/_adafactor.py (Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost").
/// Appends how far the second moments move, the relative step size, and the factor of weight decay (when there is one). True when the
/// relative step size is the learning rate itself.
bool adafactorScalars(Rate lr, double decay, double weightDecay, double step, std::vector<double> &scalars);

} // namespace terra::frontend
