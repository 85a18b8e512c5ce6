#include "frontend/torch/Replay.h"

#include "frontend/torch/Arguments.h"
#include "frontend/torch/Frontend.h"
#include "frontend/torch/Promise.h"
#include "tracer/Rules.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>

namespace terra::frontend {

using graph::Alias;

namespace {

thread_local Replay *active = nullptr;

class ActiveScope {
public:
  explicit ActiveScope(Replay *replay) : before_(std::exchange(active, replay)) {}
  ~ActiveScope() { active = before_; }
  ActiveScope(const ActiveScope &) = delete;

private:
  Replay *before_;
};

bool isNumber(const c10::IValue &value) {
  return value.isTensor() && value.toTensor().defined() && value.toTensor().unsafeGetTensorImpl()->is_wrapped_number();
}

/// The recorded call holds its numbers: others take their place, of which every reference tells.
void ownNumbers(torch::jit::Stack &stack) {
  for (c10::IValue &value : stack)
    if (isNumber(value)) {
      at::Tensor own(value.toTensor().unsafeGetTensorImpl()->shallow_copy_and_detach(
          c10::VariableVersion(0), /*allow_tensor_metadata_change=*/false));
      own.unsafeGetTensorImpl()->set_wrapped_number(true);
      value = std::move(own);
    }
}

} // namespace

Replay::Replay(const runtime::CompiledSegment &segment, const runtime::Span &span, const CallSpan &host,
               Sources sources)
    : segment_(segment), span_(span), host_(host), sources_(sources) {}

Replay *Replay::current() { return active; }

std::vector<at::Tensor> Replay::run() {
  ActiveScope scope(this);
  c10::impl::ForceDispatchKeyGuard keys(c10::default_included_set | c10::DispatchKeySet(kBelowAutograd),
                                        c10::default_excluded_set | c10::DispatchKeySet(kAboveAutograd));
  const graph::Event &event = *span_.call.event;
  c10::AutoGradMode gradMode(gradModeOf(event.context));
  uint32_t varying = 0;
  auto feeds = [&](uint32_t arg) {
    return sources_.scalars ? &(*sources_.scalars)[varying++] : &event.args[arg].scalar;
  };
  torch::jit::Stack stack = makeArguments(*host_.call, event, sources_.operand, feeds);
  if (!sources_.scalars)
    ownNumbers(stack);
  noteNumbers(stack, stack.size());
  host_.call->entry->handle.callBoxed(stack);
  TORCH_CHECK(next_ == span_.count, "terra: ", event.name(), " makes fewer calls than when it was recorded");
  std::vector<at::Tensor> results;
  for (c10::IValue &value : stack) {
    if (value.isTensor())
      results.push_back(value.toTensor());
    else
      for (const at::Tensor &tensor : value.toTensorVector())
        results.push_back(tensor);
  }
  return results;
}

void Replay::noteNumbers(const torch::jit::Stack &stack, size_t count) {
  auto known = [this](const at::Tensor &tensor) {
    return std::any_of(numbers_.begin(), numbers_.end(), [&](const at::Tensor &one) { return one.is_same(tensor); });
  };
  for (size_t i = stack.size() - count; i < stack.size() && !sources_.scalars; ++i)
    if (isNumber(stack[i]) && !known(stack[i].toTensor()))
      numbers_.push_back(stack[i].toTensor());
}

bool Replay::numbersAreKept() const {
  return std::any_of(numbers_.begin(), numbers_.end(), [](const at::Tensor &one) { return one.use_count() > 1; });
}

void Replay::answer(const OpEntry &entry, const c10::OperatorHandle &op, c10::DispatchKeySet keys,
                    torch::jit::Stack *stack) {
  if (entry.route == Route::Ignore) {
    if (entry.makesUninitialised)
      return answerUninitialised(op, keys, stack);
    c10::impl::ExcludeDispatchKeyGuard guard(kBelowAutograd);
    return op.redispatchBoxed(below(keys), stack);
  }
  noteNumbers(*stack, entry.numArgs);
  BuilderScope builder;
  bool immediate = builder->build(entry, *stack, span_.call.event->context) == CallBuilder::Kind::Immediate;
  if (immediate && entry.makesScalarsOnly && builder->numOperands() == 0) {
    c10::impl::ExcludeDispatchKeyGuard guard(kBelowAutograd);
    return op.redispatchBoxed(below(keys), stack);
  }
  bool expectedCall = next_ < span_.count && segment_.segment().events[span_.first + next_].event->op == &entry.op;
  TORCH_CHECK(expectedCall, "terra: ", span_.call.event->name(), " now calls ", entry.op.name,
              ", which it did not when it was recorded");
  const graph::SegmentEvent &expected = segment_.segment().events[span_.first + next_++];
  const auto &call = *static_cast<const HostCall *>(expected.event->host.get());
  for (auto [index, steps] : call.operandVersions)
    for (uint32_t i = 0; i < steps; ++i)
      builder->impl(index)->bump_version();
  c10::SmallVector<at::Tensor, 4> tensors;
  for (uint32_t i = 0; i < expected.event->results.size(); ++i)
    tensors.push_back(result(expected, *builder, i));
  pushResults(*expected.event, tensors, entry.numArgs, stack);
}

at::Tensor Replay::result(const graph::SegmentEvent &expected, const CallBuilder &builder, uint32_t index) {
  const graph::Result &result = expected.event->results[index];
  switch (result.alias) {
  case Alias::Undefined:
    return {};
  case Alias::Same:
    return at::Tensor(
        c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>::reclaim_copy(builder.impl(result.aliasOf)));
  case Alias::View:
    return makeTensor(c10::Storage(builder.impl(result.aliasOf)->unsafe_storage()), result.meta,
                      tracer::resultOffset(*expected.event, builder.view(), index));
  case Alias::Fresh:
    break;
  }
  return makeTensor(sources_.storage(expected.results[index].slot), result.meta, result.meta.offset);
}

void Replay::answerUninitialised(const c10::OperatorHandle &op, c10::DispatchKeySet keys, torch::jit::Stack *stack) {
  TORCH_CHECK(nextLent_ < host_.lent.size(), "terra: ", span_.call.event->name(),
              " now makes more memory than when it was recorded");
  c10::impl::ExcludeDispatchKeyGuard guard(kBelowAutograd);
  op.redispatchBoxed(below(keys), stack);
  uint32_t slot = host_.lent[nextLent_++].first;
  if (slot == graph::kNever)
    return;
  at::Tensor real = stack->back().toTensor();
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(sources_.storage(slot), real.key_set(), real.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(real.sizes(), real.strides(), real.storage_offset());
  stack->back() = tensor;
}

} // namespace terra::frontend
