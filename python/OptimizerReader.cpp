#include "python/OptimizerReader.h"

#include <torch/csrc/autograd/python_variable.h>

#include <limits>
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

PyObject *Reader::stateOf(PyObject *parameter) { return cacheOf(optimizer_).of(state_.ptr(), parameter, position_); }

void Reader::addTensor(PyObject *state, PyObject *name) { out_.tensors.push_back(tensorOf(item(state, name))); }

double Reader::count(PyObject *state) {
  const at::Tensor &count = tensorOf(item(state, names().step));
  if (!frontend::isRealCount(count))
    throw Unusual();
  out_.counts.push_back(count);
  double before = frontend::countOf(count);
  return count.scalar_type() == at::kFloat ? double(float(before) + 1) : before + 1;
}

std::pair<double, double> Reader::betas(PyObject *group) {
  PyObject *betas = item(group, names().betas);
  if (!PyTuple_Check(betas) || PyTuple_GET_SIZE(betas) != 2)
    throw Unusual();
  return {number(PyTuple_GET_ITEM(betas, 0)), number(PyTuple_GET_ITEM(betas, 1))};
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
  range.numTensors = uint32_t(out_.tensors.size()) - range.firstTensor;
  range.numScalars = uint32_t(out_.scalars.size()) - range.firstScalar;
  out_.parameters.push_back(range);
}

} // namespace terra::python
