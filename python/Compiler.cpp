#include "python/Bindings.h"

#include "runtime/Session.h"

namespace py = pybind11;

namespace terra::python {

namespace {
py::dict costOf(const runtime::Session &session) {
  codegen::CompileCost cost = session.compileStats().cost();
  py::dict seconds, result;
  for (size_t i = 0; i < codegen::kStages; ++i)
    seconds[codegen::kStageNames[i]] = cost.seconds[i];
  result["seconds"] = seconds;
  result["kernels_compiled"] = cost.compiled;
  result["kernels_from_memory"] = cost.fromMemory;
  result["kernels_from_disk"] = cost.fromDisk;
  result["kernels_left"] = cost.left;
  result["segments_from_cache"] = cost.wholeSegments;
  return result;
}
} // namespace

void bindCompiler(py::module_ &module) {
  module.def("compile_cost", &costOf, py::arg("session"),
             "Processor seconds by stage of a session's compilations, and where its kernels came from.");
  module.def(
      "set_compile_budget", [](runtime::Session &session, double seconds) { session.setCompileBudget(seconds); },
      py::arg("session"), py::arg("seconds"));
}

} // namespace terra::python
