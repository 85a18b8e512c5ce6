#include "frontend/torch/OptimizerFormula.h"

#include <algorithm>
#include <cmath>

namespace terra::frontend {

Rate Rate::over(double divisor) const {
  return {kind, kind == Kind::Float ? double(float(value) / float(divisor)) : value / divisor};
}

Rate Rate::times(double factor) const {
  return {kind, kind == Kind::Float ? double(float(value) * float(factor)) : value * factor};
}

Rate Rate::oneMinus() const { return {kind, kind == Kind::Float ? double(1.0F - float(value)) : 1 - value}; }

// Python's float arithmetic is C's double arithmetic, and `**` is `pow`.
namespace {
void decayScalar(const AdamOptions &options, std::vector<double> &scalars) {
  if (options.decoupled && options.weightDecay != 0)
    scalars.push_back(options.lr.times(options.weightDecay).oneMinus().value);
}
} // namespace

void adamScalars(const AdamOptions &options, double step, std::vector<double> &scalars) {
  double correction1 = 1 - std::pow(options.beta1, step);
  double correction2 = 1 - std::pow(options.beta2, step);
  decayScalar(options, scalars);
  scalars.push_back(-options.lr.over(correction1).value);
  scalars.push_back(std::pow(correction2, 0.5));
}

void plainScalars(Rate lr, std::vector<double> &scalars) { scalars.push_back(-lr.value); }

void adagradScalars(Rate lr, double decay, double step, std::vector<double> &scalars) {
  scalars.push_back(-lr.over(1 + (step - 1) * decay).value);
}

void adamaxScalars(Rate lr, double beta1, double step, std::vector<double> &scalars) {
  scalars.push_back(-lr.over(1 - std::pow(beta1, step)).value);
}

double nadamMomentum(double beta1, double momentumDecay, double step) {
  return beta1 * (1.0 - 0.5 * std::pow(0.96, step * momentumDecay));
}

void nadamScalars(const AdamOptions &options, double momentumDecay, double step, double product, bool foreach,
                  std::vector<double> &scalars) {
  double correction2 = 1 - std::pow(options.beta2, step);
  double mu = nadamMomentum(options.beta1, momentumDecay, step);
  double next = nadamMomentum(options.beta1, momentumDecay, step + 1);
  decayScalar(options, scalars);
  scalars.push_back(foreach ? std::pow(correction2, 0.5) : correction2);
  scalars.push_back(-options.lr.times(1.0 - mu).over(1.0 - product).value);
  scalars.push_back(-options.lr.times(next).over(1.0 - product * next).value);
}

bool radamScalars(const AdamOptions &options, double step, bool foreach, std::vector<double> &scalars) {
  double power = std::pow(options.beta2, step);
  double correction1 = 1 - std::pow(options.beta1, step), correction2 = 1 - power;
  double limit = 2 / (1 - options.beta2) - 1;
  double length = limit - 2 * step * power / correction2;
  bool rectified = length > 5;
  double rect =
      rectified ? std::pow((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length), 0.5) : 0;
  decayScalar(options, scalars);
  double lr = options.lr.value;
  if (foreach) {
    scalars.push_back(lr * (rect > 0 ? 0.0 : 1.0) / correction1 * -1);
    scalars.push_back(std::pow(correction2, 0.5) * (lr * rect / correction1) * -1);
    return rectified;
  }
  scalars.insert(scalars.end(), {correction1, lr});
  if (rectified)
    scalars.insert(scalars.end(), {std::pow(correction2, 0.5), rect});
  return rectified;
}

void muonScalars(Rate lr, double weightDecay, int adjust, int64_t rows, int64_t columns, std::vector<double> &scalars) {
  double ratio = adjust == 0 ? std::sqrt(std::max(1.0, double(rows) / double(columns)))
                             : 0.2 * std::sqrt(double(std::max(rows, columns)));
  scalars.push_back(lr.times(weightDecay).oneMinus().value);
  scalars.push_back(-lr.times(ratio).value);
}

bool adafactorScalars(Rate lr, double decay, double weightDecay, double step, std::vector<double> &scalars) {
  double bound = 1 / std::pow(step, 0.5);
  bool smaller = lr.kind == Rate::Kind::Float ? float(bound) < float(lr.value) : bound < lr.value;
  scalars.push_back(std::pow(step, decay));
  scalars.push_back(smaller ? bound : lr.value);
  if (weightDecay != 0)
    scalars.push_back(lr.times(weightDecay).oneMinus().value);
  return !smaller;
}

} // namespace terra::frontend
