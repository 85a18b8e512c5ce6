#include "frontend/torch/OptimizerStep.h"

#include "frontend/torch/Above.h"
#include "frontend/torch/Frontend.h"

#include <ATen/ATen.h>

#include <array>
#include <cstring>

namespace terra::frontend {

using graph::ArgKind;
using graph::kNever;
using runtime::Buffer;
using runtime::Session;
using runtime::SpanRange;

namespace {

/// A scalar feed of the segment, and which of `OptimizerState::scalars` it is.
struct Feed {
  uint32_t feed = 0, scalar = 0;
  bool operator==(const Feed &) const = default;
};

/// Span::host of an optimizer's step.
struct OptimizerSpan {
  std::vector<double> options;
  std::vector<double> scalars; ///< when it was learned: those that are not fed have to be the same again
  std::vector<bool> fed;       ///< by scalar
  std::vector<Feed> feeds;
  std::vector<uint32_t> kept;  ///< which of `OptimizerState::tensors` are operands
  std::vector<std::pair<uint32_t, uint32_t>> versions; ///< tensor, how far its version counter moves
  /// Which scalar is which was told by value. It has to come out the same in a second step before it is believed.
  bool trial = true;
};

const graph::Op &opOf(OptimizerKind kind) {
  static const auto &ops = *[] {
    auto *made = new std::array<graph::Op, 6>();
    const char *names[] = {"SGD", "Adam", "RMSprop", "Adadelta", "Adagrad", "Adamax"};
    for (size_t i = 0; i < made->size(); ++i) {
      (*made)[i].name = std::string("terra::") + names[i] + ".step";
      (*made)[i].params = {{"tensors", true}};
    }
    return made;
  }();
  return ops[size_t(kind)];
}

bool sameBits(const std::vector<double> &a, const std::vector<double> &b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

bool sameBits(double a, double b) { return std::memcmp(&a, &b, sizeof a) == 0; }

bool fits(const OptimizerState &state, const OptimizerSpan &host) {
  if (host.trial || !sameBits(state.options, host.options) || state.scalars.size() != host.scalars.size())
    return false;
  for (size_t i = 0; i < state.scalars.size(); ++i)
    if (!host.fed[i] && !sameBits(state.scalars[i], host.scalars[i]))
      return false;
  return true;
}

void addOne(const at::Tensor &count) {
  c10::TensorImpl &impl = *count.unsafeGetTensorImpl();
  void *data = impl.unsafe_storage().mutable_data();
  if (count.scalar_type() == at::kFloat)
    static_cast<float *>(data)[impl.storage_offset()] += 1;
  else
    static_cast<double *>(data)[impl.storage_offset()] += 1;
  impl.bump_version();
}

bool recognise(Session &session, const OptimizerState &state) {
  thread_local std::vector<runtime::SpanCandidate> candidates;
  session.spansNext(&opOf(state.kind), candidates);
  for (const runtime::SpanCandidate &candidate : candidates) {
    const auto &host = *static_cast<const OptimizerSpan *>(candidate.span->host.get());
    if (!fits(state, host) || (!host.kept.empty() && host.kept.back() >= state.tensors.size()))
      continue;
    OperandList operands(opOf(state.kind));
    for (uint32_t index : host.kept)
      operands.add(state.tensors[index]);
    if (!operands.ok() || !session.enterSpan(candidate, operands.view()))
      continue;
    operands.markTouched(session.region());
    for (const Feed &feed : host.feeds)
      session.run().binding.scalars[feed.feed].d = state.scalars[feed.scalar];
    VersionSteps versions;
    for (auto [tensor, steps] : host.versions)
      versions.add(state.tensors[tensor], steps);
    versions.apply();
    for (const at::Tensor &count : state.counts)
      addOne(count);
    session.leaveSpan(*candidate.span);
    candidates.clear();
    return true;
  }
  candidates.clear();
  return false;
}

} // namespace

void OptimizerState::clear() {
  options.clear();
  parameters.clear();
  tensors.clear();
  scalars.clear();
  counts.clear();
}

bool isRealCount(const at::Tensor &tensor) {
  c10::TensorImpl &impl = *tensor.unsafeGetTensorImpl();
  if (!isPlain(impl) || impl.dim() != 0 || (tensor.scalar_type() != at::kFloat && tensor.scalar_type() != at::kDouble))
    return false;
  const Buffer *buffer = bufferOf(*impl.unsafe_storage().unsafeGetStorageImpl());
  return !buffer || (!buffer->graphBorn && !buffer->exposed && buffer->installed.load(std::memory_order_acquire) &&
                     runtimeInstance().settled(*buffer, /*write=*/true));
}

double countOf(const at::Tensor &tensor) {
  c10::TensorImpl &impl = *tensor.unsafeGetTensorImpl();
  const void *data = impl.unsafe_storage().data();
  return tensor.scalar_type() == at::kFloat ? double(static_cast<const float *>(data)[impl.storage_offset()])
                                            : static_cast<const double *>(data)[impl.storage_offset()];
}

/// Watches a step that runs operation by operation.
class OptimizerLearner {
public:
  OptimizerLearner(Session &session, const OptimizerState &state)
      : session_(session), state_(state), mark_(session.markSpan()) {
    OperandList operands(opOf(state.kind));
    for (const at::Tensor &tensor : state.tensors) {
      operands.add(tensor);
      versions_.push_back(tensor.defined() ? versionOf(*tensor.unsafeGetTensorImpl()) : 0);
    }
    draft_ = std::make_unique<SpanDraft>(operands);
  }

