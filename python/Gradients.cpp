// The loops over parameters that training programs run each step: `zero_grad`, the list of gradients to clip.
#include "python/Bindings.h"
#include "python/PythonFunction.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/record_function.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/python_variable.h>

#include <unordered_set>

namespace py = pybind11;

namespace terra::python {

namespace {

/// Steps towards an answer that only Python's own code can give end with this: nothing has been changed yet.
struct NotPlain {};

PyObject *intern(const char *text) { return PyUnicode_InternFromString(text); }

/// An attribute that is in the instance's dictionary, and that no class intercepts. Borrowed.
PyObject *plainAttribute(PyObject *object, PyObject *name) {
  PyObject **dict = _PyObject_GetDictPtr(object);
  if (!dict || !*dict || !hasObjectGetattribute(Py_TYPE(object)) || _PyType_Lookup(Py_TYPE(object), name))
    throw NotPlain();
  return PyDict_GetItemWithError(*dict, name);
}

PyObject *plainList(PyObject *object) {
  if (!object || !PyList_CheckExact(object))
    throw NotPlain();
  return object;
}

PyObject *plainDict(PyObject *object) {
  if (!object || !(PyDict_CheckExact(object) || PyODict_CheckExact(object)))
    throw NotPlain();
  return object;
}

/// torch.Tensor itself, or a class that, like Parameter, has switched __torch_function__ off.
bool hasNoTorchFunction(PyTypeObject *type) {
  static PyObject *name = intern("__torch_function__");
  static PyObject *off =
      py::module_::import("torch._C").attr("_disabled_torch_function_impl").cast<py::object>().release().ptr();
  return reinterpret_cast<PyObject *>(type) == THPVariableClass || _PyType_Lookup(type, name) == off;
}

/// `grad` of this class is what C++ knows of it: no subclass, property or __torch_function__ has a say.
bool hasPlainGrad(PyTypeObject *type) {
  static PyObject *name = intern("grad");
  static PyObject *own = _PyType_Lookup(reinterpret_cast<PyTypeObject *>(THPVariableClass), name);
  return hasObjectGetattribute(type) && hasNoTorchFunction(type) && _PyType_Lookup(type, name) == own;
}

/// Tells parameters from other things, asking once for each class in a row.
class LeafCheck {
public:
  const at::Tensor &operator()(PyObject *object) {
    if (Py_TYPE(object) != known_) {
      if (!THPVariable_Check(object) || !hasPlainGrad(Py_TYPE(object)))
        throw NotPlain();
      known_ = Py_TYPE(object);
    }
    const at::Tensor &tensor = THPVariable_Unpack(object);
    if (!tensor.is_leaf())
      throw NotPlain();
    return tensor;
  }

private:
  PyTypeObject *known_ = nullptr;
};

/// Someone counts or changes what is called: no step may be left out then.
bool isWatched() {
  return !PatchedFunction::servesHere() || at::hasCallbacks() || at::impl::torch_function_mode_enabled() ||
         c10::impl::TorchDispatchModeTLS::any_modes_set();
}

using Objects = std::vector<PyObject *>; ///< borrowed from what they were found in

void addParameters(PyObject *optimizer, Objects &found) {
  static PyObject *groups = intern("param_groups"), *params = intern("params"), *defaults = intern("defaults"),
                  *profileName = intern("_zero_grad_profile_name");
  if (!plainAttribute(optimizer, defaults) || !plainAttribute(optimizer, profileName))
    throw NotPlain();
  PyObject *list = plainList(plainAttribute(optimizer, groups));
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); ++i) {
    PyObject *members = plainList(PyDict_GetItemWithError(plainDict(PyList_GET_ITEM(list, i)), params));
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(members); ++k)
      found.push_back(PyList_GET_ITEM(members, k));
  }
}

/// The classes whose `parameters()` is known to be a walk over _parameters and _modules.
class ModuleWalk {
public:
  explicit ModuleWalk(PyObject *base) : module_(reinterpret_cast<PyTypeObject *>(base)) {}

