#pragma once

#include <torch/csrc/utils/pybind.h>

namespace terra::python {

void bindSession(pybind11::module_ &module); ///< Session: regions, statistics, graphs
void bindRuntime(pybind11::module_ &module); ///< synchronisation, reads, shutdown

} // namespace terra::python
