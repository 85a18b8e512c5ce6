#include "python/Bindings.h"

#include "frontend/torch/HostCall.h"
#include "graph/Serialize.h"
#include "runtime/Session.h"

#include <sstream>

namespace py = pybind11;

namespace terra::python {

namespace {

std::string describeOpaque(const graph::Event &event, uint32_t arg) {
  auto *call = static_cast<const frontend::HostCall *>(event.host.get());
  if (!call || arg >= call->args.size())
    return {};
  const c10::IValue &value = call->args[arg];
  // Anything else may hold tensors, whose data is not ours to wait for or to write down.
  if (!value.isDevice() && !value.isScalar() && !value.isComplexDouble() && !value.isStream())
    return value.tagKind();
  std::ostringstream os;
  os << value;
  return os.str();
}

py::bytes serialize(const runtime::Session &session, const std::string &function) {
  graph::Dump dump;
  dump.function = function;
  dump.numerics = session.options().numerics == codegen::Numerics::Exact ? "exact" : "fast";
  dump.graph = session.graph();
  for (const auto &segment : session.program().segments())
    dump.segments.push_back({segment->nodes(), segment->deaths(), segment->walks(), segment->compileError()});
  return graph::serialize(dump, &describeOpaque);
}

} // namespace

void bindDump(py::module_ &module) {
  py::object session = module.attr("Session");
  session.attr("serialize") = py::cpp_function(&serialize, py::name("serialize"), py::is_method(session),
                                               py::arg("function"), "What was learned, in the format of terra-dump.");
}

} // namespace terra::python
