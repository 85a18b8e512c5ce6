#include "python/Bindings.h"

#include "frontend/torch/Frontend.h"
#include "frontend/torch/Hook.h"

#include <torch/csrc/autograd/python_variable.h>

#include <sstream>

namespace py = pybind11;

namespace terra::python {

namespace {

/// Waiting threads give the interpreter back, and look for signals now and then.
runtime::Runtime::Blocking blocking() {
  runtime::Runtime::Blocking result;
  result.begin = []() -> void * { return PyGILState_Check() ? PyEval_SaveThread() : nullptr; };
  result.end = [](void *state) {
    if (state)
      PyEval_RestoreThread(static_cast<PyThreadState *>(state));
  };
  result.poll = [] {
    if (!Py_IsInitialized())
      return;
    py::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0)
      throw py::error_already_set();
  };
  return result;
}

/// "train.py:12 in forward < train.py:40 in step": the user's frames, innermost first.
std::string location() {
  py::gil_scoped_acquire acquire;
  std::ostringstream os;
  PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
  int shown = 0;
  while (frame && shown < 4) {
    PyCodeObject *code = PyFrame_GetCode(frame);
    std::string file = py::cast<std::string>(py::handle(code->co_filename));
    bool library = file.find("/torch/") != std::string::npos || file.find("/terra/") != std::string::npos;
    if (!library) {
      size_t slash = file.rfind('/');
      os << (shown ? " < " : "") << (slash == std::string::npos ? file : file.substr(slash + 1)) << ':'
         << PyFrame_GetLineNumber(frame) << " in " << py::cast<std::string>(py::handle(code->co_name));
      ++shown;
    }
    Py_DECREF(code);
    PyFrameObject *back = PyFrame_GetBack(frame);
    Py_DECREF(frame);
    frame = back;
  }
  Py_XDECREF(frame);
  return os.str();
}

void read(const py::object &object, bool exposes) {
  if (!THPVariable_Check(object.ptr()))
    return;
  const at::Tensor &tensor = THPVariable_Unpack(object.ptr());
  py::gil_scoped_release release;
  frontend::readTensor(tensor, exposes);
}

/// Replaces a method of a type that Python code cannot change (torch.Generator is a static type).
void replaceMethod(const py::object &type, const std::string &name, const py::object &method) {
  auto *object = reinterpret_cast<PyTypeObject *>(type.ptr());
  if (PyDict_SetItemString(object->tp_dict, name.c_str(), method.ptr()) != 0)
    throw py::error_already_set();
  PyType_Modified(object);
}

py::list undeliveredErrors() {
  py::list result;
  for (const auto &failure : frontend::runtimeInstance().takeUndelivered()) {
    failure->markDelivered();
    std::string text;
    try {
      std::rethrow_exception(failure->error);
    } catch (const std::exception &e) {
      text = e.what();
    } catch (...) {
      text = "unknown error";
    }
    result.append(py::make_tuple(failure->op, failure->location, text));
  }
  return result;
}

} // namespace

void bindRuntime(py::module_ &module) {
  frontend::runtimeInstance().setBlocking(blocking());
  frontend::setLocationSource(&location);
  auto release = py::call_guard<py::gil_scoped_release>();
  module.def("synchronize", [] { frontend::runtimeInstance().synchronize(); }, release);
  module.def("pending", [] { return frontend::runtimeInstance().pending(); });
  module.def("graph_seconds", [] { return frontend::runtimeInstance().runner().busySeconds(); });
  module.def("read", &read, py::arg("tensor"), py::arg("exposes") = false);
  module.def("read_generator", [] { frontend::readGenerator(); }, release);
  module.def("barrier", [] { frontend::barrier(); }, release);
  module.def("begin_real", &frontend::beginReal);
  module.def("end_real", &frontend::endReal);
  module.def("replace_method", &replaceMethod);
  module.def("listen", [] { frontend::listenOnThisThread(); });
  module.def("undelivered_errors", &undeliveredErrors);
  module.def("shutdown", [] { frontend::runtimeInstance().shutdown(); }, release);
  module.def("before_fork", [] { frontend::runtimeInstance().drain(); }, release);
  module.def("forget", [] { frontend::runtimeInstance().forget(); });
}

} // namespace terra::python
