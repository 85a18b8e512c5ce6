#include "codegen/cache/SegmentCache.h"

#include <nlohmann/json.hpp>

namespace terra::codegen {

using nlohmann::json;

namespace {

json write(const KernelCall &call, const Key &key) {
  json args = json::array();
  for (const KernelArg &a : call.args)
    args.push_back({uint8_t(a.kind), a.slot, a.index, a.offsetFeed, a.byteOffset, a.elementSize});
  return {json::binary({key.bytes.begin(), key.bytes.end()}),
          call.name,
          call.extent,
          call.grain,
          call.serial,
          call.scratchBytes,
          std::move(args)};
}

KernelCall readCall(const json &j, std::vector<Key> &keys) {
  const auto &bytes = j.at(0).get_binary();
  Key &key = keys.emplace_back();
  if (bytes.size() != key.bytes.size())
    throw std::invalid_argument("a key of another length");
  std::copy(bytes.begin(), bytes.end(), key.bytes.begin());
  KernelCall call;
  j.at(1).get_to(call.name);
  j.at(2).get_to(call.extent);
  j.at(3).get_to(call.grain);
  j.at(4).get_to(call.serial);
  j.at(5).get_to(call.scratchBytes);
  for (const json &a : j.at(6)) {
    KernelArg arg;
    arg.kind = KernelArg::Kind(a.at(0).get<uint8_t>());
    a.at(1).get_to(arg.slot);
    a.at(2).get_to(arg.index);
    a.at(3).get_to(arg.offsetFeed);
    a.at(4).get_to(arg.byteOffset);
    a.at(5).get_to(arg.elementSize);
    call.args.push_back(arg);
  }
  return call;
}

} // namespace

std::string serialize(const KeyedGroups &groups) {
  json list = json::array();
  auto key = groups.kernels.begin();
  for (const Instruction &i : groups.groups) {
    json calls = json::array();
    for (const KernelCall &call : i.kernels)
      calls.push_back(write(call, *key++));
    list.push_back({uint8_t(i.kind), i.events, i.fusedAway, i.outputs, std::move(calls)});
  }
  std::string text;
  json::to_cbor(list, text);
  return text;
}

std::optional<KeyedGroups> deserialize(const std::string &text) {
  try {
    KeyedGroups groups;
    for (const json &j : json::from_cbor(text)) {
      Instruction &i = groups.groups.emplace_back();
      i.kind = Instruction::Kind(j.at(0).get<uint8_t>());
      j.at(1).get_to(i.events);
      j.at(2).get_to(i.fusedAway);
      j.at(3).get_to(i.outputs);
      for (const json &call : j.at(4))
        i.kernels.push_back(readCall(call, groups.kernels));
    }
    return groups;
  } catch (const std::exception &) { // damaged
    return std::nullopt;
  }
}

std::optional<KeyedGroups> SegmentCache::find(const Key &key) {
  std::optional<std::string> text = texts_.find(key);
  if (!text && disk_ && (text = disk_->find(key)))
    texts_.insert(key, *text);
  return text ? deserialize(*text) : std::nullopt;
}

void SegmentCache::insert(const Key &key, const KeyedGroups &groups) {
  std::string text = serialize(groups);
  if (disk_)
    disk_->insert(key, text);
  texts_.insert(key, std::move(text));
}

} // namespace terra::codegen
