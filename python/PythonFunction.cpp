#include "python/PythonFunction.h"

#include "frontend/torch/Hook.h"

namespace terra::python {

namespace {

enum class Where { Never, Regions, Always };
Where where = Where::Never;

} // namespace

void PatchedFunction::install(const pybind11::object &function, vectorcallfunc entry) {
  if (!PyFunction_Check(function.ptr()))
    throw pybind11::type_error("a Python function is expected");
  function_ = reinterpret_cast<PyFunctionObject *>(Py_NewRef(function.ptr()));
  code_ = Py_NewRef(PyFunction_GET_CODE(function_));
  own_ = function_->vectorcall;
#if PY_VERSION_HEX < 0x030C0000
  function_->vectorcall = entry;
#else
  PyFunction_SetVectorcall(function_, entry);
#endif
}

void PatchedFunction::serve(const std::string &text) {
  where = text == "always" ? Where::Always : text == "regions" ? Where::Regions : Where::Never;
}

bool PatchedFunction::servesHere() {
  if (where == Where::Never || (where == Where::Regions && !frontend::currentSession()))
    return false;
  PyThreadState *thread = PyThreadState_Get();
  // Debuggers and profilers see every frame; Dynamo is shown every frame while it is looking for what to compile.
  return !thread->c_tracefunc && !thread->c_profilefunc &&
         _PyInterpreterState_GetEvalFrameFunc(thread->interp) == _PyEval_EvalFrameDefault;
}

bool hasObjectGetattribute(PyTypeObject *type) {
  static PyObject *name = PyUnicode_InternFromString("__getattribute__");
  static PyObject *own = PyObject_GetAttr(reinterpret_cast<PyObject *>(&PyBaseObject_Type), name);
  return _PyType_Lookup(type, name) == own;
}

} // namespace terra::python
