#include "frontend/torch/OptimizerLearner.h"

#include "frontend/torch/CallBuilder.h"
#include "frontend/torch/Frontend.h"

#include <algorithm>
#include <cstring>

namespace terra::frontend {

using graph::ArgKind;
using graph::kNever;
using runtime::Buffer;
using runtime::Session;
using runtime::SpanRange;

namespace {

double readNumber(const Buffer &buffer, DType dtype) {
  return dtype == DType::Float32 ? double(*static_cast<const float *>(buffer.data()))
                                 : *static_cast<const double *>(buffer.data());
}

} // namespace

bool sameBits(const std::vector<double> &a, const std::vector<double> &b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

bool sameBits(double a, double b) { return std::memcmp(&a, &b, sizeof a) == 0; }

OptimizerLearner::OptimizerLearner(Session &session, const OptimizerState &state)
    : session_(session), state_(state), mark_(session.markSpan()) {
  OperandList operands(optimizerOp(state.kind));
  for (const at::Tensor &tensor : state.tensors) {
    operands.add(tensor);
    versions_.push_back(tensor.defined() ? versionOf(*tensor.unsafeGetTensorImpl()) : 0);
  }
  for (const OptimizerState::Number &number : state.numbers)
    numberVersions_.push_back(versionOf(*number.tensor.unsafeGetTensorImpl()));
  draft_ = std::make_unique<SpanDraft>(operands);
  noteNumbers(&copies_);
}

OptimizerLearner::~OptimizerLearner() { stopNoting(&copies_); }

void OptimizerLearner::finish() {
  session_.learnSpan(mark_, draft_->span, [this](const SpanRange &range) { return learn(range); });
}

bool OptimizerLearner::learn(const SpanRange &range) {
  if (!range.run) // it was recorded: there are no feeds to look at
    return false;
  findNumbers(range);
  if (!numbersCameTrue() || !draft_->complete(range, std::vector<bool>(state_.tensors.size(), true), numberSlots_))
    return false;
  host_->options = state_.options;
  host_->scalars = state_.scalars;
  host_->fed.assign(state_.scalars.size(), false);
  host_->kept = draft_->kept();
  // A tensor that no event touched was updated at once (a real 0-dim parameter): the span would leave it out.
  if (host_->kept.size() != state_.tensors.size())
    return false;
  for (uint32_t i = 0; i < state_.tensors.size(); ++i)
    if (state_.tensors[i].defined())
      if (uint32_t now = versionOf(*state_.tensors[i].unsafeGetTensorImpl()); now != versions_[i])
        host_->versions.emplace_back(i, now - versions_[i]);
  if (!mapFeeds(range) || !mapNumbers(range))
    return false;
  bool guessed = !host_->feeds.empty() || !host_->numbers.empty() || !state_.numbers.empty();
  host_->trial = guessed && !confirmed(range);
  draft_->span->host = host_;
  return true;
}

/// The step changed the numbers of its state as the formulas said, and each once.
bool OptimizerLearner::numbersCameTrue() const {
  for (size_t i = 0; i < state_.numbers.size(); ++i) {
    const at::Tensor &tensor = state_.numbers[i].tensor;
    if (!isRealNumber(tensor) || !sameBits(numberIn(tensor), state_.numbers[i].after) ||
        versionOf(*tensor.unsafeGetTensorImpl()) != numberVersions_[i] + 1)
      return false;
  }
  return true;
}

bool OptimizerLearner::mapFeeds(const SpanRange &range) {
  Parameters parameters = {0};
  for (uint32_t i = range.first; i < range.first + range.count; ++i) {
    const graph::SegmentEvent &inner = range.segment->segment().events[i];
    findParameters(inner, parameters);
    for (uint32_t arg = 0; arg < inner.scalarFeeds.size(); ++arg)
      if (inner.scalarFeeds[arg] != kNever && !mapArg(range, inner, arg, parameters))
        return false;
  }
  return true;
}

bool OptimizerLearner::mapArg(const SpanRange &range, const graph::SegmentEvent &inner, uint32_t index,
                              const Parameters &parameters) {
  const graph::Arg &arg = inner.event->args[index];
  if (arg.kind != ArgKind::Double && arg.kind != ArgKind::NumberDouble && arg.kind != ArgKind::DoubleList)
    return false;
  for (uint32_t k = 0; k < arg.feeds(); ++k) {
    uint32_t feed = inner.scalarFeeds[index] + k;
    std::optional<uint32_t> scalar = scalarOf(range.run->binding.scalars[feed].d, k, parameters);
    if (!scalar)
      return false;
    host_->feeds.push_back({feed, *scalar});
    host_->fed[*scalar] = true;
  }
  return true;
}

void OptimizerLearner::findNumbers(const SpanRange &range) {
  const std::vector<graph::Slot> &slots = range.segment->segment().slots;
  for (const runtime::BufferRef &copy : copies_) {
    const Buffer &buffer = *copy.get();
    if (buffer.epoch != range.run->binding.epoch || !slots[buffer.slot].external || slots[buffer.slot].written ||
        slots[buffer.slot].firstUse < range.first || slots[buffer.slot].lastUse >= range.first + range.count)
      continue;
    numberSlots_.push_back(buffer.slot);
    numberBuffers_.push_back(&buffer);
  }
}

bool OptimizerLearner::mapNumbers(const SpanRange &range) {
  Parameters parameters = {0};
  for (uint32_t i = range.first; i < range.first + range.count; ++i) {
    const graph::SegmentEvent &inner = range.segment->segment().events[i];
    findParameters(inner, parameters);
    uint32_t index = 0; // numbers of one event come in the order of its parameters
    for (size_t k = 0; k < inner.inputs.size(); ++k) {
      uint32_t slot = inner.inputs[k].slot;
      auto it = std::find(numberSlots_.begin(), numberSlots_.end(), slot);
      if (slot == kNever || it == numberSlots_.end())
        continue;
      const TensorMeta &meta = inner.event->inputs[k].meta;
      const Buffer *buffer = numberBuffers_[size_t(it - numberSlots_.begin())];
      bool known = meta.dtype == DType::Float32 || meta.dtype == DType::Float64;
      size_t bytes = meta.dtype == DType::Float32 ? sizeof(float) : sizeof(double);
      if (!known || !meta.sizes().empty() || meta.offset != 0 || buffer->bytes() != bytes ||
          !mapNumber({slot, kNever, meta.dtype, 0}, readNumber(*buffer, meta.dtype), index++, parameters))
        return false;
    }
  }
  return true;
}

bool OptimizerLearner::mapNumber(const OptimizerNumber &number, double value, uint32_t index,
                                 const Parameters &parameters) {
  OptimizerNumber &mapped = host_->numbers.emplace_back(number);
  if (std::optional<uint32_t> scalar = scalarOf(value, index, parameters)) {
    mapped.scalar = *scalar;
    host_->fed[*scalar] = true;
    return true;
  }
  mapped.constant = value;
  return isConstant(value);
}

/// Zero, one and the options themselves are not computed at each step.
bool OptimizerLearner::isConstant(double value) const {
  return value == 0 || value == 1 || std::any_of(state_.options.begin(), state_.options.end(), [&](double option) {
           return sameBits(option, value) || sameBits(double(float(option)), value);
         });
}

/// The parameters whose tensors the event touches, in its order: they may come in groups. Otherwise the last ones stay.
void OptimizerLearner::findParameters(const graph::SegmentEvent &inner, Parameters &parameters) const {
  for (const graph::Arg &arg : inner.event->args) {
    if (arg.kind != ArgKind::Tensor && arg.kind != ArgKind::TensorList)
      continue;
    Parameters found;
    for (uint32_t i = arg.first; i < arg.first + arg.count; ++i)
      if (std::optional<uint32_t> parameter =
              parameterAt(inner.inputs[i].slot, found.empty() ? parameters.front() : found.back()))
        found.push_back(*parameter);
    if (!found.empty() && found.size() == arg.count) {
      parameters = std::move(found);
      return;
    }
  }
}

/// Parameters come in order: looks at `last` and those after it first.
std::optional<uint32_t> OptimizerLearner::parameterAt(uint32_t slot, uint32_t last) const {
  for (uint32_t p = 0; p < state_.parameters.size() && slot != kNever; ++p) {
    uint32_t candidate = (last + p) % uint32_t(state_.parameters.size());
    const OptimizerState::Parameter &range = state_.parameters[candidate];
    for (uint32_t t = range.firstTensor; t < range.firstTensor + range.numTensors; ++t)
      if (slotOf(t) == slot)
        return candidate;
  }
  return std::nullopt;
}

uint32_t OptimizerLearner::slotOf(uint32_t tensor) const {
  auto it = std::lower_bound(draft_->kept().begin(), draft_->kept().end(), tensor);
  if (it == draft_->kept().end() || *it != tensor)
    return kNever;
  return draft_->span->call.inputs[size_t(it - draft_->kept().begin())].slot;
}

/// The scalar of that value: of the `index`th of these parameters (a list has one for each), else of the first one.
std::optional<uint32_t> OptimizerLearner::scalarOf(double value, uint32_t index, const Parameters &parameters) const {
  for (uint32_t candidate : {parameters[std::min<size_t>(index, parameters.size() - 1)], parameters.front()}) {
    const OptimizerState::Parameter &range = state_.parameters[candidate];
    for (uint32_t i = range.firstScalar; i < range.firstScalar + range.numScalars; ++i)
      if (sameBits(state_.scalars[i], value))
        return i;
    if (range.common != kNever && sameBits(state_.scalars[range.common], value))
      return range.common;
  }
  return std::nullopt;
}

/// A step before this one led to the same conclusion.
bool OptimizerLearner::confirmed(const SpanRange &range) const {
  for (const auto &span : range.segment->spansAt(range.first))
    if (span->call.event->op == &optimizerOp(state_.kind) && span->count == range.count)
      if (const auto &other = *static_cast<const OptimizerSpan *>(span->host.get());
          other.feeds == host_->feeds && other.numbers == host_->numbers && sameBits(other.options, host_->options) &&
          other.kept == host_->kept)
        return true;
  return false;
}

} // namespace terra::frontend
