// Readers of NAdam, RAdam, Rprop, ASGD, Muon and Adafactor.
#include "frontend/torch/Compat.h"
#include "python/OptimizerReader.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>

namespace py = pybind11;

namespace terra::python {

using frontend::OptimizerKind;
using frontend::OptimizerState;

namespace {

class NadamReader final : public Reader {
public:
  using Reader::Reader;

private:
  void beginGroup(PyObject *group) override {
    options_ = adamOptions(group);
    momentumDecay_ = number(item(group, names().momentum_decay));
  }

  void addState(PyObject *parameter) override {
    PyObject *state = stateOf(parameter);
    addTensor(state, names().exp_avg);
    addTensor(state, names().exp_avg_sq);
    double step = count(state);
    auto [tensor, product] = stateNumber(state, names().mu_product);
    double mu = frontend::nadamMomentum(options_.beta1, momentumDecay_, step);
    product = change(tensor, tensor.scalar_type() == at::kFloat ? float(product) * float(mu) : product * mu);
    frontend::nadamScalars(options_, momentumDecay_, step, product, isForeach(), out_.scalars);
  }

  frontend::AdamOptions options_;
  double momentumDecay_ = 0;
};

class RadamReader final : public Reader {
public:
  using Reader::Reader;

private:
  void beginGroup(PyObject *group) override { options_ = adamOptions(group); }

  void addState(PyObject *parameter) override {
    PyObject *state = stateOf(parameter);
    addTensor(state, names().exp_avg);
    addTensor(state, names().exp_avg_sq);
    option(frontend::radamScalars(options_, count(state), isForeach(), out_.scalars));
  }

  frontend::AdamOptions options_;
};

class RpropReader final : public Reader {
public:
  using Reader::Reader;

private:
  void beginGroup(PyObject *group) override {
    for (PyObject *name : {names().etas, names().step_sizes}) {
      auto [first, second] = pair(item(group, name));
      option(first);
      option(second);
    }
  }

  void addState(PyObject *parameter) override {
    PyObject *state = stateOf(parameter);
    addTensor(state, names().prev);
    addTensor(state, names().step_size);
    count(state);
  }
};

class AsgdReader final : public Reader {
public:
  using Reader::Reader;

private:
  void beginGroup(PyObject *group) override {
    lr_ = rate(group);
    if (lr_.kind != frontend::Rate::Kind::Python)
      lrTensor_ = THPVariable_Unpack(item(group, names().lr));
    else
      lrTensor_ = at::Tensor();
    lambd_ = number(item(group, names().lambd));
    t0_ = number(item(group, names().t0));
    alpha_ = number(item(group, names().alpha));
    option(lambd_);
    computedFor_ = {};
  }

  void addState(PyObject *parameter) override {
    PyObject *state = stateOf(parameter);
    addTensor(state, names().ax);
    auto [stepTensor, stepBefore] = stateNumber(state, names().step);
    auto [etaTensor, eta] = stateNumber(state, names().eta);
    auto [muTensor, mu] = stateNumber(state, names().mu);
    double step = change(stepTensor, stepBefore + 1);
    if (isForeach())
      out_.scalars.insert(out_.scalars.end(), {eta, mu});
    else
      out_.scalars.insert(out_.scalars.end(), {1 - lambd_ * eta, -eta});
    if (bool averages = mu != 1; !isForeach()) {
      option(averages);
      if (averages)
        out_.scalars.push_back(mu);
    }
    bool tensors = isForeach() || lrTensor_.defined();
    change(etaTensor, tensors ? etaOf(stepTensor, step) : asTensor(lr_.value / decay(step)));
    change(muTensor, asTensor(1 / std::max(1.0, step - t0_)));
  }

  double decay(double step) const { return std::pow(1 + lambd_ * lr_.value * step, alpha_); }

  /// `torch.as_tensor` of a Python number.
  static double asTensor(double value) {
    return c10::get_default_dtype_as_scalartype() == at::kFloat ? double(float(value)) : value;
  }

  /// The foreach form computes with tensors, and so does a learning rate that is one. Most parameters have made the same number of
  /// steps.
  double etaOf(const at::Tensor &stepTensor, double step) {
    std::pair key(step, stepTensor.scalar_type());
    if (!computedFor_ || *computedFor_ != key) {
      at::NoGradGuard noGrad;
      c10::impl::ExcludeDispatchKeyGuard guard(
          c10::DispatchKeySet({frontend::kBelowAutograd, frontend::kAboveAutograd}));
      at::Tensor eta, stepNow = at::scalar_tensor(step, stepTensor.scalar_type());
      if (lrTensor_.defined()) {
        eta = lrTensor_.mul(lambd_);
        eta = lrTensor_.div((isForeach() ? eta.mul(stepNow) : eta.mul(step)).add(1).pow(alpha_));
      } else {
        eta = stepNow.mul(lambd_ * lr_.value).add(1).pow(alpha_).reciprocal().mul(lr_.value);
      }
      eta_ = frontend::numberIn(eta);
      computedFor_ = key;
    }
    return eta_;
  }

