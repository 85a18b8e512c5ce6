#include "python/Bindings.h"

#include "frontend/torch/Frontend.h"
#include "runtime/Session.h"

#include <pybind11/stl.h>

namespace py = pybind11;

namespace terra::python {

using runtime::Session;
using runtime::SessionOptions;

namespace {

/// Calls `function` as a region, or eagerly. Python never sees an extra frame.
py::object call(Session &session, const py::object &function, const py::args &args, const py::kwargs &kwargs) {
  frontend::Entry entry;
  {
    py::gil_scoped_release release;
    entry = frontend::enterCall(session);
  }
  if (entry == frontend::Entry::Inside)
    return function(*args, **kwargs);
  py::object result;
  try {
    result = function(*args, **kwargs);
  } catch (...) {
    py::gil_scoped_release release;
    frontend::exitCall(session, entry, /*raised=*/true);
    throw;
  }
  py::gil_scoped_release release;
  frontend::exitCall(session, entry, /*raised=*/false);
  return result;
}

py::dict stats(Session &session) {
  runtime::SessionStats s = session.stats();
  const runtime::CompileStats &c = session.compileStats();
  py::dict result;
  result["regions_recorded"] = s.regionsRecorded;
  result["regions_coexecuted"] = s.regionsCoexecuted;
  result["regions_diverged"] = s.regionsDiverged;
  result["regions_failed"] = s.regionsFailed;
  runtime::Pace::Summary pace = session.pacing().summary();
  result["regions_eager"] = pace.eagerCalls;
  result["given_back"] = pace.givenBack;
  result["verdicts"] = pace.verdicts;
  result["graph_call_seconds"] = pace.graphSeconds;
  result["eager_call_seconds"] = pace.eagerSeconds;
  result["events"] = s.events;
  result["gates"] = s.gates;
  result["side_runs"] = s.sideRuns;
  result["spans"] = s.spans;
  result["span_events"] = s.spanEvents;
  result["pieces"] = s.pieces;
  result["pieces_stepped"] = s.piecesStepped;
  result["survivors"] = s.survivors;
  result["segments_inherited"] = s.inherited;
  result["sizes"] = session.specialisations();
  result["skeleton_seconds"] = s.skeletonSeconds;
  result["wait_seconds"] = s.waitSeconds;
  result["compile_seconds"] = double(c.nanos.load()) * 1e-9;
  result["segments_compiled"] = c.segments.load();
  result["kernels_compiled"] = c.kernels.load();
  result["graph_nodes"] = session.graph().size();
  result["segments"] = session.program().segments().size();
  return result;
}

/// A segment as plain data, for `terra.explain`.
py::dict describe(const runtime::CompiledSegment &segment) {
  py::dict result;
  py::list events;
  for (const graph::SegmentEvent &e : segment.segment().events)
    events.append(py::make_tuple(std::string(e.event->name()), e.event->location, e.event->gate));
  result["events"] = events;
  py::list spans;
  for (uint32_t event = 0; event < segment.segment().events.size(); ++event)
    for (const auto &span : segment.spansAt(event))
      spans.append(py::make_tuple(span->first, span->count, std::string(span->call.event->name())));
  result["spans"] = spans;
  result["nodes"] = segment.nodes();
  result["walks"] = segment.walks();
  result["structure"] = segment.structure();
  result["compiled"] = segment.compiled();
  result["compile_error"] = segment.compileError();
  py::list instructions;
  auto executable = segment.executable();
  for (const codegen::Instruction &i : executable->instructions) {
    const char *kind = i.kind == codegen::Instruction::Kind::Kernel   ? "kernel"
                       : i.kind == codegen::Instruction::Kind::Extern ? "extern"
                                                                      : "nothing";
    instructions.append(py::make_tuple(std::string(kind), i.events, i.trigger));
  }
  result["instructions"] = instructions;
  return result;
}

py::list segments(const Session &session) {
  py::list result;
  for (const auto &segment : session.program().segments())
    result.append(describe(*segment));
  return result;
}

} // namespace

void bindSession(py::module_ &module) {
  py::class_<Session, std::shared_ptr<Session>>(module, "Session")
      .def(py::init([](const std::string &numerics, bool preciseErrors, const std::string &mode, bool neverSlower) {
             SessionOptions options;
             options.numerics = numerics == "exact" ? codegen::Numerics::Exact : codegen::Numerics::Fast;
             options.preciseErrors = preciseErrors;
             options.recordOnly = mode == "record";
             options.neverSlower = neverSlower;
             return std::make_shared<Session>(frontend::runtimeInstance(), options);
           }),
           py::arg("numerics"), py::arg("precise_errors"), py::arg("mode"), py::arg("never_slower"))
      .def("call", &call)
      .def("stats", &stats)
      .def("segments", &segments)
      .def("divergences", [](const Session &session) { return session.divergences(); })
      .def("left_backwards", [](const Session &session) { return session.leftBackwards(); })
      .def("graph_text", [](const Session &session) { return graph::toString(session.graph()); })
      .def("graph_dot", [](const Session &session) { return graph::toDot(session.graph()); })
      .def("wait_compiled", &Session::waitCompiled, py::call_guard<py::gil_scoped_release>())
      .def("force_eager", [](Session &session, uint64_t calls) { session.pacing().forceEager(calls); })
      .def_property(
          "most_nodes", [](const Session &session) { return session.options().mostNodes; }, &Session::setMostNodes)
      .def_readwrite("force_divergence_at", &Session::forceDivergenceAt)
      .def_readwrite("fail_kernel_at", &Session::failKernelAt);
}

} // namespace terra::python
