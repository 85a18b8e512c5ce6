#include "frontend/torch/PieceOperands.h"
#include "tracer/Recorder.h"

#include <algorithm>
#include <typeinfo>

namespace terra::frontend {

using runtime::Buffer;
using runtime::SpanRange;
using torch::autograd::AccumulateGrad;

namespace {

AccumulateGrad *leafAt(const BackwardWalk &walk, uint32_t node) {
  torch::autograd::Node *at = walk.nodes()[node];
  return typeid(*at) == typeid(AccumulateGrad) ? static_cast<AccumulateGrad *>(at) : nullptr;
}

} // namespace

BackwardPieceLearner::BackwardPieceLearner(BackwardProgress &progress, const std::vector<at::Tensor> &gradients)
    : progress_(progress), mark_(progress.session.markSpan()), scalars_(scalarsOf(progress.walk.calls())) {
  piece_->plan = progress.plan;
  piece_->from = progress.station;
  describeSources(gradients);
  OperandList operands = pieceOperands(progress.walk, gradients, piece_->sources);
  draft_ = std::make_unique<SpanDraft>(operands);
  for (const at::Tensor &gradient : gradients) {
    piece_->sharing.push_back(sharingOf(gradient, 2)); // the engine's and that of `gradients`
    given_.emplace_back(gradient.getIntrusivePtr());
    bases_.emplace_back((gradient.is_view() ? at::Tensor(gradient._base()) : gradient).getIntrusivePtr());
    givenVersions_.push_back(versionOf(*gradient.unsafeGetTensorImpl()));
  }
}

/// Everything that the piece may be fed with.
void BackwardPieceLearner::describeSources(const std::vector<at::Tensor> &gradients) {
  const BackwardWalk &walk = progress_.walk;
  for (uint32_t i = 0; i < gradients.size(); ++i)
    piece_->sources.push_back({Source::Kind::Given, i, 0});
  for (uint32_t i = 0; i < walk.nodes().size(); ++i) {
    if (AccumulateGrad *leaf = leafAt(walk, i); leaf && !walk.called(i)) {
      piece_->sources.push_back({Source::Kind::Leaf, i, 0});
      piece_->sources.push_back({Source::Kind::LeafGrad, i, 0});
      const at::Tensor &grad = leaf->variable.grad();
      if (grad.defined())
        leavesBefore_[i] = {grad.unsafeGetTensorImpl(), versionOf(*grad.unsafeGetTensorImpl())};
      else
        leavesBefore_[i] = {};
    }
    if (const auto *call = dynamic_cast<const CallNode *>(walk.nodes()[i]))
      for (uint32_t k = 0; k < call->saved.size(); ++k)
        piece_->sources.push_back({Source::Kind::Saved, i, k});
  }
}

void BackwardPieceLearner::finish(const BackwardEngine &engine, size_t executedBefore) {
  factories_.stop();
  std::vector<at::Tensor> results = engine.gradients();
  piece_->to = progress_.plan->at(engine.cut(), progress_.walk);
  piece_->executed.assign(engine.executed().begin() + ptrdiff_t(executedBefore), engine.executed().end());
  for (BackwardPlace place : piece_->executed)
    if (std::find(piece_->nodes.begin(), piece_->nodes.end(), place.node) == piece_->nodes.end()) {
      piece_->nodes.push_back(place.node);
      if (engine.finished(place.node))
        piece_->finished.push_back(place.node);
    }
  if (progress_.session.nothingSince(mark_)) {
    if (learnSilent(results)) {
      piece_->plan = nullptr; // which owns it
      piece_->from->silent.push_back(piece_);
    }
    return;
  }
  progress_.session.learnSpan(mark_, draft_->span, [&](const SpanRange &range) { return learn(range, results); });
}

/// Those that are still there. The base of a view, which its own views keep, stands for it when it is gone, unless it is in the
/// program's reach itself.
std::vector<at::Tensor> BackwardPieceLearner::given(const std::vector<at::Tensor> &results) const {
  std::vector<at::Tensor> all;
  for (const auto &gradient : given_) {
    auto alive = gradient.lock();
    all.push_back(alive ? at::Tensor(std::move(alive)) : at::Tensor());
  }
  auto among = [](const std::vector<at::Tensor> &tensors, const at::Tensor &tensor) {
    return std::any_of(tensors.begin(), tensors.end(), [&](const at::Tensor &one) { return one.is_same(tensor); });
  };
  for (size_t i = 0; i < all.size(); ++i)
    if (auto base = all[i].defined() ? nullptr : bases_[i].lock())
      if (at::Tensor tensor(std::move(base)); !among(all, tensor) && !among(results, tensor))
        all[i] = std::move(tensor);
  return all;
}

/// Gradients are passed on as they are, and nothing is accumulated.
bool BackwardPieceLearner::learnSilent(const std::vector<at::Tensor> &results) {
  std::vector<at::Tensor> given = this->given(results);
  auto isLeaf = [&](uint32_t node) { return leafAt(progress_.walk, node) != nullptr; };
  if (piece_->from == piece_->to || std::any_of(piece_->nodes.begin(), piece_->nodes.end(), isLeaf) ||
      !noteVersions(given, 0))
    return false;
  for (const at::Tensor &result : results) {
    auto it = std::find_if(given.begin(), given.end(), [&](const at::Tensor &one) { return one.is_same(result); });
    if (it == given.end())
      return false;
    piece_->moved.push_back(uint32_t(it - given.begin()));
  }
  return true;
}

/// False when a gradient was written without an event.
bool BackwardPieceLearner::noteVersions(const std::vector<at::Tensor> &given, uint64_t epoch) {
  for (uint32_t i = 0; i < given.size(); ++i) {
    if (!given[i].defined())
      continue;
    c10::TensorImpl &impl = *given[i].unsafeGetTensorImpl();
    uint32_t version = versionOf(impl);
    if (version == givenVersions_[i])
      continue;
    const Buffer *buffer = bufferOf(*impl.unsafe_storage().unsafeGetStorageImpl());
    if (!buffer || buffer->epoch != epoch)
      return false;
    piece_->versions.emplace_back(i, version - givenVersions_[i]);
  }
  return true;
}

bool BackwardPieceLearner::learn(const SpanRange &range, const std::vector<at::Tensor> &results) {
  if (!range.run) // recorded: the program left the graph in this piece
    return false;
  auto executed = [&](uint32_t node) {
    return std::find(piece_->nodes.begin(), piece_->nodes.end(), node) != piece_->nodes.end();
  };
  std::vector<bool> required; // a gradient that was absent has to be absent again
  for (const Source &source : piece_->sources)
    required.push_back(source.kind == Source::Kind::LeafGrad && executed(source.index));
  if (!piece_->own.learn(factories_, range, scalars_) || !piece_->feeds.learn(range, scalars_) ||
      !draft_->completePiece(range, required, piece_->own.slots()))
    return false;
  std::vector<at::Tensor> given = this->given(results);
  for (uint32_t node : piece_->nodes)
    if (leafAt(progress_.walk, node) && !effectOn(node, range, given))
      return false;
  if (!noteVersions(given, range.run->binding.epoch) || !piece_->results.learn(range, given, results))
    return false;
  std::vector<Source> sources;
  for (uint32_t index : draft_->kept())
    sources.push_back(piece_->sources[index]);
  piece_->sources = std::move(sources);
  draft_->span->host = piece_;
  return compareWithEarlier(range);
}

bool BackwardPieceLearner::effectOn(uint32_t node, const SpanRange &range, const std::vector<at::Tensor> &given) {
  BackwardPiece::Leaf &leaf = piece_->leaves.emplace_back();
  const LeafBefore &before = leavesBefore_[node];
  leaf.node = node;
  leaf.hadGrad = before.grad != nullptr;
  const at::Tensor &grad = leafAt(progress_.walk, node)->variable.grad();
  if (!grad.defined())
    return true;
  c10::TensorImpl &impl = *grad.unsafeGetTensorImpl();
  uint32_t version = versionOf(impl);
  const Buffer *buffer = bufferOf(*impl.unsafe_storage().unsafeGetStorageImpl());
  bool touched = buffer && buffer->epoch == range.run->binding.epoch;
  if (&impl == before.grad) {
    leaf.effect.kind = version == before.version ? LeafEffect::Kind::None : LeafEffect::Kind::InPlace;
    leaf.effect.version = version - before.version;
    // Otherwise it was accumulated at once, without an event (a real 0-dim gradient).
    return leaf.effect.kind == LeafEffect::Kind::None || touched;
  }
  if (!isPlain(impl) || grad.requires_grad() || !touched)
    return false;
  leaf.effect = {LeafEffect::Kind::New, buffer->slot, version, tracer::Recorder::metaOf(viewOf(impl))};
  if (madeIn(range, buffer->slot) || isLent(piece_->own.memory, buffer->slot))
    return true;
  for (uint32_t i = 0; i < draft_->kept().size(); ++i)
    if (const Source &source = piece_->sources[draft_->kept()[i]];
        source.kind == Source::Kind::Given && draft_->span->call.inputs[i].slot == buffer->slot)
      leaf.stolen = source.index;
  // It may have been added to before: nothing but the new gradient tells.
  if (leaf.stolen && version > givenVersions_[*leaf.stolen])
    piece_->versions.emplace_back(*leaf.stolen, version - givenVersions_[*leaf.stolen]);
  return leaf.stolen.has_value();
}

/// The newest one of the same shape has gathered what the ones before it showed.
bool BackwardPieceLearner::compareWithEarlier(const SpanRange &range) {
  for (const auto &span : range.segment->spansAt(range.first)) {
    if (span->call.event->op != draft_->span->call.event->op || span->count != range.count)
      continue;
    const auto &other = *static_cast<const BackwardPiece *>(span->host.get());
    if (other.plan != piece_->plan || other.from != piece_->from || other.to != piece_->to)
      continue;
    if (!piece_->feeds.narrow(other.feeds))
      return false;
    break;
  }
  piece_->trial = !piece_->feeds.believed();
  return true;
}

} // namespace terra::frontend
