#include "FakeSpans.h"

#include "FakeCall.h"

#include <algorithm>
#include <map>

namespace terra::fake {

using graph::kNever;
using graph::Segment;
using graph::SegmentEvent;
using runtime::Buffer;
using runtime::BufferRef;
using runtime::SpanRange;

namespace {

bool within(const SpanRange &range, uint32_t event) {
  return event >= range.first && event < range.first + range.count;
}

bool madeIn(const SpanRange &range, uint32_t slot) {
  const graph::Slot &info = range.segment->segment().slots[slot];
  return !info.external && within(range, info.producer);
}

uint32_t slotOf(const SpanRange &range, const Buffer &buffer) {
  return buffer.epoch == range.run->binding.epoch ? buffer.slot : kNever;
}

} // namespace

bool mayBeSpan(const FakeOp &op) {
  auto written = [](const graph::OpParam &param) { return param.written; };
  return op.body || (!op.op.has(graph::kOpGate) && !op.op.has(graph::kOpViewOnly) &&
                     std::none_of(op.op.params.begin(), op.op.params.end(), written));
}

SpanLearner::SpanLearner(runtime::Session &session, const tracer::CallView &call, std::vector<Tensor> operands)
    : session_(session), mark_(session.markSpan()), event_(tracer::Recorder::copy(call)),
      operands_(std::move(operands)) {}

void SpanLearner::addUninitialised(const Tensor &tensor) {
  uninitialised_.push_back(BufferRef::retain(&tensor.storage->buffer()));
}

void SpanLearner::finish(const std::vector<Tensor> &results) {
  session_.learnSpan(mark_, span_, [&](const SpanRange &range) { return learn(range, results); });
}

bool SpanLearner::learn(const SpanRange &range, const std::vector<Tensor> &results) {
  span_->first = range.first;
  span_->count = range.count;
  span_->call.event = event_;
  span_->host = host_;
  return bindOperands(range) && bindFeeds(range) && bindResults(range, results) && closed(range);
}

bool SpanLearner::bindOperands(const SpanRange &range) {
  for (const Tensor &tensor : operands_) {
    graph::SlotRef &ref = span_->call.inputs.emplace_back();
    ref.slot = slotOf(range, tensor.storage->buffer());
    if (ref.slot == kNever)
      return false;
  }
  for (const BufferRef &buffer : uninitialised_)
    if (uint32_t slot = slotOf(range, *buffer.get()); slot != kNever)
      host_->lent.emplace_back(slot, buffer->bytes());
  return true;
}

/// What varies is fed by the call where it is the same call as its one event.
bool SpanLearner::bindFeeds(const SpanRange &range) {
  span_->call.scalarFeeds.assign(event_->args.size(), kNever);
  const Segment &segment = range.segment->segment();
  auto fed = [](const SegmentEvent &inner) {
    return std::any_of(inner.scalarFeeds.begin(), inner.scalarFeeds.end(), [](uint32_t f) { return f != kNever; }) ||
           std::any_of(inner.inputs.begin(), inner.inputs.end(), [](auto &ref) { return ref.offsetFeed != kNever; });
  };
  auto first = segment.events.begin() + ptrdiff_t(range.first);
  if (std::none_of(first, first + ptrdiff_t(range.count), fed))
    return true;
  if (range.count != 1 || first->event->op != event_->op)
    return false;
  span_->call.scalarFeeds = first->scalarFeeds;
  for (size_t i = 0; i < event_->args.size(); ++i)
    event_->args[i].varies = first->event->args[i].varies;
  for (size_t i = 0; i < event_->inputs.size(); ++i) {
    span_->call.inputs[i].offsetFeed = first->inputs[i].offsetFeed;
    event_->inputs[i].offsetVaries = first->event->inputs[i].offsetVaries;
  }
  return true;
}

bool SpanLearner::bindResults(const SpanRange &range, const std::vector<Tensor> &results) {
  for (const Tensor &tensor : results) {
    uint32_t slot = slotOf(range, tensor.storage->buffer());
    bool lent = std::any_of(host_->lent.begin(), host_->lent.end(), [&](auto &l) { return l.first == slot; });
    if (slot == kNever || !(lent || madeIn(range, slot)))
      return false; // an operand or a view of one
    graph::Result &result = event_->results.emplace_back();
    result.alias = graph::Alias::Fresh;
    result.meta = tensor.meta;
    result.storageBytes = int64_t(tensor.storage->buffer().bytes());
    span_->call.results.push_back({slot, kNever});
  }
  return true;
}

/// Everything that the events touch comes from the call's operands or is made inside.
bool SpanLearner::closed(const SpanRange &range) const {
  const Segment &segment = range.segment->segment();
  auto known = [&](const graph::SlotRef &ref) {
    return ref.slot == kNever || madeIn(range, ref.slot) ||
           std::any_of(span_->call.inputs.begin(), span_->call.inputs.end(),
                       [&](auto &input) { return input.slot == ref.slot; }) ||
           std::any_of(host_->lent.begin(), host_->lent.end(), [&](auto &lent) { return lent.first == ref.slot; });
  };
  for (uint32_t i = range.first; i < range.first + range.count; ++i)
    if (const SegmentEvent &inner = segment.events[i]; !std::all_of(inner.inputs.begin(), inner.inputs.end(), known) ||
                                                       !std::all_of(inner.results.begin(), inner.results.end(), known))
      return false;
  return std::all_of(host_->lent.begin(), host_->lent.end(), [&](auto &lent) {
    return segment.slots[lent.first].external && within(range, segment.slots[lent.first].firstUse);
  });
}

std::vector<Tensor> promiseSpan(runtime::Session &session, runtime::Runtime &runtime, const runtime::Span &span) {
  std::map<uint32_t, std::shared_ptr<Storage>> storages; // results may share one; hidden memory dies with this call
  auto keep = [&](uint32_t slot, Buffer *buffer) {
    buffer->region = session.region();
    return storages[slot] = std::make_shared<Storage>(buffer, &runtime);
  };
  for (auto [slot, bytes] : static_cast<const FakeSpan *>(span.host.get())->lent) {
    auto *buffer = new Buffer(allocate(bytes), bytes, Device{});
    keep(slot, buffer);
    session.lend(slot, buffer);
  }
  std::vector<Tensor> results;
  for (size_t i = 0; i < span.call.results.size(); ++i) {
    uint32_t slot = span.call.results[i].slot;
    std::shared_ptr<Storage> storage = storages[slot];
    if (!storage) {
      auto *buffer = new Buffer(size_t(session.run().segment().slots[slot].bytes), Device{});
      storage = keep(slot, buffer);
      session.promise(slot, buffer);
    }
    results.push_back({storage, span.call.event->results[i].meta});
  }
  return results;
}

} // namespace terra::fake
