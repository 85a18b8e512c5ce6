#include "frontend/torch/Above.h"

#include "frontend/torch/Frontend.h"
#include "frontend/torch/Promise.h"
#include "frontend/torch/SpanLearner.h"

#include <ATen/ATen.h>
#include <ATen/SavedTensorHooks.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/library.h>

namespace terra::frontend {

using graph::kNever;
using runtime::Session;
using runtime::Span;
using torch::autograd::edge_list;
using torch::jit::Stack;

namespace {

void fallThrough(const c10::OperatorHandle &op, c10::DispatchKeySet keys, Stack *stack) {
  c10::impl::ExcludeDispatchKeyGuard guard(kAboveAutograd);
  op.redispatchBoxed(belowAbove(keys), stack);
}

/// Operators whose calls may be spans: of PyTorch itself, with tensors in and tensors out.
bool eligible(const OpEntry &entry) {
  return entry.route == Route::Event && entry.builtin && !entry.op.has(graph::kOpGate);
}

bool eligibleCached(const OpEntry &entry) {
  static constexpr uint8_t kYes = 1, kNo = 2;
  uint8_t known = entry.eligible.load(std::memory_order_relaxed);
  if (known == 0)
    entry.eligible.store(known = eligible(entry) ? kYes : kNo, std::memory_order_relaxed);
  return known == kYes;
}

/// A new history can be given to an operand that is written: no leaf and no view.
bool mayRebase(const c10::TensorImpl &impl) {
  auto *meta = static_cast<torch::autograd::AutogradMeta *>(impl.autograd_meta());
  return !meta || (!meta->is_view_ && (meta->grad_fn_ || !meta->requires_grad_));
}

/// Its base was written since the view was made: it needs another node, or may not be used any more.
bool isStale(const c10::TensorImpl &impl, const torch::autograd::AutogradMeta &meta) {
  const auto &view = static_cast<const torch::autograd::DifferentiableViewMeta &>(meta);
  return view.has_bw_view() && view.get_attr_version() != impl.version_counter().current_version() &&
         view.requires_grad();
}

/// Operands that only autograd's own code knows how to treat.
bool plainOperands(const CallBuilder &builder) {
  for (uint32_t i = 0; i < builder.numOperands(); ++i) {
    c10::TensorImpl *impl = builder.impl(i);
    if (!impl)
      continue;
    if (impl->is_inference())
      return false;
    auto *meta = static_cast<torch::autograd::AutogradMeta *>(impl->autograd_meta());
    if (meta && (meta->fw_grad_ || (meta->is_view_ && isStale(*impl, *meta))))
      return false;
  }
  return true;
}

class Call {
public:
  Call(Session &session, const CallBuilder &builder, const runtime::SpanCandidate &candidate)
      : session_(session), builder_(builder), candidate_(candidate), span_(*candidate.span), event_(*span_.call.event),
        host_(*static_cast<const CallSpan *>(span_.host.get())), promiser_(session, span_.call, *host_.call, builder) {}

  void promise(Stack *stack) {
    promiser_.bumpOperands();
    promiser_.share();
    promiser_.lend(host_.lent);
    lendConstants(session_, host_.constants);
    for (uint32_t i = 0; i < event_.results.size(); ++i)
      results_.push_back(make(i));
    if (host_.differentiable)
      attachNode();
    pushResults(event_, results_, builder_.view().numArgs, stack);
  }

private:
  static at::Tensor tensorOf(c10::TensorImpl *impl) {
    return at::Tensor(c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>::reclaim_copy(impl));
  }

  at::Tensor make(uint32_t index) {
    const ViewHistory *view = host_.views.of(index);
    if (!view)
      return promiser_.make(index);
    if (view->kind != ViewHistory::Kind::OfHidden)
      return CallViews::attach(*view, tensorOf(builder_.impl(view->of)), promiser_.make(index));
    const at::Tensor &base = hiddenBase(view->of, span_.call.results[index].slot);
    const TensorMeta &meta = event_.results[index].meta;
    return CallViews::attach(*view, base, makeView(*base.unsafeGetTensorImpl(), meta, meta.offset));
  }

  const at::Tensor &hiddenBase(uint32_t index, uint32_t slot) {
    const HiddenBase &hidden = host_.views.hidden[index];
    hidden_.resize(host_.views.hidden.size());
    at::Tensor &base = hidden_[index];
    if (!base.defined()) {
      base = makeTensor(promiser_.storageOf(slot), hidden.meta, hidden.meta.offset);
      if (hidden.version)
        base.unsafeGetTensorImpl()->set_version_counter(c10::VariableVersion(hidden.version));
    }
    return base;
  }

  void attachNode() {
    edge_list edges;
    edges.reserve(builder_.numOperands());
    for (uint32_t i = 0; i < builder_.numOperands(); ++i) {
      bool history = event_.inputs[i].meta.requiresGrad;
      edges.push_back(history ? torch::autograd::impl::gradient_edge(tensorOf(builder_.impl(i)))
                              : torch::autograd::Edge());
    }
    auto node = makeNode<CallNode>(candidate_.segment, candidate_.span, std::move(edges));
    node->saved.reserve(host_.kept.size());
    for (const Kept &kept : host_.kept)
      node->saved.push_back(save(kept));
    for (uint32_t i = 0; i < event_.args.size(); ++i)
      if (event_.args[i].varies)
        node->scalars.push_back(session_.run().binding.scalars[span_.call.scalarFeeds[i]]);
    for (uint32_t i = 0; i < results_.size(); ++i)
      if (host_.resultRequiresGrad[i])
        giveHistory(i, node);
  }

