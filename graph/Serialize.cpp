// Dump → JSON. Fields that have their usual value are left out. The reader is in Deserialize.cpp.
#include "graph/Serialize.h"

#include "graph/DumpFormat.h"

#include <nlohmann/json.hpp>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <unordered_map>

namespace terra::graph {

using nlohmann::json;

Segment Dump::segment(size_t index) const {
  std::vector<std::shared_ptr<const Event>> events;
  for (NodeId node : segments[index].nodes)
    events.push_back(graph[node].event);
  return makeSegment(events);
}

namespace {

/// JSON has no infinities and no NaN.
json number(double value) {
  if (std::isfinite(value))
    return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

json write(const TensorMeta &meta) {
  json j = {{"dtype", name(meta.dtype)}, {"sizes", meta.sizes()}, {"strides", meta.strides()}};
  if (meta.offset)
    j["offset"] = meta.offset;
  if (meta.device != Device{})
    j["device"] = {format::kDeviceTypes[size_t(meta.device.type)], meta.device.index};
  if (meta.conj)
    j["conj"] = true;
  if (meta.neg)
    j["neg"] = true;
  if (meta.requiresGrad)
    j["requires_grad"] = true;
  return j;
}

json write(const Operand &operand) {
  if (operand.storage == kNoStorage)
    return nullptr;
  json j = {{"storage", operand.storage}, {"meta", write(operand.meta)}};
  if (operand.written)
    j["written"] = true;
  if (operand.offsetVaries)
    j["offset_varies"] = true;
  return j;
}

json write(const Result &result) {
  if (result.alias == Alias::Undefined)
    return nullptr;
  json j = {
      {"alias", format::kAliases[size_t(result.alias)]}, {"storage", result.storage}, {"meta", write(result.meta)}};
  if (result.alias != Alias::Fresh)
    j["of"] = result.aliasOf;
  if (result.storageBytes)
    j["bytes"] = result.storageBytes;
  return j;
}

void writeValue(json &j, const Arg &arg) {
  switch (arg.kind) {
  case ArgKind::None:
    return;
  case ArgKind::Tensor:
  case ArgKind::TensorList:
    j["first"] = arg.first;
    j["count"] = arg.count;
    return;
  case ArgKind::Int:
  case ArgKind::Bool:
  case ArgKind::NumberInt:
  case ArgKind::NumberBool:
    j["value"] = arg.scalar.i;
    return;
  case ArgKind::Double:
  case ArgKind::NumberDouble:
    j["value"] = number(arg.scalar.d);
    return;
  case ArgKind::IntList:
  case ArgKind::BoolList:
    j["value"] = arg.ints;
    return;
  case ArgKind::DoubleList:
    j["value"] = json::array();
    for (double value : arg.doubles)
      j["value"].push_back(number(value));
    return;
  case ArgKind::String:
  case ArgKind::Opaque:
    j["value"] = arg.string;
    return;
  }
}

class Writer {
public:
  explicit Writer(const DescribeOpaque &describe) : describe_(describe) {}

  json write(const Dump &dump) {
    json nodes = json::array(), segments = json::array();
    for (NodeId id = 0; id < dump.graph.size(); ++id)
      nodes.push_back(write(dump.graph[id]));
    for (const SegmentRecord &record : dump.segments)
      segments.push_back(write(record));
    return {{"function", dump.function},
            {"numerics", dump.numerics},
            {"ops", std::move(ops_)},
            {"nodes", std::move(nodes)},
            {"segments", std::move(segments)}};
  }

private:
  json write(const Node &node) {
    json j = {{"next", node.next}};
    if (node.event)
      j["event"] = write(*node.event);
    if (node.boundary)
      j["boundary"] = true;
    return j;
  }

  json write(const Event &event) {
    json j = {{"kind", format::kEventKinds[size_t(event.kind)]}, {"context", event.context}, {"trace", event.trace}};
    if (event.op)
      j["op"] = intern(*event.op);
    if (event.whole)
      j["whole"] = event.whole;
    if (event.gate)
      j["gate"] = true;
    if (!event.location.empty())
      j["location"] = event.location;
    j["args"] = json::array();
    for (uint32_t i = 0; i < event.args.size(); ++i)
      j["args"].push_back(writeArg(event, i));
    j["inputs"] = json::array();
    for (const Operand &operand : event.inputs)
      j["inputs"].push_back(graph::write(operand));
    j["results"] = json::array();
    for (const Result &result : event.results)
      j["results"].push_back(graph::write(result));
    j["result_counts"] = event.resultCounts;
    return j;
  }

  json writeArg(const Event &event, uint32_t index) {
    const Arg &arg = event.args[index];
    json j = {{"kind", format::kArgKinds[size_t(arg.kind)]}};
    writeValue(j, arg);
    if (arg.kind == ArgKind::Opaque && arg.string.empty() && describe_)
      j["value"] = describe_(event, index);
    if (arg.varies)
      j["varies"] = true;
    return j;
  }

  static json write(const SegmentRecord &record) {
    json j = {{"nodes", record.nodes}, {"walks", record.walks}, {"deaths", json::array()}};
    for (uint32_t death : record.deaths)
      j["deaths"].push_back(death == kNever ? json(nullptr) : json(death));
    if (!record.compileError.empty())
      j["compile_error"] = record.compileError;
    return j;
  }

  uint32_t intern(const Op &op) {
    auto [it, isNew] = index_.try_emplace(&op, uint32_t(index_.size()));
    if (!isNew)
      return it->second;
    json params = json::array();
    for (const OpParam &param : op.params)
      params.push_back({{"name", param.name}, {"written", param.written}});
    ops_.push_back({{"name", op.name}, {"flags", op.flags}, {"params", std::move(params)}});
    return it->second;
  }

  const DescribeOpaque &describe_;
  json ops_ = json::array();
  std::unordered_map<const Op *, uint32_t> index_;
};

} // namespace

std::string serialize(const Dump &dump, const DescribeOpaque &describe) {
  // Names that are not UTF-8 are readable at best: bad bytes are replaced.
  std::string data = Writer(describe).write(dump).dump(-1, ' ', false, json::error_handler_t::replace);
  return "{\"terra\":\"dump\",\"version\":" + std::to_string(format::kVersion) + ",\"checksum\":\"" +
         format::checksum(data) + "\",\"data\":" + data + "}\n";
}

namespace {
[[noreturn]] void failFile(const std::string &path, const char *what) {
  throw std::runtime_error(path + ": " + what + (errno ? std::string(": ") + std::strerror(errno) : std::string()));
}
} // namespace

void save(const Dump &dump, const std::string &path, const DescribeOpaque &describe) {
  std::string text = serialize(dump, describe);
  errno = 0;
  std::ofstream file(path, std::ios::binary);
  if (!file)
    failFile(path, "cannot be written");
  file << text;
  file.close();
  if (!file)
    failFile(path, "writing failed");
}

Dump load(const std::string &path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file)
    failFile(path, "cannot be opened");
  std::string text;
  char block[1 << 16];
  while (file.read(block, sizeof block) || file.gcount())
    text.append(block, size_t(file.gcount()));
  if (file.bad())
    failFile(path, "cannot be read");
  return deserialize(text, path);
}

} // namespace terra::graph
