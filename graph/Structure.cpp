#include "graph/Structure.h"

#include "graph/Hash.h"

#include <algorithm>

namespace terra::graph {

namespace {

uint64_t hashOf(const TensorMeta &meta) { return mix(uint64_t(meta.dtype) << 32 | meta.rank(), meta.requiresGrad); }

bool sameArg(const Arg &a, const Arg &b) {
  return a.kind == b.kind && a.first == b.first && a.count == b.count && a.string == b.string &&
         (a.kind != ArgKind::Bool || a.scalar.i == b.scalar.i) && (a.kind != ArgKind::BoolList || a.ints == b.ints);
}

/// Opaque arguments are values of the host's: only it can compare them.
bool sameOpaques(const Event &a, const Event &b) {
  for (uint32_t i = 0; i < a.args.size(); ++i)
    if (a.args[i].kind == ArgKind::Opaque && a.hostEqual && !a.hostEqual(a, b, i))
      return false;
  return true;
}

bool sameCall(const Event &a, const Event &b) {
  if (&a == &b)
    return true;
  return a.kind == b.kind && a.op == b.op && a.context == b.context && a.gate == b.gate &&
         a.resultCounts == b.resultCounts && std::ranges::equal(a.args, b.args, sameArg) && sameTensors(a, b) &&
         sameOpaques(a, b);
}

bool sameRefs(const std::vector<SlotRef> &a, const std::vector<SlotRef> &b) {
  return std::ranges::equal(a, b, [](const SlotRef &x, const SlotRef &y) { return x.slot == y.slot; });
}

} // namespace

bool sameKind(const TensorMeta &a, const TensorMeta &b) {
  return a.dtype == b.dtype && a.device == b.device && a.conj == b.conj && a.neg == b.neg &&
         a.requiresGrad == b.requiresGrad && a.rank() == b.rank();
}

bool sameTensors(const Event &a, const Event &b) {
  auto operands = [](const Operand &x, const Operand &y) { return x.written == y.written && sameKind(x.meta, y.meta); };
  auto results = [](const Result &x, const Result &y) {
    return x.alias == y.alias && x.aliasOf == y.aliasOf && sameKind(x.meta, y.meta);
  };
  return std::ranges::equal(a.inputs, b.inputs, operands) && std::ranges::equal(a.results, b.results, results);
}

uint64_t structureHash(const Segment &segment) {
  uint64_t hash = mix(segment.events.size(), segment.slots.size());
  for (const SegmentEvent &e : segment.events) {
    hash = mix(hash, reinterpret_cast<uintptr_t>(e.event->op));
    hash = mix(hash, e.event->context << 8 | e.event->args.size());
    for (size_t i = 0; i < e.inputs.size(); ++i)
      hash = mix(mix(hash, e.inputs[i].slot), hashOf(e.event->inputs[i].meta));
    for (size_t i = 0; i < e.results.size(); ++i)
      hash = mix(mix(hash, e.results[i].slot), hashOf(e.event->results[i].meta));
  }
  return hash;
}

bool sameFeeds(const Segment &a, const Segment &b) {
  auto sameArgs = [](const Arg &x, const Arg &y) { return x.varies == y.varies; };
  auto sameInputs = [](const Operand &x, const Operand &y) { return x.offsetVaries == y.offsetVaries; };
  return std::ranges::equal(a.events, b.events, [&](const SegmentEvent &x, const SegmentEvent &y) {
    return x.event == y.event || (std::ranges::equal(x.event->args, y.event->args, sameArgs) &&
                                  std::ranges::equal(x.event->inputs, y.event->inputs, sameInputs));
  });
}

bool sameStructure(const Segment &a, const Segment &b) {
  auto same = [](const SegmentEvent &x, const SegmentEvent &y) {
    return sameCall(*x.event, *y.event) && sameRefs(x.inputs, y.inputs) && sameRefs(x.results, y.results);
  };
  return a.slots.size() == b.slots.size() && std::ranges::equal(a.events, b.events, same);
}

} // namespace terra::graph
