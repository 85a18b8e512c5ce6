#include "frontend/torch/CarrySpans.h"

#include "frontend/torch/BackwardSpan.h"
#include "frontend/torch/OptimizerLearner.h"
#include "graph/Structure.h"

#include <algorithm>
#include <array>
#include <unordered_map>

namespace terra::frontend {

using graph::kNever;
using runtime::CompiledSegment;
using runtime::Span;

namespace {

bool isBackward(const graph::Op *op) { return op == &backwardOp(false) || op == &backwardOp(true); }

bool isOptimizer(const graph::Op *op) {
  using Kind = OptimizerKind;
  constexpr auto kinds =
      std::to_array<Kind>({Kind::SGD, Kind::Adam, Kind::RMSprop, Kind::Adadelta, Kind::Adagrad, Kind::Adamax,
                           Kind::NAdam, Kind::RAdam, Kind::Rprop, Kind::ASGD, Kind::Muon, Kind::Adafactor});
  return std::ranges::any_of(kinds, [op](Kind kind) { return op == &optimizerOp(kind); });
}

/// One call, with numbers and sizes of its own.
bool sameCall(const graph::Event &a, const graph::Event &b) {
  auto args = [](const graph::Arg &x, const graph::Arg &y) {
    return x.kind == y.kind && x.first == y.first && x.count == y.count && x.string == y.string;
  };
  return a.op == b.op && a.context == b.context && a.resultCounts == b.resultCounts &&
         std::ranges::equal(a.args, b.args, args) && graph::sameTensors(a, b);
}

bool sameViews(const CallViews &a, const CallViews &b) {
  return std::ranges::equal(a.results, b.results,
                            [](const ViewHistory &x, const ViewHistory &y) {
                              return x.kind == y.kind && x.of == y.of && x.creation == y.creation;
                            }) &&
         std::ranges::equal(a.hidden, b.hidden, [](const HiddenBase &x, const HiddenBase &y) {
           return x.version == y.version && x.history == y.history && graph::sameKind(x.meta, y.meta);
         });
}

class Carrier {
public:
  Carrier(const CompiledSegment &from, const CompiledSegment &to) : from_(from), to_(to) {
    const std::vector<graph::Slot> &slots = to.segment().slots;
    for (uint32_t slot = 0; slot < slots.size(); ++slot)
      slotOf_[slots[slot].storage] = slot;
    findResized();
  }

  std::optional<SpansByEvent> run() {
    SpansByEvent all(from_.spans().size());
    for (size_t event = 0; event < all.size(); ++event) {
      for (const auto &span : from_.spans()[event])
        if (auto carried = carry(span)) {
          carried_[span.get()] = carried.get();
          all[event].push_back(std::move(carried));
        }
      if (all[event].empty() && !from_.spans()[event].empty())
        return std::nullopt;
    }
    return all;
  }

private:
  std::shared_ptr<const Span> carry(const std::shared_ptr<const Span> &span) {
    const graph::Op *op = span->call.event->op;
    if (isOptimizer(op)) // it makes nothing, and its operands are compared
      return static_cast<const OptimizerSpan *>(span->host.get())->trial ? nullptr : span;
    if (isBackward(op))
      return carryBackward(*span);
    for (const runtime::RecordedCall &call : to_.recordedCalls)
      if (call.first == span->first && call.span->count == span->count)
        if (auto carried = carryCall(*span, *call.span))
          return carried;
    return nullptr;
  }

  /// `recorded` has real sizes, `known` slots, feeds, and what eager keeps.
  std::shared_ptr<const Span> carryCall(const Span &known, const Span &recorded) const {
    const auto &knownHost = *static_cast<const CallSpan *>(known.host.get());
    const auto &recordedHost = *static_cast<const CallSpan *>(recorded.host.get());
    if (!sameCall(*known.call.event, *recorded.call.event) || !sameSlots(known.call.inputs, recorded.call.inputs) ||
        !sameSlots(known.call.results, recorded.call.results) || !sameHost(knownHost, recordedHost))
      return nullptr;
    auto event = std::make_shared<graph::Event>(*recorded.call.event);
    for (size_t i = 0; i < event->args.size(); ++i)
      event->args[i].varies = known.call.event->args[i].varies;
    for (size_t i = 0; i < event->inputs.size(); ++i)
      event->inputs[i].offsetVaries = known.call.event->inputs[i].offsetVaries;
    auto host = std::make_shared<CallSpan>(recordedHost);
    for (size_t i = 0; i < host->lent.size(); ++i)
      host->lent[i].first = knownHost.lent[i].first;
    for (size_t i = 0; i < host->constants.size(); ++i)
      host->constants[i].first = knownHost.constants[i].first;
    host->kept = knownHost.kept;
    host->keepsNumbers = knownHost.keepsNumbers;
    host->name = knownHost.name;
    auto span = std::make_shared<Span>(known);
    span->call.event = std::move(event);
    span->host = std::move(host);
    return span;
  }

