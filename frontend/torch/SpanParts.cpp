#include "frontend/torch/SpanParts.h"

#include "frontend/torch/Frontend.h"
#include "frontend/torch/WholeCalls.h"
#include "tracer/Recorder.h"

#include <c10/core/DynamicCast.h>

#include <algorithm>
#include <limits>

namespace terra::frontend {

using graph::kNever;
using runtime::Buffer;
using runtime::BufferRef;
using runtime::SpanRange;

void OperandList::add(const at::Tensor &tensor) {
  tracer::TensorView &view = tensors_.emplace_back();
  if (!tensor.defined())
    return;
  c10::TensorImpl &impl = *tensor.unsafeGetTensorImpl();
  if (!isPlain(impl)) {
    ok_ = false;
    return;
  }
  view = viewOf(impl);
  view.storage = adopt(*impl.unsafe_storage().unsafeGetStorageImpl());
  ok_ &= view.storage != nullptr;
}

void OperandList::add(const c10::Storage &storage) {
  tracer::TensorView &view = tensors_.emplace_back();
  view.storage = bufferOf(*storage.unsafeGetStorageImpl());
  view.dtype = DType::UInt8;
  ok_ &= view.storage != nullptr;
}

tracer::CallView OperandList::view() {
  arg_.kind = graph::ArgKind::TensorList;
  arg_.count = uint32_t(tensors_.size());
  tracer::CallView view;
  view.op = &op_;
  view.args = &arg_;
  view.numArgs = 1;
  view.tensors = tensors_.data();
  view.numTensors = uint32_t(tensors_.size());
  view.context = currentContext();
  view.whole = currentWhole();
  return view;
}

void OperandList::markTouched(uint64_t region) const {
  for (const tracer::TensorView &view : tensors_)
    if (auto *buffer = static_cast<Buffer *>(view.storage))
      buffer->region = region;
}

bool madeIn(const SpanRange &range, uint32_t slot) {
  const graph::Slot &info = range.segment->segment().slots[slot];
  return !info.external && info.producer >= range.first && info.producer < range.first + range.count;
}

bool hasScalarFeeds(const SpanRange &range) {
  for (uint32_t i = range.first; i < range.first + range.count; ++i)
    for (uint32_t feed : range.segment->segment().events[i].scalarFeeds)
      if (feed != kNever)
        return true;
  return false;
}

void VersionSteps::add(const at::Tensor &tensor, uint32_t steps) {
  c10::TensorImpl *impl = tensor.unsafeGetTensorImpl();
  targets_.emplace_back(impl, versionOf(*impl) + steps);
}

void VersionSteps::apply() {
  for (auto [impl, version] : targets_)
    while (versionOf(*impl) < version)
      impl->bump_version();
}

BufferRef bufferRefOf(const at::Tensor &tensor) {
  c10::TensorImpl &impl = *tensor.unsafeGetTensorImpl();
  return BufferRef::retain(isPlain(impl) ? adopt(*impl.unsafe_storage().unsafeGetStorageImpl()) : nullptr);
}

namespace {
thread_local FactoryWatch *watching = nullptr;

/// Real memory: no op has to run for it.
double valueOf(const at::Tensor &number) {
  at::ScalarType type = number.scalar_type();
  bool real = at::isIntegralType(type, /*includeBool=*/true) || type == at::kDouble || type == at::kFloat ||
              type == at::kHalf || type == at::kBFloat16;
  return real && number.numel() == 1 ? c10::fetch_and_cast<double>(type, number.const_data_ptr())
                                     : std::numeric_limits<double>::quiet_NaN();
}
} // namespace

FactoryWatch::FactoryWatch() : outer_(std::exchange(watching, this)) {}

FactoryWatch *FactoryWatch::current() { return watching; }

void FactoryWatch::stop() {
  if (std::exchange(watches_, false))
    watching = outer_;
}

void FactoryWatch::addConstant(const at::Tensor &tensor) {
  if (BufferRef buffer = bufferRefOf(tensor))
    constants_.emplace_back(std::move(buffer), valueOf(tensor));
}

void FactoryWatch::addUninitialised(const at::Tensor &tensor) { uninitialised_.push_back(bufferRefOf(tensor)); }

SpanConstants FactoryWatch::constants(const SpanRange &range, c10::function_ref<bool(double)> usable) {
  SpanConstants found;
  const std::vector<graph::Slot> &slots = range.segment->segment().slots;
  for (auto &[buffer, value] : constants_) {
    bool bound = buffer && buffer->epoch == range.epoch && !slots[buffer->slot].written;
    if (uint32_t slot = bound ? buffer->slot : kNever; bound && usable(value))
      found.emplace_back(slot, std::make_shared<BufferRef>(std::move(buffer)));
  }
  return found;
}

std::optional<SpanMemory> FactoryWatch::uninitialised(const SpanRange &range) const {
  SpanMemory memory;
  const std::vector<graph::Slot> &slots = range.segment->segment().slots;
  for (const BufferRef &ref : uninitialised_) {
    const Buffer *buffer = ref.get();
    if (!buffer)
      return std::nullopt;
    bool used = buffer->epoch == range.epoch;
    memory.emplace_back(used ? buffer->slot : kNever, buffer->bytes());
    if (!used)
      continue;
    const graph::Slot &slot = slots[buffer->slot];
    if (!slot.external || slot.firstUse < range.first || slot.firstUse >= range.first + range.count)
      return std::nullopt;
  }
  return memory;
}

bool isLent(const SpanMemory &memory, uint32_t slot) {
  return std::any_of(memory.begin(), memory.end(), [&](const auto &lent) { return lent.first == slot; });
}

void lendConstants(runtime::Session &session, const SpanConstants &constants) {
  for (const auto &[slot, buffer] : constants)
    session.lend(slot, buffer->get());
}

SpanDraft::SpanDraft(OperandList &operands) : ok_(operands.ok()), event_(tracer::Recorder::copy(operands.view())) {
  for (const tracer::TensorView &view : operands.tensors())
    buffers_.push_back(BufferRef::retain(static_cast<Buffer *>(view.storage)));
}

bool SpanDraft::complete(const SpanRange &range, const std::vector<bool> &required,
                         const std::vector<uint32_t> &given) {
  return keep(range, required, nullptr) && closed(range, given);
}

bool SpanDraft::completePiece(const SpanRange &range, const std::vector<bool> &required,
                              const std::vector<uint32_t> &given) {
  const graph::Segment &segment = range.segment->segment();
  std::vector<bool> touched(segment.slots.size(), false);
  for (uint32_t i = range.first; i < range.first + range.count; ++i) {
    for (const graph::SlotRef &input : segment.events[i].inputs)
      if (input.slot != kNever)
        touched[input.slot] = true;
    for (const graph::SlotRef &result : segment.events[i].results)
      if (result.slot != kNever)
        touched[result.slot] = true;
  }
  return keep(range, required, &touched) && closed(range, given);
}

bool SpanDraft::keep(const SpanRange &range, const std::vector<bool> &required, const std::vector<bool> *touched) {
  if (!ok_)
    return false;
  span->first = range.first;
  span->count = range.count;
  std::vector<graph::Operand> inputs;
  for (uint32_t i = 0; i < buffers_.size(); ++i) {
    Buffer *buffer = buffers_[i].get();
    bool bound = buffer && buffer->epoch == range.run->binding.epoch && (!touched || (*touched)[buffer->slot]);
    if (!bound && (buffer || !required[i]))
      continue;
    kept_.push_back(i);
    inputs.push_back(event_->inputs[i]);
    span->call.inputs.push_back({bound ? buffer->slot : kNever, kNever});
  }
  event_->inputs = std::move(inputs);
  event_->args[0].count = uint32_t(event_->inputs.size());
  span->call.event = event_;
  span->call.scalarFeeds.assign(1, kNever);
  return true;
}

bool SpanDraft::closed(const SpanRange &range, const std::vector<uint32_t> &given) const {
  const graph::Segment &segment = range.segment->segment();
  auto known = [&](const graph::SlotRef &ref) {
    if (ref.offsetFeed != kNever)
      return false;
    if (ref.slot == kNever || segment.slots[ref.slot].firstUse < range.first || madeIn(range, ref.slot))
      return true;
    return std::find(given.begin(), given.end(), ref.slot) != given.end() ||
           std::any_of(span->call.inputs.begin(), span->call.inputs.end(),
                       [&](auto &input) { return input.slot == ref.slot; });
  };
  for (uint32_t i = range.first; i < range.first + range.count; ++i)
    if (const auto &inputs = segment.events[i].inputs; !std::all_of(inputs.begin(), inputs.end(), known))
      return false;
  return true;
}

} // namespace terra::frontend
