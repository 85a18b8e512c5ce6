#pragma once

#include <torch/csrc/utils/pybind.h>

namespace terra::python {

void bindSession(pybind11::module_ &module); ///< Session: regions, statistics, graphs
void bindRuntime(pybind11::module_ &module); ///< synchronisation, reads, shutdown
void bindAutograd(pybind11::module_ &module); ///< backward, the engine
void bindOptimizer(pybind11::module_ &module); ///< optimizer steps
void bindDump(pybind11::module_ &module);    ///< Session.serialize, after bindSession

} // namespace terra::python
