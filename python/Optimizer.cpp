// Reads torch.optim's Python objects. Nothing is kept between steps but pointers that are checked: whatever the program changes in
// `param_groups` or `state` counts at the next step.
#include "python/Bindings.h"
#include "python/OptimizerReader.h"

#include "frontend/torch/Hook.h"
#include "frontend/torch/OptimizerFormula.h"
#include "frontend/torch/WholeCalls.h"

#include <type_traits>

namespace py = pybind11;

namespace terra::python {

using frontend::OptimizerKind;
using frontend::OptimizerState;

namespace {

class SgdReader final : public Reader {
public:
  using Reader::Reader;

private:
  bool mayBeFused() const override { return true; }
  void beginGroup(PyObject *group) override {
    lr_ = rate(group);
    momentum_ = number(item(group, names().momentum));
    option(momentum_);
    option(number(item(group, names().dampening)));
    option(flag(item(group, names().nesterov)));
  }

  void addState(PyObject *parameter) override {
    if (momentum_ != 0)
      addTensor(stateOf(parameter), names().momentum_buffer);
    if (fused())
      addCommon(lr_.value);
    else
      frontend::plainScalars(lr_, out_.scalars);
  }

  frontend::Rate lr_;
  double momentum_ = 0;
};

class AdamReader final : public Reader {
public:
  using Reader::Reader;

private:
  bool mayBeFused() const override { return true; }
  void beginGroup(PyObject *group) override {
    options_ = adamOptions(group);
    amsgrad_ = flag(item(group, names().amsgrad)) == 1;
    option(amsgrad_);
    step_ = -1;
  }

  void addState(PyObject *parameter) override {
    PyObject *state = stateOf(parameter);
    addTensor(state, names().exp_avg);
    addTensor(state, names().exp_avg_sq);
    if (amsgrad_)
      addTensor(state, names().max_exp_avg_sq);
    double step = count(state);
    if (fused())
      addCommon(options_.lr.value);
    if (step != step_) { // most parameters have made the same number of steps
      computed_.clear();
      if (fused())
        computed_ = {step};
      else
        frontend::adamScalars(options_, step, computed_);
      step_ = step;
    }
    out_.scalars.insert(out_.scalars.end(), computed_.begin(), computed_.end());
  }

  frontend::AdamOptions options_;
  bool amsgrad_ = false;
  double step_ = -1;
  std::vector<double> computed_;
};

class RmspropReader final : public Reader {
public:
  using Reader::Reader;

private:
  void beginGroup(PyObject *group) override {
    lr_ = rate(group);
    momentum_ = number(item(group, names().momentum));
    centered_ = flag(item(group, names().centered)) == 1;
    for (double value :
         {momentum_, double(centered_), number(item(group, names().alpha)), number(item(group, names().eps))})
      option(value);
  }

  void addState(PyObject *parameter) override {
    PyObject *state = stateOf(parameter);
    addTensor(state, names().square_avg);
    if (momentum_ > 0)
      addTensor(state, names().momentum_buffer);
    if (centered_)
      addTensor(state, names().grad_avg);
    count(state);
    frontend::plainScalars(lr_, out_.scalars);
  }

  frontend::Rate lr_;
  double momentum_ = 0;
  bool centered_ = false;
};

class AdadeltaReader final : public Reader {
public:
  using Reader::Reader;

private:
  void beginGroup(PyObject *group) override {
    lr_ = rate(group);
    option(number(item(group, names().rho)));
    option(number(item(group, names().eps)));
  }

  void addState(PyObject *parameter) override {
    PyObject *state = stateOf(parameter);
    addTensor(state, names().square_avg);
    addTensor(state, names().acc_delta);
    count(state);
    frontend::plainScalars(lr_, out_.scalars);
  }

  frontend::Rate lr_;
};

class AdagradReader final : public Reader {
public:
  using Reader::Reader;

private:
  bool mayBeFused() const override { return true; }
  void beginGroup(PyObject *group) override {
    lr_ = rate(group);
    decay_ = number(item(group, names().lr_decay));
    option(decay_);
    option(number(item(group, names().eps)));
  }

