#include "frontend/torch/Backward.h"

#include "frontend/torch/BackwardFeeds.h"
#include "frontend/torch/Frontend.h"
#include "frontend/torch/Promise.h"
#include "frontend/torch/SpanParts.h"
#include "tracer/Recorder.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/variable.h>

#include <array>

namespace terra::frontend {

using graph::kNever;
using runtime::Buffer;
using runtime::Session;
using runtime::Span;
using runtime::SpanRange;
using torch::autograd::AccumulateGrad;

namespace {

/// Where an operand of the backward is found.
struct Source {
  enum class Kind : uint8_t { Root, Gradient, Leaf, LeafGrad, Saved } kind = Kind::Root;
  uint32_t index = 0, sub = 0; ///< leaf, or call and which of its saved storages
};

/// What the backward does to one leaf's `.grad`.
struct LeafEffect {
  enum class Kind : uint8_t { None, InPlace, New } kind = Kind::None;
  uint32_t slot = kNever, version = 0; ///< New: its counter; InPlace: how far it moves
  TensorMeta meta;
};

/// Span::host of a backward.
struct BackwardSpan {
  std::vector<uint64_t> signature;
  std::vector<Source> sources;
  std::vector<bool> hadGrad; ///< by leaf
  std::vector<LeafEffect> effects;
  BackwardFeeds feeds;
  bool trial = false; ///< where its scalars come from is not certain yet
};

/// The graph is kept or released: two operators, since that is known before anything is compared.
const graph::Op &backwardOp(bool retainGraph) {
  static const auto &ops = *[] {
    auto *made = new std::array<graph::Op, 2>();
    (*made)[0].name = "terra::backward";
    (*made)[1].name = "terra::backward.retain_graph";
    for (graph::Op &op : *made)
      op.params = {{"operands", false}};
    return made;
  }();
  return ops[retainGraph];
}

struct Request {
  const at::Tensor &root, &gradient;
  bool retainGraph;
};

OperandList operandsOf(const Request &request, const BackwardWalk &walk, const std::vector<Source> &sources) {
  OperandList operands(backwardOp(request.retainGraph));
  for (const Source &source : sources) {
    switch (source.kind) {
    case Source::Kind::Root:
      operands.add(request.root);
      break;
    case Source::Kind::Gradient:
      operands.add(request.gradient);
      break;
    case Source::Kind::Leaf:
      operands.add(walk.leaves()[source.index]->variable);
      break;
    case Source::Kind::LeafGrad:
      operands.add(walk.leaves()[source.index]->variable.grad());
      break;
    case Source::Kind::Saved:
      operands.add(walk.calls()[source.index]->saved[source.sub].storage);
      break;
    }
  }
  return operands;
}

/// Everything that a backward may be fed with.
std::vector<Source> allSources(const Request &request, const BackwardWalk &walk) {
  std::vector<Source> sources = {{Source::Kind::Root, 0, 0}};
  if (request.gradient.defined())
    sources.push_back({Source::Kind::Gradient, 0, 0});
  for (uint32_t i = 0; i < walk.leaves().size(); ++i) {
    sources.push_back({Source::Kind::Leaf, i, 0});
    sources.push_back({Source::Kind::LeafGrad, i, 0});
  }
  for (uint32_t i = 0; i < walk.calls().size(); ++i)
    for (uint32_t k = 0; k < walk.calls()[i]->saved.size(); ++k)
      sources.push_back({Source::Kind::Saved, i, k});
  return sources;
}

bool sameGrads(const BackwardWalk &walk, const BackwardSpan &host) {
  for (size_t i = 0; i < walk.leaves().size(); ++i)
    if (walk.leaves()[i]->variable.grad().defined() != host.hadGrad[i])
      return false;
  return true;
}

/// The gradients of a recognised backward.
class Gradients {
public:
  Gradients(Session &session, const Span &span) : promiser_(session, span.call, call_, builder_) { promiser_.share(); }

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

private:
  VersionSteps versions_;
  HostCall call_;
  CallBuilder builder_;
  Promiser promiser_;
};

bool recognise(Session &session, const Request &request, BackwardWalk &walk, std::vector<at::Tensor> &dropped) {
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
    Gradients gradients(session, *candidate.span);
    for (size_t i = 0; i < host.effects.size(); ++i)
      dropped.push_back(gradients.apply(walk.leaves()[i]->variable, host.effects[i]));
    gradients.moveVersions();
    if (!request.retainGraph)
      walk.release();
    session.leaveSpan(*candidate.span);
    return true;
  }
  return false;
}

} // namespace

namespace {
/// A learner is at work on this thread: backwards inside the one that it watches are part of it.
thread_local bool learning = false;
} // namespace