  bool sameHost(const CallSpan &known, const CallSpan &recorded) const {
    auto sameSlot = [this](const auto &x, const auto &y) { return x.first == toSlot(y.first); };
    return known.differentiable == recorded.differentiable && known.resultRequiresGrad == recorded.resultRequiresGrad &&
           known.written == recorded.written && known.call->entry == recorded.call->entry &&
           known.call->operandVersions == recorded.call->operandVersions &&
           known.call->resultVersions == recorded.call->resultVersions &&
           known.call->firstSame == recorded.call->firstSame && sameViews(known.views, recorded.views) &&
           std::ranges::equal(known.lent, recorded.lent, sameSlot) &&
           std::ranges::equal(known.constants, recorded.constants, sameSlot);
  }

  std::shared_ptr<const Span> carryBackward(const Span &span) const {
    const auto &known = *static_cast<const BackwardSpan *>(span.host.get());
    bool returns = known.effects.empty(); // what it returns may have any size
    bool fills = !known.own.memory.empty(); // and so may memory of its own
    if (known.trial || returns || fills || std::ranges::any_of(known.effects, [this](const LeafEffect &effect) {
          return effect.kind == LeafEffect::Kind::New && resized_[effect.slot];
        }))
      return nullptr;
    auto host = std::make_shared<BackwardSpan>(known);
    for (uint32_t place : host->identities) {
      uint64_t &identity = host->signature[place];
      if (identity == reinterpret_cast<uint64_t>(&from_))
        identity = reinterpret_cast<uint64_t>(&to_);
      else if (auto it = carried_.find(reinterpret_cast<const Span *>(identity)); it != carried_.end())
        identity = reinterpret_cast<uint64_t>(it->second);
    }
    auto carried = std::make_shared<Span>(span);
    carried->host = std::move(host);
    return carried;
  }

  uint32_t toSlot(uint32_t storage) const {
    auto it = slotOf_.find(storage);
    return it == slotOf_.end() ? kNever : it->second;
  }

  bool sameSlots(const std::vector<graph::SlotRef> &known, const std::vector<graph::SlotRef> &recorded) const {
    return std::ranges::equal(known, recorded, [this](const graph::SlotRef &x, const graph::SlotRef &y) {
      return x.slot == (y.slot == kNever ? kNever : toSlot(y.slot));
    });
  }

  /// Slots that some tensor sees with other sizes, strides or offset in the two.
  void findResized() {
    const graph::Segment &a = from_.segment(), &b = to_.segment();
    for (size_t slot = 0; slot < a.slots.size(); ++slot)
      resized_.push_back(a.slots[slot].bytes != b.slots[slot].bytes);
    auto compare = [this](uint32_t slot, const TensorMeta &x, const TensorMeta &y) {
      if (slot != kNever && (x.dims != y.dims || x.offset != y.offset))
        resized_[slot] = true;
    };
    for (size_t i = 0; i < a.events.size(); ++i) {
      const graph::SegmentEvent &x = a.events[i], &y = b.events[i];
      for (size_t k = 0; k < x.inputs.size(); ++k)
        compare(x.inputs[k].slot, x.event->inputs[k].meta, y.event->inputs[k].meta);
      for (size_t k = 0; k < x.results.size(); ++k)
        compare(x.results[k].slot, x.event->results[k].meta, y.event->results[k].meta);
    }
  }

  const CompiledSegment &from_, &to_;
  std::unordered_map<graph::StorageId, uint32_t> slotOf_;
  std::vector<bool> resized_; ///< by slot
  std::unordered_map<const Span *, const Span *> carried_;
};

} // namespace

std::optional<SpansByEvent> carrySpans(const CompiledSegment &from, const CompiledSegment &to) {
  return Carrier(from, to).run();
}

} // namespace terra::frontend
