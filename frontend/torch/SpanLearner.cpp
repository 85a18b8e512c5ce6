#include "frontend/torch/SpanLearner.h"

#include "frontend/torch/Frontend.h"
#include "frontend/torch/Promise.h"
#include "frontend/torch/SpanParts.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>

namespace terra::frontend {

using graph::Alias;
using graph::kNever;
using graph::Segment;
using runtime::Buffer;
using runtime::SpanRange;

namespace {
thread_local SpanLearner *watching = nullptr;

} // namespace

SpanLearner::SpanLearner(runtime::Session &session, const OpEntry &entry, const CallBuilder &builder,
                         const c10::IValue *values)
    : session_(session), entry_(entry), mark_(session.markSpan()), event_(tracer::Recorder::copy(builder.view())),
      operands_(builder.holdOperands()), outer_(std::exchange(watching, this)) {
  host_->call = makeHostCall(entry, values, *event_);
  event_->host = host_->call;
  event_->hostEqual = &recordedOpaqueEqual;
  for (uint32_t i = 0; i < operands_.size(); ++i) {
    versions_.push_back(operands_[i] ? versionOf(*operands_[i]) : 0);
    auto *meta = operands_[i] ? static_cast<torch::autograd::AutogradMeta *>(operands_[i]->autograd_meta()) : nullptr;
    nodes_.push_back(meta && builder.written(i) ? meta->grad_fn_ : NodePtr());
  }
}

SpanLearner::~SpanLearner() { watching = outer_; }

SpanLearner *SpanLearner::current() { return watching; }

uint32_t SpanLearner::slotOf(const SpanRange &range, const c10::TensorImpl &impl) const {
  Buffer *buffer = impl.has_storage() ? bufferOf(*impl.unsafe_storage().unsafeGetStorageImpl()) : nullptr;
  return buffer && buffer->epoch == range.epoch ? buffer->slot : kNever;
}

void SpanLearner::finish(const torch::jit::Stack &stack, size_t base) {
  session_.learnSpan(mark_, span_, [&](const SpanRange &range) { return learn(range, stack, base); });
}

bool SpanLearner::learn(const SpanRange &range, const torch::jit::Stack &stack, size_t base) {
  span_->first = range.first;
  span_->count = range.count;
  span_->call.event = event_;
  bool recorded = !range.run; // feeds, and what eager keeps, will be taken from a call of other sizes
  if (wroteAtOnce_ || !bindOperands(range) || !(recorded || bindFeeds(range)) || !bindResults(range, stack, base) ||
      !closed(range))
    return false;
  span_->host = host_;
  return recorded || !host_->differentiable || deriveKept(*range.segment, *span_, *host_);
}

bool SpanLearner::bindOperands(const SpanRange &range) {
  for (size_t i = 0; i < operands_.size(); ++i) {
    graph::SlotRef ref;
    if (operands_[i]) {
      ref.slot = slotOf(range, *operands_[i]);
      if (ref.slot == kNever)
        return false;
      if (uint32_t now = versionOf(*operands_[i]); now != versions_[i])
        host_->call->operandVersions.emplace_back(uint32_t(i), now - versions_[i]);
    }
    span_->call.inputs.push_back(ref);
  }
  std::optional<SpanMemory> memory = factories_.uninitialised(range);
  if (!memory)
    return false;
  host_->lent = std::move(*memory);
  host_->constants = factories_.constants(range);
  return true;
}

/// Scalars and offsets that vary are fed by the call where it is the same call as the one event below.
bool SpanLearner::bindFeeds(const SpanRange &range) {
  span_->call.scalarFeeds.assign(event_->args.size(), kNever);
  const Segment &segment = range.segment->segment();
  bool varies = false;
  for (uint32_t i = range.first; i < range.first + range.count; ++i) {
    const graph::SegmentEvent &inner = segment.events[i];
    varies |= std::any_of(inner.scalarFeeds.begin(), inner.scalarFeeds.end(), [](uint32_t f) { return f != kNever; });
    varies |= std::any_of(inner.inputs.begin(), inner.inputs.end(), [](auto &ref) { return ref.offsetFeed != kNever; });
  }
  if (!varies)
    return true;
  const graph::SegmentEvent &inner = segment.events[range.first];
  if (range.count != 1 || inner.event->op != event_->op || inner.inputs.size() != event_->inputs.size())
    return false;
  span_->call.scalarFeeds = inner.scalarFeeds;
  for (size_t i = 0; i < event_->args.size(); ++i)
    event_->args[i].varies = inner.event->args[i].varies;
  for (size_t i = 0; i < event_->inputs.size(); ++i) {
    span_->call.inputs[i].offsetFeed = inner.inputs[i].offsetFeed;
    event_->inputs[i].offsetVaries = inner.event->inputs[i].offsetVaries;
  }
  return true;
}

namespace {
torch::autograd::CreationMeta creationOfViews(bool listOfOne) {
  using torch::autograd::CreationMeta;
  if (!at::GradMode::is_enabled())
    return CreationMeta::NO_GRAD_MODE;
  return listOfOne ? CreationMeta::MULTI_OUTPUT_NODE : CreationMeta::DEFAULT;
}
} // namespace

bool SpanLearner::bindResults(const SpanRange &range, const torch::jit::Stack &stack, size_t base) {
  std::vector<tracer::ResultView> views;
  if (!viewResults(stack, base, operands_, event_->resultCounts, views))
    return false;
  noteResultVersions(stack, base, *host_->call);
  std::vector<at::Tensor> tensors;
  for (size_t i = base; i < stack.size(); ++i) {
    if (stack[i].isTensor())
      tensors.push_back(stack[i].toTensor());
    else
      for (const c10::IValue &element : stack[i].toListRef())
        tensors.push_back(element.toTensor());
  }
  const std::vector<int32_t> &inner = range.segment->segment().events[range.first].event->resultCounts;
  bool listOfOne =
      range.count == 1 && !inner.empty() && inner.front() >= 0; // one event below made all of a list at once
  ViewReader reader(operands_, creationOfViews(listOfOne), entry_.op.name == "aten::detach");
  for (size_t i = 0; i < views.size(); ++i)
    if (!bindResult(range, views[i], tensors[i], reader))
      return false;
  if (!reader.nodesFit(tensors, host_->resultRequiresGrad) || (views.empty() && mayHaveHistory()))
    return false;
  host_->views = std::move(reader.views);
  return true;
}

bool SpanLearner::bindResult(const SpanRange &range, const tracer::ResultView &view, const at::Tensor &tensor,
                             ViewReader &reader) {
  graph::Result &result = event_->results.emplace_back();
  graph::SlotRef &ref = span_->call.results.emplace_back();
  auto *buffer = static_cast<Buffer *>(view.tensor.storage);
  if (buffer && buffer->epoch != range.epoch)
    return false;
  if (buffer) {
    ref.slot = buffer->slot;
    result.meta = tracer::Recorder::metaOf(view.tensor);
  }
  if (view.sameAs >= 0) {
    result.alias = Alias::Same;
    result.aliasOf = uint32_t(view.sameAs);
    reader.addSame();
    return bindWritten(uint32_t(event_->results.size() - 1), result.aliasOf, tensor);
  }
  bool history = tensor.defined() && tensor.requires_grad() && tensor.grad_fn();
  host_->resultRequiresGrad.push_back(history);
  host_->differentiable |= history;
  if (!buffer)
    return reader.addOwn(tensor);
  bool lent = isLent(host_->lent, buffer->slot);
  if (lent || madeIn(range, buffer->slot)) {
    result.alias = Alias::Fresh;
    result.storageBytes = view.storageBytes;
    return (history || !tensor.requires_grad()) && reader.addOwn(tensor);
  }
  std::optional<uint32_t> operand = reader.addShared(tensor);
  if (!operand)
    return false;
  result.alias = Alias::View;
  result.aliasOf = *operand;
  return true;
}

/// Autograd may have taken note of the call.
bool SpanLearner::mayHaveHistory() const {
  auto requiresGrad = [](const graph::Operand &operand) { return operand.meta.requiresGrad; };
  return at::GradMode::is_enabled() && std::any_of(event_->inputs.begin(), event_->inputs.end(), requiresGrad);
}

/// A result that is an operand. Where it has got another history, it must be the only one, no view, and share memory with no
/// other operand: those are PyTorch's to deal with.
bool SpanLearner::bindWritten(uint32_t index, uint32_t operand, const at::Tensor &tensor) {
  bool history = mayHaveHistory();
  host_->resultRequiresGrad.push_back(history);
  host_->differentiable |= history;
  if (!event_->inputs[operand].written)
    return false;
  if (!history)
    return true;
  for (uint32_t i = 0; i < span_->call.inputs.size(); ++i)
    if (i != operand && span_->call.inputs[i].slot == span_->call.inputs[operand].slot)
      return false;
  host_->written = operand;
  return index == 0 && event_->resultCounts.size() == 1 && !tensor.is_view() && tensor.grad_fn() &&
         tensor.grad_fn() != nodes_[operand] && tensor.output_nr() == 0;
}

/// Everything that the events touch comes from the call's operands or is made inside.
bool SpanLearner::closed(const SpanRange &range) const {
  const Segment &segment = range.segment->segment();
  auto known = [&](uint32_t slot) {
    return slot == kNever || madeIn(range, slot) ||
           std::any_of(span_->call.inputs.begin(), span_->call.inputs.end(),
                       [&](auto &ref) { return ref.slot == slot; }) ||
           std::any_of(host_->constants.begin(), host_->constants.end(), [&](auto &c) { return c.first == slot; }) ||
           isLent(host_->lent, slot);
  };
  for (uint32_t i = range.first; i < range.first + range.count; ++i) {
    const graph::SegmentEvent &inner = segment.events[i];
    if (!std::all_of(inner.inputs.begin(), inner.inputs.end(), [&](auto &ref) { return known(ref.slot); }) ||
        !std::all_of(inner.results.begin(), inner.results.end(), [&](auto &ref) { return known(ref.slot); }))
      return false;
  }
  return true;
}

} // namespace terra::frontend
