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

/// A leaf whose `grad` is what C++ knows of it: no subclass, property or __torch_function__ has a say.
bool isPlainLeaf(PyObject *object) {
  static PyObject *name = intern("grad");
  static PyObject *own = _PyType_Lookup(reinterpret_cast<PyTypeObject *>(THPVariableClass), name);
  PyTypeObject *type = Py_TYPE(object);
  return THPVariable_Check(object) && hasObjectGetattribute(type) && hasNoTorchFunction(type) &&
         _PyType_Lookup(type, name) == own && THPVariable_Unpack(object).is_leaf();
}

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
  explicit ModuleWalk(PyTypeObject *module) : module_(module) {}

  void add(PyObject *module, Objects &found) {
    static PyObject *parameters = intern("_parameters"), *modules = intern("_modules"),
                    *replica = intern("_is_replica");
    if (!seen_.insert(module).second)
      return;
    checkClass(Py_TYPE(module));
    if (plainAttribute(module, replica))
      throw NotPlain();
    Py_ssize_t position = 0;
    PyObject *key, *value;
    PyObject *own = plainDict(plainAttribute(module, parameters));
    while (PyDict_Next(own, &position, &key, &value))
      if (value != Py_None)
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
  std::unordered_set<PyObject *> seen_;
};

void clear(const Objects &parameters) {
  for (PyObject *parameter : parameters)
    if (!isPlainLeaf(parameter))
      throw NotPlain();
  // Strong references while gradients die: that may run anything.
  std::vector<at::Tensor> tensors;
  tensors.reserve(parameters.size());
  for (PyObject *parameter : parameters)
    if (const at::Tensor &tensor = THPVariable_Unpack(parameter); tensor.grad().defined())
      tensors.push_back(tensor);
  for (const at::Tensor &tensor : tensors)
    tensor.mutable_grad().reset();
}

/// `optimizer.zero_grad()`. False: nothing was done, Python's own code has to.
bool clearOptimizer(const py::handle &optimizer) {
  if (isWatched())
    return false;
  try {
    Objects found;
    addParameters(optimizer.ptr(), found);
    clear(found);
    return true;
  } catch (const NotPlain &) {
    PyErr_Clear();
    return false;
  }
}

/// `module.zero_grad()`, likewise. `base`: torch.nn.Module.
bool clearModule(const py::handle &module, const py::handle &base) {
  if (isWatched())
    return false;
  try {
    Objects found;
    ModuleWalk(reinterpret_cast<PyTypeObject *>(base.ptr())).add(module.ptr(), found);
    clear(found);
    return true;
  } catch (const NotPlain &) {
    PyErr_Clear();
    return false;
  }
}

} // namespace

void bindGradients(py::module_ &module) {
  module.def("clear_optimizer", &clearOptimizer);
  module.def("clear_module", &clearModule);
}

} // namespace terra::python
