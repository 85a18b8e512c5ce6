// Reads torch.optim's Python objects. Nothing is kept between steps but pointers that are checked: whatever the program changes in
// `param_groups` or `state` counts at the next step.
#include "python/Bindings.h"

#include "frontend/torch/Hook.h"
#include "frontend/torch/OptimizerFormula.h"
#include "frontend/torch/OptimizerStep.h"

#include <torch/csrc/autograd/python_variable.h>

#include <limits>
#include <unordered_map>

namespace py = pybind11;

namespace terra::python {

using frontend::OptimizerKind;
using frontend::OptimizerState;

namespace {

/// The optimizer is in a state that has no formula: the step runs as it is.
struct Unusual {};

PyObject *interned(const char *text) { return PyUnicode_InternFromString(text); }

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
#undef TERRA_NAME
};

const Names &names() {
  static const Names &instance = *new Names();
  return instance;
}

/// Borrowed. Missing: unusual.
PyObject *item(PyObject *dict, PyObject *key) {
  PyObject *value = PyDict_Check(dict) ? PyDict_GetItemWithError(dict, key) : nullptr;
  if (!value) {
    PyErr_Clear();
    throw Unusual();
  }
  return value;
}

double number(PyObject *value) {
  if (PyFloat_CheckExact(value))
    return PyFloat_AS_DOUBLE(value);
  if (PyLong_CheckExact(value))
    return PyLong_AsDouble(value);
  throw Unusual();
}

/// True, False or None.
double flag(PyObject *value) {
  if (value == Py_True)
    return 1;
  if (value == Py_False)
    return 0;
  if (value == Py_None)
    return -1;
  throw Unusual();
}

bool isTrue(PyObject *group, PyObject *key) {
  PyObject *value = PyDict_GetItemWithError(group, key);
  PyErr_Clear();
  return value && value != Py_False && value != Py_None;
}

const at::Tensor &tensorOf(PyObject *object) {
  if (!THPVariable_Check(object))
    throw Unusual();
  return THPVariable_Unpack(object);
}

/// `state[p]` of every parameter, looked up by hash only when the dictionary has changed: hashing a tensor is a Python call.
class StateCache {
public:
  PyObject *of(PyObject *state, PyObject *parameter, size_t position) {
    if (position >= entries_.size())
      entries_.resize(position + 1);
    Entry &entry = entries_[position];
    uint64_t version = versionOf(state);
    if (entry.parameter != parameter || entry.dict != state || entry.version != version || version == 0)
      entry = {parameter, state, item(state, parameter), version};
    return entry.value;
  }

private:
  struct Entry {
    PyObject *parameter = nullptr, *dict = nullptr,
             *value = nullptr; ///< borrowed: an equal version means an unchanged dictionary
    uint64_t version = 0;
  };

  /// 0 where the interpreter does not tell.
  static uint64_t versionOf(PyObject *dict) {
#if PY_VERSION_HEX < 0x030c0000
    return PyDict_Check(dict) ? reinterpret_cast<PyDictObject *>(dict)->ma_version_tag : 0;
#else
    return 0;
#endif
  }

  std::vector<Entry> entries_;
};

/// By optimizer. Addresses are told apart by the dictionaries' versions, so that stale entries do no harm.
StateCache &cacheOf(PyObject *optimizer) {
  static auto &caches = *new std::unordered_map<PyObject *, StateCache>();
  constexpr size_t kMaxCaches = 256;
  if (caches.size() > kMaxCaches)
    caches.clear();
  return caches[optimizer];
}

class Reader {
public:
  Reader(PyObject *optimizer, OptimizerState &out, StateCache &cache) : out_(out), cache_(cache) {
    groups_ = py::reinterpret_steal<py::object>(PyObject_GetAttr(optimizer, names().param_groups));
    state_ = py::reinterpret_steal<py::object>(PyObject_GetAttr(optimizer, names().state));
    if (!groups_ || !state_ || !PyList_CheckExact(groups_.ptr()) || !PyDict_Check(state_.ptr())) {
      PyErr_Clear();
      throw Unusual();
    }
  }

  void read() {
    for (Py_ssize_t g = 0; g < PyList_GET_SIZE(groups_.ptr()); ++g) {
      PyObject *group = PyList_GET_ITEM(groups_.ptr(), g);
      if (!PyDict_Check(group) || isTrue(group, names().differentiable) || isTrue(group, names().capturable) ||
          isTrue(group, names().fused))
        throw Unusual();
      option(flag(item(group, names().maximize)));
      option(flag(item(group, names().foreach)));
      option(number(item(group, names().weight_decay)));
      beginGroup(group);
      PyObject *params = item(group, names().params);
      if (!PyList_CheckExact(params))
        throw Unusual();
      for (Py_ssize_t i = 0; i < PyList_GET_SIZE(params); ++i, ++position_)
        readParameter(PyList_GET_ITEM(params, i));
      option(std::numeric_limits<double>::infinity()); // the group's end
    }
  }

  virtual ~Reader() = default;

protected:
  virtual void beginGroup(PyObject *group) = 0;
  /// Adds the moments and the scalars of a parameter with a gradient. `state` is null when there is none.
  virtual void addState(PyObject *parameter) = 0;

