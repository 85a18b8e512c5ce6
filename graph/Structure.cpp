#include "graph/Structure.h"

#include <algorithm>

namespace terra::graph {

namespace {

uint64_t mix(uint64_t hash, uint64_t value) { return (hash ^ value) * 0x9e3779b97f4a7c15ull + (hash >> 29); }

uint64_t hashOf(const TensorMeta &meta) { return mix(uint64_t(meta.dtype) << 32 | meta.rank(), meta.requiresGrad); }

bool sameKind(const TensorMeta &a, const TensorMeta &b) {
  return a.dtype == b.dtype && a.device == b.device && a.conj == b.conj && a.neg == b.neg &&
         a.requiresGrad == b.requiresGrad && a.rank() == b.rank();
}

bool sameArg(const Arg &a, const Arg &b) {
  return a.kind == b.kind && a.first == b.first && a.count == b.count && a.string == b.string &&
         (a.kind != ArgKind::Bool || a.scalar.i == b.scalar.i) && (a.kind != ArgKind::BoolList || a.ints == b.ints);
}

bool sameOperand(const Operand &a, const Operand &b) { return a.written == b.written && sameKind(a.meta, b.meta); }

bool sameResult(const Result &a, const Result &b) {
  return a.alias == b.alias && a.aliasOf == b.aliasOf && sameKind(a.meta, b.meta);
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
         a.resultCounts == b.resultCounts && std::ranges::equal(a.args, b.args, sameArg) &&
         std::ranges::equal(a.inputs, b.inputs, sameOperand) && std::ranges::equal(a.results, b.results, sameResult) &&
         sameOpaques(a, b);
}

bool sameRefs(const std::vector<SlotRef> &a, const std::vector<SlotRef> &b) {
  return std::ranges::equal(a, b, [](const SlotRef &x, const SlotRef &y) { return x.slot == y.slot; });
}

} // namespace

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
