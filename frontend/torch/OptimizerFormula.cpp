#include "frontend/torch/OptimizerFormula.h"

#include <cmath>

namespace terra::frontend {

// Python's float arithmetic is C's double arithmetic, and `**` is `pow`.
void adamScalars(const AdamOptions &options, double step, std::vector<double> &scalars) {
  double correction1 = 1 - std::pow(options.beta1, step);
  double correction2 = 1 - std::pow(options.beta2, step);
  if (options.decoupled && options.weightDecay != 0)
    scalars.push_back(1 - options.lr * options.weightDecay);
  scalars.push_back(-(options.lr / correction1));
  scalars.push_back(std::pow(correction2, 0.5));
}

void plainScalars(double lr, std::vector<double> &scalars) { scalars.push_back(-lr); }

void adagradScalars(double lr, double decay, double step, std::vector<double> &scalars) {
  scalars.push_back(-(lr / (1 + (step - 1) * decay)));
}

void adamaxScalars(double lr, double beta1, double step, std::vector<double> &scalars) {
  scalars.push_back(-(lr / (1 - std::pow(beta1, step))));
}

} // namespace terra::frontend