  void option(double value) { out_.options.push_back(value); }
  PyObject *stateOf(PyObject *parameter) { return cache_.of(state_.ptr(), parameter, position_); }
  void addTensor(PyObject *state, PyObject *name) { out_.tensors.push_back(tensorOf(item(state, name))); }

  OptimizerState &out_;

private:
  void readParameter(PyObject *object) {
    const at::Tensor &parameter = tensorOf(object);
    const at::Tensor &grad = parameter.grad();
    option(grad.defined());
    if (!grad.defined())
      return;
    OptimizerState::Parameter range;
    range.firstTensor = uint32_t(out_.tensors.size());
    range.firstScalar = uint32_t(out_.scalars.size());
    out_.tensors.push_back(parameter);
    out_.tensors.push_back(grad);
    addState(object);
    range.numTensors = uint32_t(out_.tensors.size()) - range.firstTensor;
    range.numScalars = uint32_t(out_.scalars.size()) - range.firstScalar;
    out_.parameters.push_back(range);
  }

  StateCache &cache_;
  py::object groups_, state_;
  size_t position_ = 0;
};

class SgdReader final : public Reader {
public:
  using Reader::Reader;

private:
  void beginGroup(PyObject *group) override {
    lr_ = number(item(group, names().lr));
    momentum_ = number(item(group, names().momentum));
    option(momentum_);
    option(number(item(group, names().dampening)));
    option(flag(item(group, names().nesterov)));
  }

  void addState(PyObject *parameter) override {
    if (momentum_ != 0)
      addTensor(stateOf(parameter), names().momentum_buffer);
    frontend::sgdScalars(lr_, out_.scalars);
  }

  double lr_ = 0, momentum_ = 0;
};

class AdamReader final : public Reader {
public:
  using Reader::Reader;

private:
  void beginGroup(PyObject *group) override {
    PyObject *betas = item(group, names().betas);
    if (!PyTuple_Check(betas) || PyTuple_GET_SIZE(betas) != 2)
      throw Unusual();
    options_.lr = number(item(group, names().lr));
    options_.beta1 = number(PyTuple_GET_ITEM(betas, 0));
    options_.beta2 = number(PyTuple_GET_ITEM(betas, 1));
    options_.weightDecay = number(item(group, names().weight_decay));
    options_.decoupled = flag(item(group, names().decoupled_weight_decay)) == 1;
    amsgrad_ = flag(item(group, names().amsgrad)) == 1;
    for (double value : {options_.beta1, options_.beta2, double(options_.decoupled), double(amsgrad_)})
      option(value);
    option(number(item(group, names().eps)));
    step_ = -1;
  }

  void addState(PyObject *parameter) override {
    PyObject *state = stateOf(parameter);
    addTensor(state, names().exp_avg);
    addTensor(state, names().exp_avg_sq);
    if (amsgrad_)
      addTensor(state, names().max_exp_avg_sq);
    const at::Tensor &count = tensorOf(item(state, names().step));
    if (!frontend::isRealCount(count))
      throw Unusual();
    double step =
        count.scalar_type() == at::kFloat ? double(float(frontend::countOf(count)) + 1) : frontend::countOf(count) + 1;
    if (step != step_) { // most parameters have made the same number of steps
      computed_.clear();
      frontend::adamScalars(options_, step, computed_);
      step_ = step;
    }
    out_.scalars.insert(out_.scalars.end(), computed_.begin(), computed_.end());
    out_.counts.push_back(count);
  }

  frontend::AdamOptions options_;
  bool amsgrad_ = false;
  double step_ = -1;
  std::vector<double> computed_;
};

struct Watched {
  std::shared_ptr<frontend::OptimizerLearner> learner;
};

/// True: the step was recognised. None: run it. Otherwise run it and give what was returned to `optimizer_ran`.
py::object step(const py::object &optimizer, const std::string &kind) {
  static OptimizerState state; // the interpreter's lock is held throughout
  StateCache &cache = cacheOf(optimizer.ptr());
  struct Clear {
    ~Clear() { state.clear(); }
  } clear;
  try {
    if (kind == "SGD") {
      state.kind = OptimizerKind::SGD;
      SgdReader(optimizer.ptr(), state, cache).read();
    } else {
      state.kind = OptimizerKind::Adam;
      AdamReader(optimizer.ptr(), state, cache).read();
    }
  } catch (const Unusual &) {
    return py::none();
  }
  frontend::OptimizerOutcome outcome = frontend::beginOptimizerStep(state);
  if (outcome.recognised)
    return py::bool_(true);
  return outcome.learner ? py::cast(Watched{std::move(outcome.learner)}) : py::none();
}

} // namespace

void bindOptimizer(py::module_ &module) {
  py::class_<Watched>(module, "WatchedStep");
  module.def("optimizer_step", &step);
  module.def("optimizer_ran", [](const Watched &watched) { frontend::finishOptimizerStep(*watched.learner); });
  module.def("co_executing", [] {
    runtime::Session *session = frontend::currentSession();
    return session && session->coExecuting();
  });
}

} // namespace terra::python
