#include "tracer/Cursor.h"

#include "tracer/Compare.h"
#include "tracer/Domain.h"
#include "tracer/Rules.h"

namespace terra::tracer {

using graph::Arg;
using graph::ArgKind;
using graph::kNever;

void Binding::reset(const graph::Segment &segment, uint64_t newEpoch) {
  epoch = newEpoch;
  slots.assign(segment.slots.size(), nullptr);
  scalars.resize(segment.numScalarFeeds);
  offsets.resize(segment.numOffsetFeeds);
  bound.clear();
}

namespace {

/// An operand comes from the slot it came from when recorded; an external seen for the first time is bound.
bool bindSlot(const graph::Segment &segment, uint32_t slot, graph::StorageTag *tag, Binding &binding) {
  if (tag->epoch == binding.epoch)
    return tag->slot == slot;
  if (binding.slots[slot] || !segment.slots[slot].external)
    return false;
  binding.slots[slot] = tag;
  binding.bound.push_back(slot);
  tag->epoch = binding.epoch;
  tag->slot = slot;
  return true;
}

MatchResult matchOperands(const graph::Segment &segment, const graph::SegmentEvent &expected, const CallView &call,
                          Binding &binding) {
  const graph::Event &event = *expected.event;
  for (uint32_t i = 0; i < call.numTensors; ++i) {
    const TensorView &view = call.tensors[i];
    const graph::Operand &operand = event.inputs[i];
    uint32_t slot = expected.inputs[i].slot;
    if (!view.storage || slot == kNever) {
      if (!view.storage && slot == kNever)
        continue;
      return {Mismatch::Meta, i};
    }
    if (!sameMeta(operand.meta, view))
      return {Mismatch::Meta, i};
    if (operand.offsetVaries)
      binding.offsets[expected.inputs[i].offsetFeed] = view.offset;
    else if (operand.meta.offset != view.offset)
      return {Mismatch::Offset, i};
    if (!bindSlot(segment, slot, view.storage, binding))
      return {Mismatch::Storage, i};
  }
  return {};
}

void feed(const ArgView &view, Scalar *feeds) {
  if (view.kind != ArgKind::DoubleList) {
    *feeds = view.scalar;
    return;
  }
  for (uint32_t k = 0; k < view.count; ++k)
    feeds[k].d = view.doubles[k];
}

MatchResult matchArgs(const graph::SegmentEvent &expected, const CallView &call, Binding &binding) {
  const graph::Event &event = *expected.event;
  if (call.op->isDynamic() && !event.gate)
    return {Mismatch::Dynamic, 0};
  bool varies = false;
  for (uint32_t i = 0; i < call.numArgs; ++i) {
    const Arg &arg = event.args[i];
    if (!sameArg(event, call, i))
      return {Mismatch::Argument, i};
    if (arg.varies) {
      if (!inDomain(event, call, i))
        return {Mismatch::Argument, i};
      feed(call.args[i], binding.scalars.data() + expected.scalarFeeds[i]);
      varies = true;
    }
  }
  return varies && !keepsResultMetas(event, call) ? MatchResult{Mismatch::Argument, 2} : MatchResult{};
}

MatchResult matchCall(const graph::Segment &segment, const graph::SegmentEvent &expected, const CallView &call,
                      Binding &binding) {
  const graph::Event &event = *expected.event;
  if (event.op != call.op || event.inputs.size() != call.numTensors || event.args.size() != call.numArgs)
    return {Mismatch::Op, 0};
  if (event.context != call.context)
    return {Mismatch::Context, 0};
  if (event.whole != call.whole)
    return {Mismatch::Whole, 0};
  if (MatchResult result = matchArgs(expected, call, binding); !result)
    return result;
  return matchOperands(segment, expected, call, binding);
}

} // namespace

MatchResult match(const graph::Segment &segment, uint32_t index, const CallView &call, Binding &binding) {
  binding.bound.clear();
  return matchCall(segment, segment.events[index], call, binding);
}

MatchResult matchSpan(const graph::Segment &segment, const graph::SegmentEvent &expected, const CallView &call,
                      Binding &binding) {
  binding.bound.clear();
  MatchResult result = matchCall(segment, expected, call, binding);
  if (!result) {
    for (uint32_t slot : binding.bound) {
      binding.slots[slot]->epoch = 0;
      binding.slots[slot] = nullptr;
    }
    binding.bound.clear();
  }
  return result;
}

std::string describe(const MatchResult &result, const graph::Event &expected) {
  std::string op = expected.name();
  switch (result.mismatch) {
  case Mismatch::None:
    return "matched " + op;
  case Mismatch::Op:
    return "another operation than " + op + " was called";
  case Mismatch::Dynamic:
    return "the size of the result of " + op + " turned out to depend on data: it runs at once from now on";
  case Mismatch::Context:
    return "the context of " + op + " changed (grad mode, autocast, deterministic flags, threads)";
  case Mismatch::Whole:
    return "another kind of backward or optimizer step than before called " + op;
  case Mismatch::Argument:
    return "argument " + std::to_string(result.index) +
           (expected.op && result.index < expected.op->params.size()
                ? " ('" + expected.op->params[result.index].name + "')"
                : std::string()) +
           " of " + op + " changed";
  case Mismatch::Meta:
    return "shape, strides, dtype or device of tensor " + std::to_string(result.index) + " of " + op + " changed";
  case Mismatch::Offset:
    return "the storage offset of tensor " + std::to_string(result.index) + " of " + op + " changed";
  case Mismatch::Storage:
    return "tensor " + std::to_string(result.index) + " of " + op + " comes from elsewhere";
  }
  return op;
}

} // namespace terra::tracer
