// JSON → Dump. Nothing in a file is trusted: every number is checked before anything is indexed by it.
#include "graph/DumpFormat.h"
#include "graph/JsonField.h"
#include "graph/Serialize.h"

#include <limits>

namespace terra::graph {

using nlohmann::json;

namespace {

constexpr int64_t kMaxElements = int64_t(1) << 56; ///< sizes and offsets in bytes stay far from overflow

DType readDType(const Field &field) {
  std::string text = field.string();
  for (int i = 0; i <= int(DType::Other); ++i)
    if (text == name(DType(i)))
      return DType(i);
  field.fail("\"" + text + "\" is not an element type");
}

Device readDevice(const Field &field) {
  std::vector<Field> parts = field.elements();
  if (parts.size() != 2)
    field.fail("a device is a kind and an index");
  Device device;
  device.type = DeviceType(parts[0].oneOf(format::kDeviceTypes));
  device.index = int8_t(parts[1].integer(-1, 127));
  return device;
}

/// Elements spanned by a tensor have to be a sane number, so that no size computed from them overflows.
void checkExtent(const Field &field, const TensorMeta &meta) {
  int64_t elements = 1, span = meta.offset;
  for (size_t i = 0; i < meta.rank(); ++i) {
    int64_t size = meta.sizes()[i], reach = 0;
    if (size && (__builtin_mul_overflow(elements, size, &elements) || elements > kMaxElements))
      field.fail("the tensor is too large");
    if (size > 1 && (__builtin_mul_overflow(size - 1, meta.strides()[i], &reach) || reach > kMaxElements ||
                     (span += reach) > kMaxElements))
      field.fail("the tensor reaches too far");
  }
}

TensorMeta readMeta(const Field &field) {
  TensorMeta meta;
  meta.dtype = readDType(field["dtype"]);
  for (const Field &size : field["sizes"].elements())
    meta.dims.push_back(size.integer(0, kMaxElements));
  size_t rank = meta.dims.size();
  for (const Field &stride : field["strides"].elements())
    meta.dims.push_back(stride.integer(0, kMaxElements));
  if (meta.dims.size() != 2 * rank)
    field.fail("as many strides as sizes are needed");
  meta.offset = field.has("offset") ? field["offset"].integer(0, kMaxElements) : 0;
  if (field.has("device"))
    meta.device = readDevice(field["device"]);
  meta.conj = field.flag("conj");
  meta.neg = field.flag("neg");
  meta.requiresGrad = field.flag("requires_grad");
  checkExtent(field, meta);
  return meta;
}

StorageId readStorage(const Field &field) { return StorageId(field.integer(0, kNoStorage - 1)); }

Operand readOperand(const Field &field) {
  Operand operand;
  if (field.isNull())
    return operand;
  operand.storage = readStorage(field["storage"]);
  operand.meta = readMeta(field["meta"]);
  operand.written = field.flag("written");
  operand.offsetVaries = field.flag("offset_varies");
  return operand;
}

Result readResult(const Field &field, size_t numInputs) {
  Result result;
  if (field.isNull())
    return result;
  result.alias = Alias(field["alias"].oneOf(format::kAliases));
  result.storage = readStorage(field["storage"]);
  result.meta = readMeta(field["meta"]);
  if (field.has("bytes"))
    result.storageBytes = field["bytes"].integer(0, std::numeric_limits<int64_t>::max());
  if (result.alias == Alias::Fresh)
    return result;
  result.aliasOf = uint32_t(field["of"].integer(0, int64_t(numInputs) - 1));
  return result;
}

void readList(const Field &field, Arg &arg) {
  for (const Field &element : field.elements())
    if (arg.kind == ArgKind::DoubleList)
      arg.doubles.push_back(element.real());
    else
      arg.ints.push_back(element.integer());
  arg.count = uint32_t(arg.doubles.size() + arg.ints.size());
}

Arg readArg(const Field &field, size_t numInputs) {
  Arg arg;
  arg.kind = ArgKind(field["kind"].oneOf(format::kArgKinds));
  bool mayVary = false;
  switch (arg.kind) {
  case ArgKind::None:
    break;
  case ArgKind::Tensor:
  case ArgKind::TensorList:
    arg.count = uint32_t(field["count"].integer(0, int64_t(numInputs)));
    arg.first = uint32_t(field["first"].integer(0, int64_t(numInputs - arg.count)));
    if (arg.kind == ArgKind::Tensor && arg.count != 1)
      field.fail("a tensor is one operand");
    break;
  case ArgKind::Int:
  case ArgKind::NumberInt:
    mayVary = true;
    [[fallthrough]];
  case ArgKind::Bool:
  case ArgKind::NumberBool:
    arg.scalar.i = field["value"].integer();
    break;
  case ArgKind::Double:
  case ArgKind::NumberDouble:
    mayVary = true;
    arg.scalar.d = field["value"].real();
    break;
  case ArgKind::DoubleList:
    mayVary = true;
    [[fallthrough]];
  case ArgKind::IntList:
  case ArgKind::BoolList:
    readList(field["value"], arg);
    break;
  case ArgKind::String:
  case ArgKind::Opaque:
    arg.string = field["value"].string();
    break;
  }
  arg.varies = field.flag("varies");
  if (arg.varies && !mayVary && arg.kind != ArgKind::NumberBool)
    field.fail("an argument of this kind cannot vary");
  return arg;
}

std::unique_ptr<Op> readOp(const Field &field) {
  auto op = std::make_unique<Op>();
  op->name = field["name"].string();
  op->flags = uint32_t(field["flags"].integer(0, std::numeric_limits<uint32_t>::max()));
  op->viewRule = viewRuleOf(op->name);
  for (const Field &param : field["params"].elements())
    op->params.push_back({param["name"].string(), param.flag("written"), domainOf(op->name, param["name"].string())});
  return op;
}

void readCounts(const Field &field, Event &event) {
  int64_t total = 0;
  for (const Field &count : field.elements()) {
    event.resultCounts.push_back(int32_t(count.integer(-1, int64_t(event.results.size()))));
    total += event.resultCounts.back() < 0 ? 1 : event.resultCounts.back();
  }
  if (total != int64_t(event.results.size()) && !event.resultCounts.empty())
    field.fail("the counts do not add up to the number of results");
}

std::shared_ptr<Event> readEvent(const Field &field, const Dump &dump) {
  auto event = std::make_shared<Event>();
  event->kind = EventKind(field["kind"].oneOf(format::kEventKinds));
  event->context = field["context"].natural();
  if (field.has("whole"))
    event->whole = uint32_t(field["whole"].integer(0, std::numeric_limits<uint32_t>::max()));
  event->trace = uint32_t(field["trace"].integer(0, std::numeric_limits<uint32_t>::max()));
  event->gate = field.flag("gate");
  if (field.has("location"))
    event->location = field["location"].string();
  if (event->kind == EventKind::Call)
    event->op = dump.ops[size_t(field["op"].integer(0, int64_t(dump.ops.size()) - 1))].get();
  for (const Field &input : field["inputs"].elements())
    event->inputs.push_back(readOperand(input));
  for (const Field &arg : field["args"].elements())
    event->args.push_back(readArg(arg, event->inputs.size()));
  if (event->op && event->args.size() > event->op->params.size() && !event->op->params.empty())
    field.fail(event->op->name + " has fewer parameters");
  for (const Field &result : field["results"].elements())
    event->results.push_back(readResult(result, event->inputs.size()));
  readCounts(field["result_counts"], *event);
  return event;
}

/// Nodes first, then edges: an edge may lead to any node.
void readGraph(const Field &field, Dump &dump) {
  std::vector<Field> nodes = field.elements();
  if (nodes.size() <= TraceGraph::kEnd)
    field.fail("the start and the end of the graph are missing");
  for (NodeId id = 0; id < nodes.size(); ++id) {
    bool hasEvent = nodes[id].has("event");
    if (hasEvent != (id != TraceGraph::kStart))
      nodes[id].fail(hasEvent ? "the start has no event" : "the event is missing");
    if (id == TraceGraph::kStart)
      continue;
    std::shared_ptr<Event> event = readEvent(nodes[id]["event"], dump);
    if ((event->kind == EventKind::End) != (id == TraceGraph::kEnd))
      nodes[id].fail("the end of a region has to be node 1, and no other");
    if (id == TraceGraph::kEnd)
      dump.graph.setEvent(id, std::move(event));
    else
      dump.graph.addNode(std::move(event));
  }
  for (NodeId id = 0; id < nodes.size(); ++id) {
    for (const Field &next : nodes[id]["next"].elements())
      dump.graph.addEdge(id, NodeId(next.integer(TraceGraph::kEnd, int64_t(nodes.size()) - 1)));
    if (nodes[id].flag("boundary"))
      dump.graph.setBoundary(id);
  }
}

void readNodes(const Field &field, const TraceGraph &graph, SegmentRecord &record) {
  for (const Field &node : field.elements()) {
    NodeId id = NodeId(node.integer(TraceGraph::kEnd + 1, int64_t(graph.size()) - 1));
    if (!record.nodes.empty() && (graph.startsSegment(id) || graph[record.nodes.back()].next != std::vector{id}))
      node.fail("the node does not continue the segment");
    if (record.nodes.empty() && !graph.startsSegment(id))
      node.fail("no segment starts at this node");
    if (record.nodes.size() == graph.size())
      field.fail("the segment never ends");
    record.nodes.push_back(id);
  }
  if (record.nodes.empty())
    field.fail("a segment has at least one event");
}

void readSegment(const Field &field, Dump &dump) {
  SegmentRecord &record = dump.segments.emplace_back();
  readNodes(field["nodes"], dump.graph, record);
  record.walks = field["walks"].natural();
  if (field.has("compile_error"))
    record.compileError = field["compile_error"].string();
  for (const Field &death : field["deaths"].elements())
    record.deaths.push_back(death.isNull() ? kNever : uint32_t(death.integer(0, int64_t(record.nodes.size()))));
  Segment segment = dump.segment(dump.segments.size() - 1);
  if (!record.deaths.empty() && record.deaths.size() != segment.slots.size())
    field["deaths"].fail("the segment has " + std::to_string(segment.slots.size()) + " slots");
}

Dump readData(const Field &data) {
  Dump dump;
  dump.function = data["function"].string();
  dump.numerics = data["numerics"].string();
  if (dump.numerics != "fast" && dump.numerics != "exact")
    data["numerics"].fail("must be \"fast\" or \"exact\"");
  for (const Field &op : data["ops"].elements())
    dump.ops.push_back(readOp(op));
  readGraph(data["nodes"], dump);
  for (const Field &segment : data["segments"].elements())
    readSegment(segment, dump);
  return dump;
}

json parse(const std::string &text, const std::string &name) {
  auto limitDepth = [&](int depth, json::parse_event_t, json &) {
    if (depth > 64)
      throw std::runtime_error(name + ": not a dump of terra (nested too deeply)");
    return true;
  };
  try {
    return json::parse(text, limitDepth);
  } catch (const json::exception &e) {
    // The library quotes what it read last, which can be the whole file.
    throw std::runtime_error(name + ": not a dump of terra, or a damaged one: " + std::string(e.what()).substr(0, 160));
  }
}

} // namespace

Dump deserialize(const std::string &text, const std::string &name) {
  if (text.empty())
    throw std::runtime_error(name + ": the file is empty");
  json file = parse(text, name);
  if (!file.is_object() || file.value("terra", json()) != json("dump"))
    throw std::runtime_error(name + ": not a dump of terra (terra.dump writes them)");
  Field root(file, name);
  int64_t version = root["version"].integer();
  if (version != format::kVersion)
    throw std::runtime_error(name + ": the dump has version " + std::to_string(version) +
                             ", this program reads version " + std::to_string(format::kVersion) +
                             "; write it again with this version of terra");
  Field data = root["data"];
  if (root["checksum"].string() != format::checksum(data.value().dump(-1, ' ', false, json::error_handler_t::replace)))
    throw std::runtime_error(name + ": the file was damaged or edited after it was written (wrong checksum)");
  return readData(data);
}

} // namespace terra::graph
