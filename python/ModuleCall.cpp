// torch.nn.Module's __call__ and __getattr__ without the interpreter, where all that they do is to pass on.
//
// The Python functions stay what they are: same objects, same code, same places, so that pickling, inspection, Dynamo,
// torch.fx, TorchScript and whoever replaces them meet PyTorch's own. Only their vectorcall entries differ, which
// CPython allows as long as behaviour is preserved (PyFunction_SetVectorcall): an entry serves the plain case and
// leaves every other one, before anything has happened, to the function's own code. What a program can tell is that
// frames of torch/nn/modules/module.py are missing from tracebacks.
#include "python/Bindings.h"
#include "python/PythonFunction.h"

#include <torch/csrc/jit/frontend/tracer.h>

#include <array>

namespace py = pybind11;

namespace terra::python {

namespace {

/// What is true of a class for as long as it has this version tag.
struct ClassFacts {
  PyTypeObject *type = nullptr;
  unsigned version = 0;
  bool plainLookup = false;    ///< attributes come from the class and the instance's own __dict__ first
  bool plainCall = false;      ///< and Module._call_impl runs, and what it reads is in no class
  PyObject *forward = nullptr; ///< borrowed from the class: a Python function
};

struct Names {
  PyObject *dict, *getattr, *getattribute, *callImpl, *compiledCall, *forward;
  std::array<PyObject *, 3> members;
  std::array<PyObject *, 4> hooks, globalHooks;
};

struct Counts {
  uint64_t calls = 0, lookups = 0;
};

Names names;
PatchedFunction moduleCall, moduleGetattr;
PyFunctionObject *callImpl = nullptr; ///< Module._call_impl, called by nobody here
PyObject *callImplCode = nullptr;
PyObject *callImplGlobals = nullptr;
Counts counts;

bool isPlainDict(PyObject *object) { return PyDict_CheckExact(object) || PyODict_CheckExact(object); }

ClassFacts learn(PyTypeObject *type) {
  ClassFacts facts;
  facts.type = type;
  PyObject *own = _PyType_Lookup(type, names.dict);
  facts.plainLookup = hasObjectGetattribute(type) && own && Py_IS_TYPE(own, &PyGetSetDescr_Type);
  facts.plainCall = facts.plainLookup &&
                    _PyType_Lookup(type, names.callImpl) == reinterpret_cast<PyObject *>(callImpl) &&
                    _PyType_Lookup(type, names.compiledCall) == Py_None;
  for (PyObject *name : names.hooks)
    facts.plainCall = facts.plainCall && !_PyType_Lookup(type, name);
  PyObject *forward = _PyType_Lookup(type, names.forward);
  if (forward && PyFunction_Check(forward))
    facts.forward = forward;
  facts.version = versionTag(type); // looking up has given it one
  return facts;
}

/// Under the GIL. The reference holds until the next call.
const ClassFacts &factsOf(PyTypeObject *type) {
  static std::array<ClassFacts, 512> known;
  ClassFacts &facts = known[(reinterpret_cast<uintptr_t>(type) >> 4) % known.size()];
  if (facts.type != type || facts.version == 0 || facts.version != versionTag(type))
    facts = learn(type);
  return facts;
}

/// The instance's attributes, borrowed. Null: has none.
PyObject *dictOf(PyObject *self) {
  PyObject **dict = _PyObject_GetDictPtr(self);
  return dict && *dict && PyDict_Check(*dict) ? *dict : nullptr;
}

/// A parameter, buffer or submodule (a new reference); null, if there is none or if it takes Python to know, or, with an
/// exception set, if comparing keys failed.
PyObject *member(PyObject *self, PyObject *name) {
  PyObject *dict = dictOf(self);
  if (!dict || !PyUnicode_CheckExact(name))
    return nullptr;
  for (PyObject *kind : names.members) {
    PyObject *values = PyDict_GetItemWithError(dict, kind);
    if (!values) {
      if (PyErr_Occurred())
        return nullptr;
      continue;
    }
    if (!isPlainDict(values))
      return nullptr;
    if (PyObject *value = PyDict_GetItemWithError(values, name)) {
      ++counts.lookups;
      return Py_NewRef(value);
    }
    if (PyErr_Occurred())
      return nullptr;
  }
  return nullptr;
}

#if PY_VERSION_HEX < 0x030C0000
// Before Python 3.12 a class with __getattr__ makes and discards an AttributeError for each attribute that is not found
// at once, and the interpreter specialises no attribute access of such classes. So the classes whose __getattr__ is
// Module's get this slot, when they are first seen. CPython puts its own back whenever one of their special methods
// changes.
getattrofunc standardLookup = nullptr; ///< CPython's slot of classes with __getattr__

PyObject *lookup(PyObject *self, PyObject *name) {
  PyTypeObject *type = Py_TYPE(self);
  if (!moduleGetattr.serves() || !factsOf(type).plainLookup ||
      _PyType_Lookup(type, names.getattr) != moduleGetattr.object())
    return standardLookup(self, name);
  PyObject *value = _PyObject_GenericGetAttrWithDict(self, name, nullptr, /*suppress=*/1);
  if (value || PyErr_Occurred())
    return value;
  if (PyObject *found = member(self, name); found || PyErr_Occurred())
    return found;
  PyObject *arguments[] = {self, name};
  return moduleGetattr.callOwn(arguments, 2, nullptr); // raises
}

void improve(PyTypeObject *type) {
  if (type->tp_getattro == standardLookup && PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE) &&
      _PyType_Lookup(type, names.getattr) == moduleGetattr.object())
    type->tp_getattro = lookup;
}
#else
void improve(PyTypeObject *) {}
#endif

PyObject *getattrEntry(PyObject *, PyObject *const *args, size_t count, PyObject *keywords) {
  if (PyVectorcall_NARGS(count) == 2 && !keywords && moduleGetattr.serves()) {
    PyTypeObject *type = Py_TYPE(args[0]);
    if (factsOf(type).plainLookup) {
      PyObject *found = member(args[0], args[1]);
      if (found)
        improve(type);
      if (found || PyErr_Occurred())
        return found;
    }
  }
  return moduleGetattr.callOwn(args, count, keywords);
}

/// 1: a dictionary with something in it, or not a dictionary. 0: an empty one. 1 also if it is missing.
bool mayHave(PyObject *dict, PyObject *name) {
  PyObject *hooks = PyDict_GetItemWithError(dict, name);
  return !hooks || !isPlainDict(hooks) || PyDict_GET_SIZE(hooks) != 0;
}

/// What `self(...)` comes down to: `forward`, a new reference, and whether it takes self. Null: run Module's own code.
PyObject *plainForward(PyObject *self, bool &takesSelf) {
  if (PyFunction_GET_CODE(callImpl) != callImplCode || torch::jit::tracer::getTracingState())
    return nullptr;
  const ClassFacts &facts = factsOf(Py_TYPE(self));
  PyObject *dict = dictOf(self);
  PyObject *forward = facts.forward;
  if (!facts.plainCall || !forward || !dict)
    return nullptr;
  for (size_t i = 0; i < names.hooks.size(); ++i)
    if (mayHave(dict, names.hooks[i]) || mayHave(callImplGlobals, names.globalHooks[i]))
      return nullptr;
  if (PyDict_GetItemWithError(dict, names.compiledCall) || PyDict_GetItemWithError(dict, names.callImpl))
    return nullptr;
  PyObject *own = PyDict_GetItemWithError(dict, names.forward);
  takesSelf = !own;
  return Py_NewRef(own ? own : forward);
}

PyObject *callEntry(PyObject *, PyObject *const *args, size_t count, PyObject *keywords) {
  Py_ssize_t positional = PyVectorcall_NARGS(count);
  bool takesSelf = false;
  PyObject *forward = positional > 0 && moduleCall.serves() ? plainForward(args[0], takesSelf) : nullptr;
  if (PyErr_Occurred()) { // a comparison of keys failed: the interpreter gets to see it itself
    PyErr_Clear();
    Py_CLEAR(forward);
  }
  if (!forward)
    return moduleCall.callOwn(args, count, keywords);
  ++counts.calls;
  PyObject *result = takesSelf ? PyObject_Vectorcall(forward, args, count, keywords)
                               : PyObject_Vectorcall(forward, args + 1, size_t(positional - 1), keywords);
  Py_DECREF(forward);
  return result;
}

void nameAttributes() {
  auto intern = [](const char *text) { return PyUnicode_InternFromString(text); };
  names = {intern("__dict__"),
           intern("__getattr__"),
           intern("__getattribute__"),
           intern("_call_impl"),
           intern("_compiled_call_impl"),
           intern("forward"),
           {intern("_parameters"), intern("_buffers"), intern("_modules")},
           {intern("_backward_hooks"), intern("_backward_pre_hooks"), intern("_forward_hooks"),
            intern("_forward_pre_hooks")},
           {intern("_global_backward_hooks"), intern("_global_backward_pre_hooks"), intern("_global_forward_hooks"),
            intern("_global_forward_pre_hooks")}};
}

/// The functions are Module's own, in the form that this file knows (terra._module looks).
void install(const py::type &module) {
  nameAttributes();
  py::dict own = module.attr("__dict__").attr("copy")();
  callImpl = reinterpret_cast<PyFunctionObject *>(py::object(own["_call_impl"]).release().ptr());
  callImplCode = Py_NewRef(PyFunction_GET_CODE(callImpl));
  callImplGlobals = PyFunction_GET_GLOBALS(callImpl);
  moduleCall.install(own["_wrapped_call_impl"], callEntry);
  moduleGetattr.install(own["__getattr__"], getattrEntry);
#if PY_VERSION_HEX < 0x030C0000
  standardLookup = reinterpret_cast<PyTypeObject *>(module.ptr())->tp_getattro;
#endif
}

} // namespace

void bindModuleCall(py::module_ &module) {
  module.def("install_module_calls", &install, py::arg("module"));
  module.def("module_call_counts", [] { return py::make_tuple(counts.calls, counts.lookups); });
  module.def("serve_module_calls", [](const std::string &where) { PatchedFunction::serve(where); });
}

} // namespace terra::python
