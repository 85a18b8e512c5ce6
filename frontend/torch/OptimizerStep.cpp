#include "frontend/torch/OptimizerStep.h"

#include "frontend/torch/Above.h"
#include "frontend/torch/Frontend.h"
#include "frontend/torch/OptimizerLearner.h"

#include <ATen/ATen.h>

#include <array>

namespace terra::frontend {

using graph::kNever;
using runtime::Buffer;
using runtime::BufferRef;
using runtime::Session;

const graph::Op &optimizerOp(OptimizerKind kind) {
  static constexpr std::array kNames = {"SGD",   "Adam",  "RMSprop", "Adadelta", "Adagrad", "Adamax",
                                        "NAdam", "RAdam", "Rprop",   "ASGD",     "Muon",    "Adafactor"};
  static const auto &ops = *[] {
    auto *made = new std::array<graph::Op, kNames.size()>();
    for (size_t i = 0; i < made->size(); ++i) {
      (*made)[i].name = std::string("terra::") + kNames[i] + ".step";
      (*made)[i].params = {{"tensors", true}};
    }
    return made;
  }();
  return ops[size_t(kind)];
}

namespace {

bool fits(const OptimizerState &state, const OptimizerSpan &host) {
  if (host.trial || !sameBits(state.options, host.options) || state.scalars.size() != host.scalars.size())
    return false;
  for (size_t i = 0; i < state.scalars.size(); ++i)
    if (!host.fed[i] && !sameBits(state.scalars[i], host.scalars[i]))
      return false;
  return true;
}

void store(const at::Tensor &number, double value) {
  c10::TensorImpl &impl = *number.unsafeGetTensorImpl();
  void *data = impl.unsafe_storage().mutable_data();
  if (number.scalar_type() == at::kFloat)
    static_cast<float *>(data)[impl.storage_offset()] = float(value);
  else
    static_cast<double *>(data)[impl.storage_offset()] = value;
  impl.bump_version();
}

void lend(Session &session, const OptimizerNumber &number, double value) {
  size_t bytes = number.dtype == DType::Float32 ? sizeof(float) : sizeof(double);
  auto ref = BufferRef::adopt(new Buffer(hostAllocate(bytes), bytes, Device{}));
  if (number.dtype == DType::Float32)
    *static_cast<float *>(ref.get()->data()) = float(value);
  else
    *static_cast<double *>(ref.get()->data()) = value;
  session.lend(number.slot, ref.get());
}

void feed(Session &session, const OptimizerState &state, const OptimizerSpan &host) {
  for (const OptimizerFeed &feed : host.feeds)
    session.run().binding.scalars[feed.feed].d = state.scalars[feed.scalar];
  for (const OptimizerNumber &number : host.numbers)
    lend(session, number, number.scalar == kNever ? number.constant : state.scalars[number.scalar]);
}

bool recognise(Session &session, const OptimizerState &state) {
  thread_local std::vector<runtime::SpanCandidate> candidates;
  session.spansNext(&optimizerOp(state.kind), candidates);
  for (const runtime::SpanCandidate &candidate : candidates) {
    const auto &host = *static_cast<const OptimizerSpan *>(candidate.span->host.get());
    if (!fits(state, host) || (!host.kept.empty() && host.kept.back() >= state.tensors.size()))
      continue;
    OperandList operands(optimizerOp(state.kind));
    for (uint32_t index : host.kept)
      operands.add(state.tensors[index]);
    if (!operands.ok() || !session.enterSpan(candidate, operands.view()))
      continue;
    operands.markTouched(session.region());
    feed(session, state, host);
    VersionSteps versions;
    for (auto [tensor, steps] : host.versions)
      versions.add(state.tensors[tensor], steps);
    versions.apply();
    for (const OptimizerState::Number &number : state.numbers)
      store(number.tensor, number.after);
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
  numbers.clear();
}

bool isRealNumber(const at::Tensor &tensor) {
  c10::TensorImpl &impl = *tensor.unsafeGetTensorImpl();
  if (!isPlain(impl) || impl.dim() != 0 || (tensor.scalar_type() != at::kFloat && tensor.scalar_type() != at::kDouble))
    return false;
  const Buffer *buffer = bufferOf(*impl.unsafe_storage().unsafeGetStorageImpl());
  return !buffer || (!buffer->graphBorn && !buffer->exposed && buffer->installed.load(std::memory_order_acquire) &&
                     runtimeInstance().settled(*buffer, /*write=*/true));
}

double numberIn(const at::Tensor &tensor) {
  c10::TensorImpl &impl = *tensor.unsafeGetTensorImpl();
  const void *data = impl.unsafe_storage().data();
  return tensor.scalar_type() == at::kFloat ? double(static_cast<const float *>(data)[impl.storage_offset()])
                                            : static_cast<const double *>(data)[impl.storage_offset()];
}

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
