#include "frontend/torch/BackwardLearner.h"

#include "tracer/Recorder.h"

#include <ATen/ATen.h>

#include <array>

namespace terra::frontend {

using graph::kNever;
using runtime::Buffer;
using runtime::SpanRange;
using torch::autograd::AccumulateGrad;
using Source = BackwardSource;

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

OperandList operandsOf(const BackwardRequest &request, const BackwardWalk &walk, const std::vector<Source> &sources) {
  OperandList operands(backwardOp(request.retainGraph));
  for (const Source &source : sources) {
    switch (source.kind) {
    case Source::Kind::Root:
      operands.add(request.roots[source.index]);
      break;
    case Source::Kind::Gradient:
      operands.add(request.gradients[source.index]);
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

namespace {

/// Everything that a backward may be fed with.
std::vector<Source> allSources(const BackwardRequest &request, const BackwardWalk &walk) {
  std::vector<Source> sources;
  for (uint32_t i = 0; i < request.roots.size(); ++i) {
    sources.push_back({Source::Kind::Root, i, 0});
    if (request.gradients[i].defined())
      sources.push_back({Source::Kind::Gradient, i, 0});
  }
  for (uint32_t i = 0; i < walk.leaves().size(); ++i) {
    sources.push_back({Source::Kind::Leaf, i, 0});
    if (request.accumulates)
      sources.push_back({Source::Kind::LeafGrad, i, 0});
  }
  for (uint32_t i = 0; i < walk.calls().size(); ++i)
    for (uint32_t k = 0; k < walk.calls()[i]->saved.size(); ++k)
      sources.push_back({Source::Kind::Saved, i, k});
  return sources;
}

thread_local bool learning = false;

} // namespace

bool BackwardLearner::atWork() { return learning; }

BackwardLearner::~BackwardLearner() { learning = false; }

BackwardLearner::BackwardLearner(runtime::Session &session, const BackwardRequest &request, const BackwardEdges &edges,
                                 const BackwardWalk &walk)
    : session_(session), mark_(session.markSpan()), accumulates_(request.accumulates) {
  learning = true;
  host_->signature = walk.signature();
  host_->identities = walk.identities();
  host_->sources = allSources(request, walk);
  host_->needed = walk.needed(edges);
  scalars_ = scalarsOf(walk.calls());
  OperandList operands = operandsOf(request, walk, host_->sources);
  draft_ = std::make_unique<SpanDraft>(operands);
  if (!accumulates_) {
    gradients_ = request.gradients.vec();
    return;
  }
  for (AccumulateGrad *leaf : walk.leaves()) {
    variables_.push_back(leaf->variable);
    const at::Tensor &grad = leaf->variable.grad();
    host_->hadGrad.push_back(grad.defined());
    gradBefore_.push_back(grad.defined() ? grad.unsafeGetTensorImpl() : nullptr);
    versions_.push_back(grad.defined() ? versionOf(*grad.unsafeGetTensorImpl()) : 0);
  }
}

void BackwardLearner::finish(c10::ArrayRef<at::Tensor> results) {
  factories_.stop();
  session_.learnSpan(mark_, draft_->span, [&](const SpanRange &range) { return learn(range, results); });
}

bool BackwardLearner::learn(const SpanRange &range, c10::ArrayRef<at::Tensor> results) {
  if (!range.run) // it was recorded: there are no feeds to look at
    return false;
  std::vector<bool> required; // a gradient that was absent has to be absent again
  for (const Source &source : host_->sources)
    required.push_back(source.kind == Source::Kind::LeafGrad);
  if (!host_->own.learn(factories_, range, scalars_) || !host_->feeds.learn(range, scalars_) ||
      !draft_->complete(range, required, host_->own.slots()))
    return false;
  for (size_t i = 0; i < variables_.size(); ++i)
    if (!effectOn(i, range))
      return false;
  if (!accumulates_ && !host_->results.learn(range, gradients_, results))
    return false;
  std::vector<Source> sources;
  for (uint32_t index : draft_->kept())
    sources.push_back(host_->sources[index]);
  host_->sources = std::move(sources);
  draft_->span->host = host_;
  return compareWithEarlier(range);
}

/// The newest one of the same shape has gathered what the ones before it showed.
bool BackwardLearner::compareWithEarlier(const SpanRange &range) {
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

bool BackwardLearner::effectOn(size_t index, const SpanRange &range) {
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
  if (!buffer || buffer->epoch != range.run->binding.epoch ||
      !(madeIn(range, buffer->slot) || isLent(host_->own.memory, buffer->slot)))
    return false;
  effect = {LeafEffect::Kind::New, buffer->slot, version, tracer::Recorder::metaOf(viewOf(impl))};
  return true;
}

} // namespace terra::frontend