  void add(PyObject *module, Objects &found) {
    static PyObject *parameters = intern("_parameters"), *modules = intern("_modules");
    if (!seen_.insert(module).second)
      return;
    checkClass(Py_TYPE(module));
    Py_ssize_t position = 0;
    PyObject *key, *value;
    PyObject *own = plainDict(plainAttribute(module, parameters));
    while (PyDict_Next(own, &position, &key, &value))
      if (value != Py_None && seen_.insert(value).second)
        found.push_back(value);
    PyObject *children = plainDict(plainAttribute(module, modules));
    position = 0;
    while (PyDict_Next(children, &position, &key, &value))
      if (value != Py_None)
        add(value, found);
  }

private:
  void checkClass(PyTypeObject *type) {
    static PyObject *const names[] = {intern("parameters"), intern("named_parameters"), intern("named_modules"),
                                      intern("_named_members")};
    if (type == checked_)
      return;
    for (PyObject *name : names) {
      PyObject *method = _PyType_Lookup(type, name);
      if (!method || method != _PyType_Lookup(module_, name))
        throw NotPlain();
    }
    checked_ = type;
  }

  PyTypeObject *module_;
  PyTypeObject *checked_ = nullptr;
  std::unordered_set<PyObject *> seen_; ///< modules and parameters: each counts once
};

void clear(const Objects &parameters) {
  LeafCheck leaf;
  std::vector<at::Tensor> tensors; // owned while gradients die: that may run anything
  for (PyObject *parameter : parameters)
    if (const at::Tensor &tensor = leaf(parameter); tensor.grad().defined())
      tensors.push_back(tensor);
  for (const at::Tensor &tensor : tensors)
    tensor.mutable_grad().reset();
}

/// Runs what may end with NotPlain. False: it did, or someone watches; Python's own code has to do the work.
template <typename F> bool serve(F work) {
  if (isWatched())
    return false;
  try {
    work();
    return true;
  } catch (const NotPlain &) {
    PyErr_Clear();
    return false;
  }
}

/// `optimizer.zero_grad()`.
bool clearOptimizer(const py::handle &optimizer) {
  return serve([&] {
    Objects found;
    addParameters(optimizer.ptr(), found);
    clear(found);
  });
}

/// `module.zero_grad()`. `base`: torch.nn.Module.
bool clearModule(const py::handle &module, const py::handle &base) {
  return serve([&] {
    static PyObject *replica = intern("_is_replica");
    Objects found;
    ModuleWalk(base.ptr()).add(module.ptr(), found);
    if (plainAttribute(module.ptr(), replica))
      throw NotPlain();
    clear(found);
  });
}

/// `list(module.parameters())`, or None.
py::object moduleParameters(const py::handle &module, const py::handle &base) {
  py::object result = py::none();
  serve([&] {
    Objects found;
    ModuleWalk(base.ptr()).add(module.ptr(), found);
    py::list all(found.size());
    for (size_t i = 0; i < found.size(); ++i)
      all[i] = py::reinterpret_borrow<py::object>(found[i]);
    result = std::move(all);
  });
  return result;
}

/// The gradients of a list or tuple of parameters, if they are plain tensors that foreach operations take together; else
/// None.
py::object gradients(const py::handle &parameters) {
  py::object result = py::none();
  serve([&] {
    if (!PyList_CheckExact(parameters.ptr()) && !PyTuple_CheckExact(parameters.ptr()))
      throw NotPlain();
    py::list all;
    at::Tensor first;
    LeafCheck leaf;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(parameters.ptr()); ++i) {
      PyObject *parameter = PySequence_Fast_GET_ITEM(parameters.ptr(), i);
      const at::Tensor &gradient = leaf(parameter).grad();
      if (!gradient.defined())
        continue;
      if (!first.defined())
        first = gradient;
      auto object = py::reinterpret_steal<py::object>(THPVariable_Wrap(gradient));
      if (reinterpret_cast<PyObject *>(Py_TYPE(object.ptr())) != THPVariableClass ||
          gradient.device() != first.device() || gradient.dtype() != first.dtype() ||
          !(gradient.is_cpu() || gradient.is_cuda()))
        throw NotPlain();
      all.append(object);
    }
    result = std::move(all);
  });
  return result;
}

} // namespace

void bindGradients(py::module_ &module) {
  module.def("clear_optimizer", &clearOptimizer);
  module.def("clear_module", &clearModule);
  module.def("module_parameters", &moduleParameters);
  module.def("gradients", &gradients);
}

} // namespace terra::python
