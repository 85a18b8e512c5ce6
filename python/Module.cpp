// The extension module: one function a topic registers its bindings.
#include "python/Bindings.h"

PYBIND11_MODULE(_C, module) {
  terra::python::bindSession(module);
  terra::python::bindRuntime(module);
  terra::python::bindAutograd(module);
  terra::python::bindOptimizer(module);
  terra::python::bindDump(module);
  terra::python::bindCompiler(module);
  terra::python::bindModuleCall(module);
  terra::python::bindGradients(module);
}
