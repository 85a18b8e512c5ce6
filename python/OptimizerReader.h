// What all readers of torch.optim's Python objects have in common.
#pragma once

#include "frontend/torch/OptimizerFormula.h"
#include "frontend/torch/OptimizerStep.h"

#include <torch/csrc/utils/pybind.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace terra::python {

/// The optimizer is in a state that has no formula: the step runs as it is.
struct Unusual {};

PyObject *interned(const char *text);

struct Names {
#define TERRA_NAME(name) PyObject *name = interned(#name)
  TERRA_NAME(param_groups);
  TERRA_NAME(state);
  TERRA_NAME(params);
  TERRA_NAME(lr);
  TERRA_NAME(betas);
  TERRA_NAME(eps);
  TERRA_NAME(weight_decay);
  TERRA_NAME(amsgrad);
  TERRA_NAME(maximize);
  TERRA_NAME(foreach);
  TERRA_NAME(capturable);
  TERRA_NAME(differentiable);
  TERRA_NAME(fused);
  TERRA_NAME(decoupled_weight_decay);
  TERRA_NAME(momentum);
  TERRA_NAME(dampening);
  TERRA_NAME(nesterov);
  TERRA_NAME(step);
  TERRA_NAME(exp_avg);
  TERRA_NAME(exp_avg_sq);
  TERRA_NAME(max_exp_avg_sq);
  TERRA_NAME(momentum_buffer);
  TERRA_NAME(alpha);
  TERRA_NAME(centered);
  TERRA_NAME(rho);
  TERRA_NAME(lr_decay);
  TERRA_NAME(square_avg);
  TERRA_NAME(grad_avg);
  TERRA_NAME(acc_delta);
  TERRA_NAME(sum);
  TERRA_NAME(exp_inf);
  TERRA_NAME(momentum_decay);
  TERRA_NAME(mu_product);
  TERRA_NAME(etas);
  TERRA_NAME(step_sizes);
  TERRA_NAME(prev);
  TERRA_NAME(step_size);
  TERRA_NAME(lambd);
  TERRA_NAME(t0);
  TERRA_NAME(mu);
  TERRA_NAME(eta);
  TERRA_NAME(ax);
  TERRA_NAME(ns_coefficients);
  TERRA_NAME(ns_steps);
  TERRA_NAME(adjust_lr_fn);
  TERRA_NAME(beta2_decay);
  TERRA_NAME(d);
  TERRA_NAME(row_var);
  TERRA_NAME(col_var);
  TERRA_NAME(variance);
#undef TERRA_NAME
};

const Names &names();

/// Borrowed. Missing: unusual.
PyObject *item(PyObject *dict, PyObject *key);
/// A float or an int.
double number(PyObject *value);
/// True, False or None.
double flag(PyObject *value);

/// One step of one optimizer, read from its `param_groups` and `state`. Throws Unusual.
class Reader {
public:
  Reader(PyObject *optimizer, frontend::OptimizerState &out);
  virtual ~Reader() = default;
  void read();

protected:
  /// PyTorch has a fused form for the CPU.
  virtual bool mayBeFused() const { return false; }
  virtual void beginGroup(PyObject *group) = 0;
  /// Adds the moments and the scalars of a parameter with a gradient.
  virtual void addState(PyObject *parameter) = 0;

  void option(double value) { out_.options.push_back(value); }
  PyObject *stateOf(PyObject *parameter);
  void addTensor(PyObject *state, PyObject *name);
  /// `state["step"]` after this step, which adds one to it.
  double count(PyObject *state);
  /// A real number of the state. Give the pair to `change`, with what the step makes of it.
  std::pair<at::Tensor, double> stateNumber(PyObject *state, PyObject *name);
  /// Returns the value as its type keeps it.
  double change(const at::Tensor &tensor, double after);
  /// A number, or a real tensor without dimensions.
  frontend::Rate rate(PyObject *group);
  std::pair<double, double> betas(PyObject *group) { return pair(item(group, names().betas)); }
  static std::pair<double, double> pair(PyObject *tuple);
  /// What Adam, NAdam and RAdam have in common: read, and added to the options.
  frontend::AdamOptions adamOptions(PyObject *group);
  /// Adds a scalar that all parameters of the group share, once.
  void addCommon(double value);
  bool isForeach() const { return foreach_; }
  bool fused() const { return fused_; }
  double weightDecay() const { return weightDecay_; }

  frontend::OptimizerState &out_;

private:
  void readCommon(PyObject *group);
  void readParameter(PyObject *object);

  PyObject *optimizer_;
  pybind11::object groups_, state_;
  size_t position_ = 0;
  bool foreach_ = false, fused_ = false;
  double weightDecay_ = 0;
  uint32_t common_ = graph::kNever;
};

/// Null when it is none of those in OptimizerVariants.cpp.
std::unique_ptr<Reader> makeVariant(frontend::OptimizerState &state, const std::string &kind, PyObject *optimizer);

} // namespace terra::python