  frontend::Rate lr_;
  at::Tensor lrTensor_;
  double lambd_ = 0, t0_ = 0, alpha_ = 0, eta_ = 0;
  std::optional<std::pair<double, at::ScalarType>> computedFor_;
};

class MuonReader final : public Reader {
public:
  using Reader::Reader;

private:
  void beginGroup(PyObject *group) override {
    lr_ = rate(group);
    PyObject *coefficients = item(group, names().ns_coefficients);
    if (!PyTuple_Check(coefficients) || PyTuple_GET_SIZE(coefficients) != 3)
      throw Unusual();
    for (Py_ssize_t i = 0; i < 3; ++i)
      option(number(PyTuple_GET_ITEM(coefficients, i)));
    adjust_ = adjustment(item(group, names().adjust_lr_fn));
    for (double value : {number(item(group, names().momentum)), flag(item(group, names().nesterov)),
                         number(item(group, names().eps)), number(item(group, names().ns_steps)), double(adjust_)})
      option(value);
  }

  static int adjustment(PyObject *name) {
    const char *text = name == Py_None ? "original" : PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : nullptr;
    if (!text)
      throw Unusual();
    if (std::string_view(text) == "original")
      return 0;
    if (std::string_view(text) == "match_rms_adamw")
      return 1;
    throw Unusual();
  }

  void addState(PyObject *parameter) override {
    addTensor(stateOf(parameter), names().momentum_buffer);
    const at::Tensor &matrix = out_.tensors[out_.tensors.size() - 3];
    if (matrix.dim() != 2)
      throw Unusual();
    frontend::muonScalars(lr_, weightDecay(), adjust_, matrix.size(0), matrix.size(1), out_.scalars);
  }

  frontend::Rate lr_;
  int adjust_ = 0;
};

class AdafactorReader final : public Reader {
public:
  using Reader::Reader;

private:
  void beginGroup(PyObject *group) override {
    lr_ = rate(group);
    if (isForeach() && lr_.kind != frontend::Rate::Kind::Python)
      throw Unusual();
    decay_ = number(item(group, names().beta2_decay));
    PyObject *eps = item(group, names().eps);
    if (!PyTuple_Check(eps) || PyTuple_GET_SIZE(eps) != 2)
      throw Unusual();
    PyObject *first = PyTuple_GET_ITEM(eps, 0);
    for (double value :
         {first == Py_None ? -1 : number(first), number(PyTuple_GET_ITEM(eps, 1)), number(item(group, names().d))})
      option(value);
  }

  void addState(PyObject *parameter) override {
    PyObject *state = stateOf(parameter);
    const at::Tensor &gradient = out_.tensors.back();
    if (gradient.numel() == 0) // Python divides by its size
      throw Unusual();
    if (gradient.dim() > 1) {
      addTensor(state, names().row_var);
      addTensor(state, names().col_var);
    } else {
      addTensor(state, names().variance);
    }
    option(frontend::adafactorScalars(lr_, decay_, weightDecay(), count(state), out_.scalars) &&
           lr_.kind == frontend::Rate::Kind::Float);
  }

  frontend::Rate lr_;
  double decay_ = 0;
};

} // namespace

std::unique_ptr<Reader> makeVariant(OptimizerState &state, const std::string &kind, PyObject *optimizer) {
  auto of = [&]<typename Kind>(OptimizerKind value, std::type_identity<Kind>) {
    state.kind = value;
    return std::make_unique<Kind>(optimizer, state);
  };
  if (kind == "NAdam")
    return of(OptimizerKind::NAdam, std::type_identity<NadamReader>());
  if (kind == "RAdam")
    return of(OptimizerKind::RAdam, std::type_identity<RadamReader>());
  if (kind == "Rprop")
    return of(OptimizerKind::Rprop, std::type_identity<RpropReader>());
  if (kind == "ASGD")
    return of(OptimizerKind::ASGD, std::type_identity<AsgdReader>());
  if (kind == "Muon")
    return of(OptimizerKind::Muon, std::type_identity<MuonReader>());
  if (kind == "Adafactor")
    return of(OptimizerKind::Adafactor, std::type_identity<AdafactorReader>());
  return nullptr;
}

} // namespace terra::python