  void addState(PyObject *parameter) override {
    PyObject *state = stateOf(parameter);
    addTensor(state, names().sum);
    if (!fused())
      return frontend::adagradScalars(lr_, decay_, count(state), out_.scalars);
    addTensor(state, names().step); // as far as PyTorch knows, the kernel writes it
    addCommon(lr_.value);
  }

  frontend::Rate lr_;
  double decay_ = 0;
};

class AdamaxReader final : public Reader {
public:
  using Reader::Reader;

private:
  void beginGroup(PyObject *group) override {
    lr_ = rate(group);
    auto [beta1, beta2] = betas(group);
    beta1_ = beta1;
    for (double value : {beta1, beta2, number(item(group, names().eps))})
      option(value);
  }

  void addState(PyObject *parameter) override {
    PyObject *state = stateOf(parameter);
    addTensor(state, names().exp_avg);
    addTensor(state, names().exp_inf);
    frontend::adamaxScalars(lr_, beta1_, count(state), out_.scalars);
  }

  frontend::Rate lr_;
  double beta1_ = 0;
};

std::unique_ptr<Reader> make(OptimizerState &state, const std::string &kind, PyObject *optimizer) {
  auto of = [&]<typename Kind>(OptimizerKind value, std::type_identity<Kind>) {
    state.kind = value;
    return std::make_unique<Kind>(optimizer, state);
  };
  if (kind == "SGD")
    return of(OptimizerKind::SGD, std::type_identity<SgdReader>());
  if (kind == "Adam")
    return of(OptimizerKind::Adam, std::type_identity<AdamReader>());
  if (kind == "RMSprop")
    return of(OptimizerKind::RMSprop, std::type_identity<RmspropReader>());
  if (kind == "Adadelta")
    return of(OptimizerKind::Adadelta, std::type_identity<AdadeltaReader>());
  if (kind == "Adagrad")
    return of(OptimizerKind::Adagrad, std::type_identity<AdagradReader>());
  if (kind == "Adamax")
    return of(OptimizerKind::Adamax, std::type_identity<AdamaxReader>());
  return makeVariant(state, kind, optimizer);
}

struct Watched {
  std::shared_ptr<frontend::OptimizerLearner> learner;
};

/// The kind of step that `step` did not recognise; between it and `beginStep`.
thread_local graph::Whole stepUnderWay = 0;

/// True: the step was recognised. None: run it. Otherwise run it and give what was returned to `optimizer_ran`.
py::object step(const py::object &optimizer, const std::string &kind) {
  stepUnderWay = 0;
  static OptimizerState state; // the interpreter's lock is held throughout
  struct Clear {
    ~Clear() { state.clear(); }
  } clear;
  try {
    std::unique_ptr<Reader> reader = make(state, kind, optimizer.ptr());
    if (!reader)
      return py::none();
    reader->read();
  } catch (const Unusual &) {
    return py::none();
  }
  frontend::OptimizerOutcome outcome = frontend::beginOptimizerStep(state);
  if (outcome.recognised)
    return py::bool_(true);
  stepUnderWay = frontend::wholeOfStep(state);
  return outcome.learner ? py::cast(Watched{std::move(outcome.learner)}) : py::none();
}

/// What `endStep` restores.
struct StepScope {
  bool copied;
  graph::Whole whole;
};

/// The step that was not recognised runs now. Its numbers are copied, so that it may change them while they are still to be read.
StepScope beginStep() {
  return {frontend::copyNumbers(true), frontend::enterWhole([] { return std::exchange(stepUnderWay, 0); })};
}

void endStep(const StepScope &before) {
  frontend::copyNumbers(before.copied);
  frontend::leaveWhole(before.whole);
}

} // namespace

void bindOptimizer(py::module_ &module) {
  py::class_<Watched>(module, "WatchedStep");
  module.def("optimizer_step", &step);
  module.def("optimizer_ran", [](const Watched &watched) { frontend::finishOptimizerStep(*watched.learner); });
  module.def("in_region", [] { return frontend::currentSession() != nullptr; });
  py::class_<StepScope>(module, "StepScope");
  module.def("begin_step", &beginStep);
  module.def("end_step", &endStep);
}

} // namespace terra::python
