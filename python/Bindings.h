#pragma once

#include <torch/csrc/utils/pybind.h>

namespace terra::python {

void bindSession(pybind11::module_ &module); ///< Session: regions, statistics, graphs
void bindRuntime(pybind11::module_ &module); ///< synchronisation, reads, shutdown
void bindDump(pybind11::module_ &module);    ///< Session.serialize, after bindSession

} // namespace terra::python
