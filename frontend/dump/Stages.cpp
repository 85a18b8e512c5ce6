#include "frontend/dump/Stages.h"

#include "graph/Dot.h"

namespace terra::dump {

using graph::kNever;

graph::Event withSlots(const graph::SegmentEvent &e) {
  graph::Event event = *e.event;
  for (size_t i = 0; i < e.inputs.size(); ++i)
    event.inputs[i].storage = e.inputs[i].slot;
  for (size_t i = 0; i < e.results.size(); ++i)
    event.results[i].storage = e.results[i].slot;
  return event;
}

std::vector<size_t> Viewer::shown() const {
  if (only_)
    return {*only_};
  std::vector<size_t> all(dump_.segments.size());
  for (size_t i = 0; i < all.size(); ++i)
    all[i] = i;
  return all;
}

std::string Viewer::title(size_t index) const {
  const graph::SegmentRecord &record = dump_.segments[index];
  return "segment " + std::to_string(index) + ": nodes #" + std::to_string(record.nodes.front()) + " to #" +
         std::to_string(record.nodes.back()) + ", " + std::to_string(record.nodes.size()) + " events, walked " +
         std::to_string(record.walks) + " times, numerics " + dump_.numerics +
         (record.compileError.empty() ? "" : "\n// the compiler gave it up: " + record.compileError);
}

const CompiledSegment &Viewer::compiled(size_t index) {
  std::unique_ptr<CompiledSegment> &slot = compiled_[index];
  if (slot)
    return *slot;
  slot = std::make_unique<CompiledSegment>();
  slot->segment = dump_.segment(index);
  slot->deaths = dump_.segments[index].deaths;
  if (slot->deaths.empty())
    slot->deaths.assign(slot->segment.slots.size(), kNever);
  codegen::CompileOptions options;
  options.numerics = dump_.numerics == "exact" ? codegen::Numerics::Exact : codegen::Numerics::Fast;
  options.onStage = [&](const std::string &stage, const std::string &text) { slot->stages[stage] += text; };
  slot->executable = codegen::compile(slot->segment, slot->deaths, options);
  return *slot;
}

namespace {

std::string slotLine(const graph::Segment &segment, const graph::Deaths &deaths, size_t index) {
  const graph::Slot &slot = segment.slots[index];
  std::string text = "  %" + std::to_string(index) + "  " + toString(slot.device) + ", ";
  text += slot.external
              ? "bound when the segment is walked"
              : "made by event " + std::to_string(slot.producer) + ", " + std::to_string(slot.bytes) + " bytes";
  if (slot.written)
    text += ", written";
  text += ", used by events " + std::to_string(slot.firstUse) + " to " + std::to_string(slot.lastUse);
  if (slot.external)
    return text;
  if (deaths.empty())
    return text + ", death not learned yet";
  return text + (deaths[index] == kNever ? ", alive afterwards" : ", dead at event " + std::to_string(deaths[index]));
}

std::string blockText(const graph::Dump &dump, size_t index) {
  const graph::SegmentRecord &record = dump.segments[index];
  std::string text;
  for (graph::NodeId id : record.nodes)
    text += "  #" + std::to_string(id) + " " + toString(*dump.graph[id].event) + "\n";
  text += "  ->";
  for (graph::NodeId next : dump.graph[record.nodes.back()].next) {
    std::string where = " #" + std::to_string(next);
    if (next == graph::TraceGraph::kEnd)
      where = " end";
    for (size_t i = 0; i < dump.segments.size(); ++i)
      if (dump.segments[i].nodes.front() == next)
        where = " segment " + std::to_string(i);
    text += where;
  }
  return text + "\n";
}

/// In MLIR's, LLVM's and the assembler's syntax.
const char *commentOf(const std::string &stage) { return stage == "llvm" ? "; " : stage == "asm" ? "# " : "// "; }

std::string cluster(const std::string &name, const std::string &label, const std::string &body) {
  return "  subgraph \"cluster_" + name + "\" {\n  label=" + graph::dotQuote(label) +
         "; labeljust=l; fontname=\"monospace\"; color=\"#bbbbbb\";\n" + body + "  }\n";
}

} // namespace

std::string Viewer::segmentText(size_t index) {
  graph::Segment segment = dump_.segment(index);
  std::string text;
  for (size_t i = 0; i < segment.slots.size(); ++i)
    text += slotLine(segment, dump_.segments[index].deaths, i) + "\n";
  text += "  " + std::to_string(segment.numScalarFeeds) + " scalars and " + std::to_string(segment.numOffsetFeeds) +
          " offsets are fed\n";
  for (size_t i = 0; i < segment.events.size(); ++i)
    text += "  " + std::to_string(i) + ": " + toString(withSlots(segment.events[i])) + "\n";
  return text;
}

std::string Viewer::compilerText(const std::string &stage, size_t index) {
  const CompiledSegment &segment = compiled(index);
  const std::string comment = commentOf(stage);
  std::string text;
  if (stage == "llvm" || stage == "asm")
    for (const auto &[kernel, line] : kernelLines(segment))
      text += comment + kernel + ": " + line + "\n";
  auto found = segment.stages.find(stage);
  if (found != segment.stages.end())
    return text + found->second;
  auto failed = segment.stages.find("failed");
  if (failed != segment.stages.end())
    return text + comment + "the compiler gave it up: " + failed->second + "\n";
  if (dump_.numerics == "exact")
    return text + comment + "numerics=\"exact\": nothing is compiled\n";
  bool kernels = segment.executable->kernelCount > 0;
  return text + comment + (kernels ? "equal to kernels of earlier segments\n" : "no event is compiled\n");
}

std::string Viewer::text(const std::string &stage) {
  const std::string comment = commentOf(stage);
  std::string text;
  if (stage == "trace")
    return "// " + dump_.function + ": " + std::to_string(dump_.graph.size()) + " nodes\n" + toString(dump_.graph);
  if (shown().empty())
    text = comment + dump_.function + ": nothing has been recorded\n";
  if (stage == "graph" && !only_) {
    text += "start\n  ->";
    for (graph::NodeId next : dump_.graph[graph::TraceGraph::kStart].next)
      text += next == graph::TraceGraph::kEnd ? " end" : " #" + std::to_string(next);
    text += "\n";
  }
  for (size_t index : shown()) {
    text += comment + title(index) + "\n";
    if (stage == "graph")
      text += blockText(dump_, index);
    else if (stage == "segments")
      text += segmentText(index);
    else if (stage == "instructions")
      text += instructionText(compiled(index));
    else
      text += compilerText(stage, index);
  }
  return text;
}

std::string Viewer::picture(const std::string &stage) {
  if (stage == "trace" || (stage == "graph" && !only_))
    return cluster(stage, dump_.function + ": " + stage, graph::dotBody(dump_.graph, stage + "_"));
  std::string body;
  for (size_t index : shown()) {
    std::string prefix = stage + "_" + std::to_string(index) + "_", inside;
    if (stage == "graph" || stage == "segments") {
      std::vector<graph::DotRow> rows;
      graph::Segment segment = dump_.segment(index);
      for (size_t i = 0; stage == "segments" && i < segment.slots.size(); ++i)
        rows.push_back({slotLine(segment, dump_.segments[index].deaths, i), ""});
      for (const graph::SegmentEvent &e : segment.events)
        rows.push_back({graph::withoutLocation(withSlots(e)), e.event->location});
      inside = graph::dotTable(prefix, "segment " + std::to_string(index), "#bcd6f0", rows);
    } else if (stage == "instructions") {
      inside = instructionPicture(compiled(index), prefix);
    } else if (stage == "imported" || stage == "fused") {
      inside = valuePicture(compilerText(stage, index), prefix);
    } else {
      inside = functionPicture(compilerText(stage, index), kernelLines(compiled(index)), prefix);
    }
    body += cluster(prefix, title(index), inside);
  }
  return cluster(stage, dump_.function + ": " + stage,
                 body.empty() ? "  " + stage + "_nothing [label=\"nothing\"];\n" : body);
}

} // namespace terra::dump
