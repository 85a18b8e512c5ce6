#pragma once

#include <torch/csrc/utils/pybind.h>

namespace terra::python {

void bindSession(pybind11::module_ &module); ///< Session: regions, statistics, graphs
void bindRuntime(pybind11::module_ &module); ///< synchronisation, reads, shutdown
void bindAutograd(pybind11::module_ &module); ///< backward, the engine
void bindOptimizer(pybind11::module_ &module); ///< optimizer steps
void bindDump(pybind11::module_ &module);    ///< Session.serialize, after bindSession
void bindCompiler(pybind11::module_ &module); ///< what compiling cost, after bindSession
void bindModuleCall(pybind11::module_ &module); ///< torch.nn.Module's __call__ and __getattr__
void bindGradients(pybind11::module_ &module);  ///< zero_grad

} // namespace terra::python
