#include "frontend/torch/Backward.h"

#include "frontend/torch/BackwardLearner.h"
#include "frontend/torch/Frontend.h"
#include "frontend/torch/HookedBackward.h"
#include "frontend/torch/Promise.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/variable.h>

namespace terra::frontend {

using runtime::Session;
using runtime::Span;

namespace {

bool sameGrads(const BackwardWalk &walk, const BackwardSpan &host) {
  for (size_t i = 0; i < host.hadGrad.size(); ++i)
    if (walk.leaves()[i]->variable.grad().defined() != host.hadGrad[i])
      return false;
  return true;
}

/// The gradients of a recognised backward.
class Gradients {
public:
  Gradients(Session &session, const Span &span, const BackwardSpan &host)
      : promiser_(session, span.call, call_, builder_) {
    promiser_.share();
    host.own.lend(session, promiser_);
  }

  /// Returns what `.grad` was, to be dropped when no lock is held.
  at::Tensor apply(const at::Tensor &variable, const LeafEffect &effect) {
    at::Tensor &grad = const_cast<at::Tensor &>(variable).mutable_grad();
    if (effect.kind == LeafEffect::Kind::None)
      return {};
    if (effect.kind == LeafEffect::Kind::InPlace) {
      versions_.add(grad, effect.version);
      return {};
    }
    at::Tensor made = makeTensor(promiser_.storageOf(effect.slot), effect.meta, effect.meta.offset);
    if (effect.version)
      made.unsafeGetTensorImpl()->set_version_counter(c10::VariableVersion(effect.version));
    return std::exchange(grad, std::move(made));
  }

  void moveVersions() { versions_.apply(); }

  std::vector<at::Tensor> make(const GradientResults &results, c10::ArrayRef<at::Tensor> given) {
    return results.make(promiser_, given);
  }

private:
  VersionSteps versions_;
  HostCall call_;
  CallBuilder builder_;
  Promiser promiser_;
};

bool recognise(Session &session, const BackwardRequest &request, BackwardWalk &walk, std::vector<at::Tensor> &dropped,
               std::vector<at::Tensor> &results) {
  thread_local std::vector<runtime::SpanCandidate> candidates;
  session.spansNext(&backwardOp(request.retainGraph), candidates);
  for (const runtime::SpanCandidate &candidate : candidates) {
    const auto &host = *static_cast<const BackwardSpan *>(candidate.span->host.get());
    if (host.trial || host.signature != walk.signature() || !sameGrads(walk, host))
      continue;
    std::vector<Scalar> scalars;
    if (!host.feeds.empty() && !host.feeds.values(scalarsOf(walk.calls()), scalars))
      continue;
    OperandList operands = operandsOf(request, walk, host.sources);
    if (!operands.ok() || !session.enterSpan(candidate, operands.view()))
      continue;
    operands.markTouched(session.region());
    host.feeds.apply(session.run().binding, scalars);
    Gradients gradients(session, *candidate.span, host);
    for (size_t i = 0; i < host.effects.size(); ++i)
      dropped.push_back(gradients.apply(walk.leaves()[i]->variable, host.effects[i]));
    gradients.moveVersions();
    results = gradients.make(host.results, request.gradients);
    if (!request.retainGraph)
      walk.release(host.needed);
    session.leaveSpan(*candidate.span);
    return true;
  }
  return false;
}

/// Nothing that the engine would refuse, and nothing that it would do to the inputs themselves.
bool eligible(const BackwardRequest &request) {
  auto requiresGrad = [](const at::Tensor &tensor) { return tensor.requires_grad(); };
  return std::all_of(request.roots.begin(), request.roots.end(), requiresGrad) &&
         std::all_of(request.inputs.begin(), request.inputs.end(), [&](const at::Tensor &input) {
           return input.requires_grad() && !(request.accumulates && input.grad_fn());
         });
}

} // namespace

BackwardOutcome beginBackward(const BackwardRequest &request, bool last) {
  Session *session = currentSession();
  if (!session || BackwardLearner::atWork() || !session->coExecuting() || insideReal() || !plainThread() ||
      !eligible(request))
    return {};
  auto job = std::make_shared<HookedJob>(*session, request);
  BackwardWalk &walk = *job->walk;
  std::vector<at::Tensor> dropped; // outlives the lock
  std::lock_guard lock(runtimeInstance().lock());
  BackwardOutcome outcome;
  auto leave = [&](const char *reason) {
    session->noteLeft(reason);
    return outcome;
  };
  if (!walk.walk(*session, request, job->edges))
    return leave(walk.reason());
  if (walk.hooked()) {
    outcome.hasHooks = !last;
    if (const char *reason = last ? whyNotHooked(request) : ""; *reason)
      return leave(reason);
    if (last)
      outcome.hooked = std::move(job);
    return outcome;
  }
  outcome.recognised = recognise(*session, request, walk, dropped, outcome.results);
  if (!outcome.recognised && session->mayLearnSpan())
    outcome.learner = std::make_shared<BackwardLearner>(*session, request, job->edges, walk);
  return outcome;
}

void finishBackward(BackwardLearner &learner, c10::ArrayRef<at::Tensor> results) { learner.finish(results); }

std::vector<CallNode *> showHistory(c10::ArrayRef<at::Tensor> roots) {
  std::vector<torch::autograd::Node *> nodes;
  for (const at::Tensor &root : roots)
    if (root.defined() && root.grad_fn())
      nodes.push_back(root.grad_fn().get());
  return materializeFrom(nodes);
}

} // namespace terra::frontend
