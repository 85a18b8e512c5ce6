// Python functions whose calls from C are served by C++, and what CPython's versions call alike things.
#pragma once

#include "python/Bindings.h"

#include <torch/csrc/utils/pythoncapi_compat.h>

namespace terra::python {

/// A Python function with another vectorcall entry, kept alive for good.
class PatchedFunction {
public:
  /// `entry` must do what the function does, or call `callOwn`.
  void install(const pybind11::object &function, vectorcallfunc entry);

  PyObject *object() const { return reinterpret_cast<PyObject *>(function_); }
  /// The function's own code.
  PyObject *callOwn(PyObject *const *args, size_t count, PyObject *keywords) const {
    return own_(object(), args, count, keywords);
  }
  /// Whether its calls are to be served now on this thread: its code is still the same, and nobody watches frames.
  bool serves() const { return function_ && PyFunction_GET_CODE(function_) == code_ && servesHere(); }

  /// "never", "regions" (of Terra, on their thread) or "always".
  static void serve(const std::string &where);
  static bool servesHere();

private:
  PyFunctionObject *function_ = nullptr;
  PyObject *code_ = nullptr;
  vectorcallfunc own_ = nullptr;
};

/// Changes whenever something in the class or its bases does. 0: has none.
inline unsigned versionTag(PyTypeObject *type) {
#if PY_VERSION_HEX < 0x030D0000
  return PyType_HasFeature(type, Py_TPFLAGS_VALID_VERSION_TAG) ? type->tp_version_tag : 0;
#else
  return type->tp_version_tag;
#endif
}

bool hasObjectGetattribute(PyTypeObject *type);

} // namespace terra::python