  void finish() {
    std::lock_guard lock(runtimeInstance().lock());
    std::optional<SpanRange> range = session_.spanSince(mark_);
    if (range && learn(*range))
      range->segment->addSpan(draft_->span);
    else
      session_.refuseSpan(mark_);
  }

private:
  bool learn(const SpanRange &range) {
    if (!draft_->complete(range, std::vector<bool>(state_.tensors.size(), true)))
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
    if (!mapFeeds(range))
      return false;
    host_->trial = host_->feeds.empty() ? false : !confirmed(range);
    draft_->span->host = host_;
    return true;
  }

  bool mapFeeds(const SpanRange &range) {
    uint32_t parameter = 0;
    for (uint32_t i = range.first; i < range.first + range.count; ++i) {
      const graph::SegmentEvent &inner = range.segment->segment().events[i];
      parameter = parameterOf(inner, parameter);
      for (uint32_t arg = 0; arg < inner.scalarFeeds.size(); ++arg)
        if (inner.scalarFeeds[arg] != kNever && !mapArg(range, inner, arg, parameter))
          return false;
    }
    return true;
  }

  bool mapArg(const SpanRange &range, const graph::SegmentEvent &inner, uint32_t index, uint32_t parameter) {
    const graph::Arg &arg = inner.event->args[index];
    if (arg.kind != ArgKind::Double && arg.kind != ArgKind::NumberDouble && arg.kind != ArgKind::DoubleList)
      return false;
    for (uint32_t k = 0; k < arg.feeds(); ++k) {
      uint32_t feed = inner.scalarFeeds[index] + k;
      uint32_t hint = arg.kind == ArgKind::DoubleList && arg.count == state_.parameters.size() ? k : parameter;
      std::optional<uint32_t> scalar = scalarOf(range.run->binding.scalars[feed].d, hint);
      if (!scalar)
        return false;
      host_->feeds.push_back({feed, *scalar});
      host_->fed[*scalar] = true;
    }
    return true;
  }

  /// The parameter whose tensors the event touches; otherwise the last one.
  uint32_t parameterOf(const graph::SegmentEvent &inner, uint32_t last) const {
    for (const graph::SlotRef &ref : inner.inputs)
      for (uint32_t p = 0; p < state_.parameters.size() && ref.slot != kNever; ++p) {
        // Parameters come in order: look at the last one and those after it first.
        uint32_t candidate = (last + p) % uint32_t(state_.parameters.size());
        const OptimizerState::Parameter &range = state_.parameters[candidate];
        for (uint32_t t = range.firstTensor; t < range.firstTensor + range.numTensors; ++t)
          if (slotOf(t) == ref.slot)
            return candidate;
      }
    return last;
  }

  uint32_t slotOf(uint32_t tensor) const {
    auto it = std::lower_bound(draft_->kept().begin(), draft_->kept().end(), tensor);
    if (it == draft_->kept().end() || *it != tensor)
      return kNever;
    return draft_->span->call.inputs[size_t(it - draft_->kept().begin())].slot;
  }

  std::optional<uint32_t> scalarOf(double value, uint32_t parameter) const {
    const OptimizerState::Parameter &range = state_.parameters[parameter];
    for (uint32_t i = range.firstScalar; i < range.firstScalar + range.numScalars; ++i)
      if (sameBits(state_.scalars[i], value))
        return i;
    return std::nullopt;
  }

  /// A step before this one led to the same conclusion.
  bool confirmed(const SpanRange &range) const {
    for (const auto &span : range.segment->spansAt(range.first))
      if (span->call.event->op == &opOf(state_.kind) && span->count == range.count)
        if (const auto &other = *static_cast<const OptimizerSpan *>(span->host.get());
            other.feeds == host_->feeds && sameBits(other.options, host_->options) && other.kept == host_->kept)
          return true;
    return false;
  }

  Session &session_;
  OptimizerState state_;
  runtime::SpanMark mark_;
  std::unique_ptr<SpanDraft> draft_;
  std::shared_ptr<OptimizerSpan> host_ = std::make_shared<OptimizerSpan>();
  std::vector<uint32_t> versions_;
};

OptimizerOutcome beginOptimizerStep(const OptimizerState &state) {
  Session *session = currentSession();
  if (!session || !session->coExecuting() || insideReal() || !plainThread() || state.parameters.empty())
    return {};
  std::lock_guard lock(runtimeInstance().lock());
  OptimizerOutcome outcome;
  outcome.recognised = recognise(*session, state);
  if (!outcome.recognised && session->mayLearnSpan())
    outcome.learner = std::make_shared<OptimizerLearner>(*session, state);
  return outcome;
}

void finishOptimizerStep(OptimizerLearner &learner) { learner.finish(); }

} // namespace terra::frontend
