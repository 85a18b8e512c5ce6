#include "python/OptimizerReader.h"

#include <torch/csrc/autograd/python_variable.h>

#include <limits>
#include <tuple>
#include <unordered_map>

namespace py = pybind11;

namespace terra::python {

using frontend::OptimizerState;

PyObject *interned(const char *text) { return PyUnicode_InternFromString(text); }

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

static bool isTrue(PyObject *group, PyObject *key) {
  PyObject *value = PyDict_GetItemWithError(group, key);
  PyErr_Clear();
  return value && value != Py_False && value != Py_None;
}

static const at::Tensor &tensorOf(PyObject *object) {
  if (!THPVariable_Check(object))
    throw Unusual();
  return THPVariable_Unpack(object);
}

namespace {

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

} // namespace

Reader::Reader(PyObject *optimizer, OptimizerState &out) : out_(out), optimizer_(optimizer) {
  groups_ = py::reinterpret_steal<py::object>(PyObject_GetAttr(optimizer, names().param_groups));
  state_ = py::reinterpret_steal<py::object>(PyObject_GetAttr(optimizer, names().state));
  if (!groups_ || !state_ || !PyList_CheckExact(groups_.ptr()) || !PyDict_Check(state_.ptr())) {
    PyErr_Clear();
    throw Unusual();
  }
}

void Reader::read() {
  for (Py_ssize_t g = 0; g < PyList_GET_SIZE(groups_.ptr()); ++g) {
    PyObject *group = PyList_GET_ITEM(groups_.ptr(), g);
    readCommon(group);
    beginGroup(group);
    PyObject *params = item(group, names().params);
    if (!PyList_CheckExact(params))
      throw Unusual();
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(params); ++i, ++position_)
      readParameter(PyList_GET_ITEM(params, i));
    option(std::numeric_limits<double>::infinity()); // the group's end
  }
}

void Reader::readCommon(PyObject *group) {
  if (!PyDict_Check(group) || isTrue(group, names().differentiable) || isTrue(group, names().capturable))
    throw Unusual();
  common_ = graph::kNever;
  foreach_ = isTrue(group, names().foreach);
  fused_ = isTrue(group, names().fused);
  if (fused_ && !mayBeFused())
    throw Unusual();
  PyObject *decay = PyDict_GetItemWithError(group, names().weight_decay); // Rprop has none
  weightDecay_ = decay ? number(decay) : 0;
  for (double value : {double(isTrue(group, names().maximize)), double(foreach_), double(fused_), weightDecay_})
    option(value);
}

frontend::AdamOptions Reader::adamOptions(PyObject *group) {
  frontend::AdamOptions options{.lr = rate(group), .weightDecay = weightDecay()};
  std::tie(options.beta1, options.beta2) = betas(group);
  options.decoupled = flag(item(group, names().decoupled_weight_decay)) == 1;
  for (double value : {options.beta1, options.beta2, double(options.decoupled), number(item(group, names().eps))})
    option(value);
  return options;
}

PyObject *Reader::stateOf(PyObject *parameter) { return cacheOf(optimizer_).of(state_.ptr(), parameter, position_); }

void Reader::addTensor(PyObject *state, PyObject *name) { out_.tensors.push_back(tensorOf(item(state, name))); }

double Reader::count(PyObject *state) {
  auto [tensor, before] = stateNumber(state, names().step);
  return change(tensor, before + 1);
}

void Reader::addCommon(double value) {
  if (common_ != graph::kNever)
    return;
  common_ = uint32_t(out_.scalars.size());
  out_.scalars.push_back(value);
}

std::pair<at::Tensor, double> Reader::stateNumber(PyObject *state, PyObject *name) {
  const at::Tensor &tensor = tensorOf(item(state, name));
  if (!frontend::isRealNumber(tensor))
    throw Unusual();
  return {tensor, frontend::numberIn(tensor)};
}

double Reader::change(const at::Tensor &tensor, double after) {
  if (tensor.scalar_type() == at::kFloat)
    after = double(float(after));
  out_.numbers.push_back({tensor, after});
  return after;
}

frontend::Rate Reader::rate(PyObject *group) {
  using Kind = frontend::Rate::Kind;
  PyObject *object = item(group, names().lr);
  frontend::Rate rate;
  if (!THPVariable_Check(object)) {
    rate.value = number(object);
  } else {
    const at::Tensor &tensor = THPVariable_Unpack(object);
    if (tensor.requires_grad() || !frontend::isRealNumber(tensor))
      throw Unusual();
    rate = {tensor.scalar_type() == at::kFloat ? Kind::Float : Kind::Double, frontend::numberIn(tensor)};
  }
  option(double(rate.kind));
  return rate;
}

std::pair<double, double> Reader::pair(PyObject *tuple) {
  if (!PyTuple_Check(tuple) || PyTuple_GET_SIZE(tuple) != 2)
    throw Unusual();
  return {number(PyTuple_GET_ITEM(tuple, 0)), number(PyTuple_GET_ITEM(tuple, 1))};
}

void Reader::readParameter(PyObject *object) {
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
  range.common = common_;
  range.numTensors = uint32_t(out_.tensors.size()) - range.firstTensor;
  range.numScalars = uint32_t(out_.scalars.size()) - range.firstScalar;
  out_.parameters.push_back(range);
}

} // namespace terra::python