  void giveHistory(uint32_t index, const NodePtr &node) {
    if (event_.results[index].alias == graph::Alias::Same)
      return torch::autograd::impl::rebase_history(results_[index], {node, index});
    if (!host_.behindBases())
      return torch::autograd::impl::set_gradient_edge(results_[index], {node, index});
    uint32_t base = host_.views.of(index)->of;
    torch::autograd::impl::set_gradient_edge(hidden_[base], {node, base});
    CallViews::link(results_[index], hidden_[base], {node, base});
  }

  SavedStorage save(const Kept &kept) {
    SavedStorage saved;
    const c10::TensorImpl *impl = kept.kind == Kept::Kind::Operand ? builder_.impl(kept.index)
                                  : kept.result != kNever          ? results_[kept.result].unsafeGetTensorImpl()
                                                                   : nullptr;
    if (!impl) {
      saved.storage = promiser_.storageOf(kept.index);
      return saved;
    }
    saved.storage = impl->unsafe_storage();
    saved.counter = impl->version_counter();
    saved.version = versionOf(*impl);
    saved.offset = impl->storage_offset();
    return saved;
  }

  Session &session_;
  const CallBuilder &builder_;
  const runtime::SpanCandidate &candidate_;
  const Span &span_;
  const graph::Event &event_;
  const CallSpan &host_;
  Promiser promiser_;
  c10::SmallVector<at::Tensor, 4> results_;
  c10::SmallVector<at::Tensor, 1> hidden_; ///< bases of results
};

bool recognise(Session &session, CallBuilder &builder, Stack *stack) {
  thread_local std::vector<runtime::SpanCandidate> candidates;
  std::lock_guard lock(runtimeInstance().lock());
  session.spansNext(builder.view(), candidates);
  for (const runtime::SpanCandidate &candidate : candidates) {
    uint32_t written = static_cast<const CallSpan *>(candidate.span->host.get())->written;
    if (written != kNever && !mayRebase(*builder.impl(written)))
      continue;
    if (!session.enterSpan(candidate, builder.view()))
      continue;
    markTouched(builder);
    Call(session, builder, candidate).promise(stack);
    session.leaveSpan(*candidate.span);
    candidates.clear();
    return true;
  }
  candidates.clear();
  return false;
}

bool autocasts() { return !c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::AutocastCPU); }

void hookAbove(const c10::OperatorHandle &op, c10::DispatchKeySet keys, Stack *stack) {
  Session *session = currentSession();
  if (!session || insideReal() || !(session->coExecuting() || session->recordsCalls()))
    return fallThrough(op, keys, stack);
  OpEntry &entry = opEntry(op);
  if (!plainThread(/*mayAutocast=*/true))
    return fallThrough(op, keys, stack);
  // PyTorch's own code casts, and keeps casts in its cache; each cast, and the call itself, come here again without autocast.
  if (entry.callsUnderAutocast && autocasts())
    return op.redispatchBoxed(belowAbove(keys), stack);
  if (!eligibleCached(entry))
    return fallThrough(op, keys, stack);
  BuilderScope builder;
  if (builder->build(entry, *stack, currentContext()) != CallBuilder::Kind::Event || builder->numOperands() == 0 ||
      !plainOperands(*builder))
    return fallThrough(op, keys, stack);
  builder->noteGradients();
  if (recognise(*session, *builder, stack))
    return;
  if (!session->recordsCalls() && !session->mayLearnSpan())
    return fallThrough(op, keys, stack);
  size_t base = stack->size() - entry.numArgs;
  SpanLearner learner(*session, entry, *builder, stack->data() + base);
  fallThrough(op, keys, stack);
  if (currentSession() == session)
    learner.finish(*stack, base);
}

} // namespace

bool plainThread(bool mayAutocast) {
  c10::impl::LocalDispatchKeySet keys = c10::impl::tls_local_dispatch_key_set();
  if (mayAutocast)
    keys.excluded_ = keys.excluded_.add(c10::DispatchKey::AutocastCPU);
  constexpr c10::DispatchKeySet included =
      c10::default_included_set | c10::DispatchKeySet({kBelowAutograd, kAboveAutograd});
  return keys.included_ == included && keys.excluded_ == c10::default_excluded_set &&
         !torch::autograd::AnomalyMode::is_enabled() && at::SavedTensorDefaultHooks::get_tls_state().stack.empty();
}

void listenAboveAutograd(bool on) { c10::impl::tls_set_dispatch_key_included(kAboveAutograd, on); }

bool excludeAbove(bool on) {
  bool before = c10::impl::tls_is_dispatch_key_excluded(kAboveAutograd);
  c10::impl::tls_set_dispatch_key_excluded(kAboveAutograd, on);
  return before;
}

void noteUninitialised(const c10::IValue &result) {
  if (FactoryWatch *watch = FactoryWatch::current(); watch && result.isTensor())
    watch->addUninitialised(result.toTensor());
}

void noteConstant(const c10::IValue &result) {
  if (FactoryWatch *watch = FactoryWatch::current(); watch && result.isTensor())
    watch->addConstant(result.toTensor());
}

void noteWriteAtOnce() {
  if (SpanLearner *learner = SpanLearner::current())
    learner->addWriteAtOnce();
}

TORCH_LIBRARY_IMPL(_, DeferredInit, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&hookAbove>());
}

} // namespace terra::frontend