class BackwardLearner {
public:
  ~BackwardLearner() { learning = false; }
  BackwardLearner(const BackwardLearner &) = delete;
  BackwardLearner(Session &session, const Request &request, BackwardWalk &walk)
      : session_(session), mark_(session.markSpan()) {
    learning = true;
    host_->signature = walk.signature();
    host_->sources = allSources(request, walk);
    scalars_ = scalarsOf(walk.calls());
    OperandList operands = operandsOf(request, walk, host_->sources);
    draft_ = std::make_unique<SpanDraft>(operands);
    for (AccumulateGrad *leaf : walk.leaves()) {
      variables_.push_back(leaf->variable);
      const at::Tensor &grad = leaf->variable.grad();
      host_->hadGrad.push_back(grad.defined());
      gradBefore_.push_back(grad.defined() ? grad.unsafeGetTensorImpl() : nullptr);
      versions_.push_back(grad.defined() ? versionOf(*grad.unsafeGetTensorImpl()) : 0);
    }
  }

  void finish() {
    session_.learnSpan(mark_, draft_->span, [this](const SpanRange &range) { return learn(range); });
  }

private:
  bool learn(const SpanRange &range) {
    std::vector<bool> required; // a gradient that was absent has to be absent again
    for (const Source &source : host_->sources)
      required.push_back(source.kind == Source::Kind::LeafGrad);
    if (!host_->feeds.learn(range, scalars_) || !draft_->complete(range, required))
      return false;
    for (size_t i = 0; i < variables_.size(); ++i)
      if (!effectOn(i, range))
        return false;
    std::vector<Source> sources;
    for (uint32_t index : draft_->kept())
      sources.push_back(host_->sources[index]);
    host_->sources = std::move(sources);
    draft_->span->host = host_;
    return compareWithEarlier(range);
  }

  /// The newest one of the same shape has gathered what the ones before it showed.
  bool compareWithEarlier(const SpanRange &range) {
    for (const auto &span : range.segment->spansAt(range.first)) {
      if (span->call.event->op != draft_->span->call.event->op || span->count != range.count)
        continue;
      const auto &other = *static_cast<const BackwardSpan *>(span->host.get());
      if (other.signature != host_->signature || other.hadGrad != host_->hadGrad)
        continue;
      if (!host_->feeds.narrow(other.feeds))
        return false;
      break;
    }
    host_->trial = !host_->feeds.believed();
    return true;
  }

  bool effectOn(size_t index, const SpanRange &range) {
    LeafEffect &effect = host_->effects.emplace_back();
    const at::Tensor &grad = variables_[index].grad();
    if (!grad.defined())
      return true;
    c10::TensorImpl &impl = *grad.unsafeGetTensorImpl();
    uint32_t version = versionOf(impl);
    if (&impl == gradBefore_[index]) {
      effect.kind = version == versions_[index] ? LeafEffect::Kind::None : LeafEffect::Kind::InPlace;
      effect.version = version - versions_[index];
      // Otherwise it was accumulated at once, without an event (a real 0-dim gradient).
      Buffer *buffer = bufferOf(*impl.unsafe_storage().unsafeGetStorageImpl());
      return effect.kind == LeafEffect::Kind::None || (buffer && buffer->epoch == range.run->binding.epoch);
    }
    if (!isPlain(impl) || grad.requires_grad())
      return false;
    Buffer *buffer = bufferOf(*impl.unsafe_storage().unsafeGetStorageImpl());
    if (!buffer || buffer->epoch != range.run->binding.epoch || !madeIn(range, buffer->slot))
      return false;
    effect = {LeafEffect::Kind::New, buffer->slot, version, tracer::Recorder::metaOf(viewOf(impl))};
    return true;
  }

  Session &session_;
  runtime::SpanMark mark_;
  CallScalars scalars_;
  std::unique_ptr<SpanDraft> draft_;
  std::shared_ptr<BackwardSpan> host_ = std::make_shared<BackwardSpan>();
  std::vector<at::Tensor> variables_;
  std::vector<c10::TensorImpl *> gradBefore_;
  std::vector<uint32_t> versions_;
};

BackwardOutcome beginBackward(const at::Tensor &root, const at::Tensor &gradient, bool retainGraph) {
  Session *session = currentSession();
  if (!session || learning || !session->coExecuting() || insideReal() || !plainThread() || !root.requires_grad())
    return {};
  Request request{root, gradient, retainGraph};
  thread_local const auto kept =
      std::make_unique<BackwardWalk>(); // thread-local variables are cheap while they are small
  BackwardWalk &walk = *kept;
  // A leaf holds its accumulator weakly.
  torch::autograd::Edge edge = torch::autograd::impl::gradient_edge(root);
  std::vector<at::Tensor> dropped; // outlives the lock
  std::lock_guard lock(runtimeInstance().lock());
  if (!walk.walk(*session, edge))
    return {};
  BackwardOutcome outcome;
  outcome.recognised = recognise(*session, request, walk, dropped);
  if (!outcome.recognised && session->mayLearnSpan())
    outcome.learner = std::make_shared<BackwardLearner>(*session, request, walk);
  return outcome;
}

void finishBackward(BackwardLearner &learner) { learner.finish(); }

std::vector<CallNode *> showHistory(c10::ArrayRef<at::Tensor> roots) {
  std::vector<torch::autograd::Node *> nodes;
  for (const at::Tensor &root : roots)
    if (root.defined() && root.grad_fn())
      nodes.push_back(root.grad_fn().get());
  return materializeFrom(nodes);
}

} // namespace terra::frontend
