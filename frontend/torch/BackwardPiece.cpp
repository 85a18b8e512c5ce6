#include "frontend/torch/BackwardPiece.h"

#include "frontend/torch/CallBuilder.h"
#include "frontend/torch/Frontend.h"
#include "frontend/torch/PieceOperands.h"
#include "frontend/torch/Promise.h"

#include <algorithm>

namespace terra::frontend {

using runtime::Session;
using torch::autograd::AccumulateGrad;
using torch::autograd::Node;

namespace {

AccumulateGrad &leafAt(const BackwardWalk &walk, uint32_t node) {
  return static_cast<AccumulateGrad &>(*walk.nodes()[node]);
}

/// What the piece is about to find is what it found when it was learned.
bool fits(const BackwardProgress &progress, const BackwardPiece &piece) {
  const BackwardWalk &walk = progress.walk;
  for (uint32_t node : piece.nodes)
    if (!walk.isAsFound(node))
      return false;
  for (const BackwardPiece::Leaf &leaf : piece.leaves)
    if (leafAt(walk, leaf.node).variable.grad().defined() != leaf.hadGrad)
      return false;
  for (size_t i = 0; i < piece.sharing.size(); ++i)
    if (sharingOf(progress.gradients[i], 1) != piece.sharing[i])
      return false;
  return true;
}

void finish(BackwardProgress &progress, const std::shared_ptr<const BackwardPiece> &piece) {
  if (!progress.retainGraph)
    for (uint32_t node : piece->finished)
      progress.walk.nodes()[node]->release_variables();
  progress.passed.push_back(piece);
  progress.station = piece->to;
}

bool recogniseSilent(BackwardProgress &progress) {
  for (const auto &piece : progress.station->silent) {
    if (!fits(progress, *piece))
      continue;
    std::vector<at::Tensor> moved;
    for (uint32_t index : piece->moved)
      moved.push_back(progress.gradients[index]);
    progress.gradients = std::move(moved);
    finish(progress, piece);
    return true;
  }
  return false;
}

/// The gradients of a recognised piece.
class Effects {
public:
  Effects(BackwardProgress &progress, const BackwardPiece &piece, const runtime::Span &span)
      : progress_(progress), piece_(piece), promiser_(progress.session, span.call, call_, builder_) {
    promiser_.share();
    piece.own.lend(progress.session, promiser_);
  }

  void apply(std::vector<at::Tensor> &dropped) {
    VersionSteps versions;
    for (const BackwardPiece::Leaf &leaf : piece_.leaves)
      dropped.push_back(applyTo(leaf, versions));
    for (auto [index, steps] : piece_.versions)
      versions.add(progress_.gradients[index], steps);
    versions.apply();
    std::vector<at::Tensor> made = piece_.results.make(promiser_, progress_.gradients);
    for (at::Tensor &gradient : progress_.gradients)
      dropped.push_back(std::move(gradient));
    progress_.gradients = std::move(made);
  }

private:
  at::Tensor applyTo(const BackwardPiece::Leaf &leaf, VersionSteps &versions) {
    at::Tensor &grad = const_cast<at::Tensor &>(leafAt(progress_.walk, leaf.node).variable).mutable_grad();
    const LeafEffect &effect = leaf.effect;
    if (effect.kind == LeafEffect::Kind::InPlace)
      versions.add(grad, effect.version);
    if (effect.kind != LeafEffect::Kind::New)
      return {};
    at::Tensor made;
    if (leaf.stolen) {
      const c10::TensorImpl &from = *progress_.gradients[*leaf.stolen].unsafeGetTensorImpl();
      made = makeView(from, effect.meta, effect.meta.offset);
      made.unsafeGetTensorImpl()->set_version_counter(from.version_counter());
    } else {
      made = makeTensor(promiser_.storageOf(effect.slot), effect.meta, effect.meta.offset);
      if (effect.version)
        made.unsafeGetTensorImpl()->set_version_counter(c10::VariableVersion(effect.version));
    }
    return std::exchange(grad, std::move(made));
  }

  BackwardProgress &progress_;
  const BackwardPiece &piece_;
  HostCall call_;
  CallBuilder builder_;
  Promiser promiser_;
};

} // namespace

bool recognisePiece(BackwardProgress &progress) {
  Session &session = progress.session;
  std::vector<at::Tensor> dropped; // outlives the lock
  std::lock_guard lock(runtimeInstance().lock());
  if (!session.coExecuting())
    return false;
  if (recogniseSilent(progress))
    return true;
  thread_local std::vector<runtime::SpanCandidate> candidates;
  session.spansNext(&pieceOp(), candidates);
  for (const runtime::SpanCandidate &candidate : candidates) {
    auto piece = std::static_pointer_cast<const BackwardPiece>(candidate.span->host);
    if (piece->from != progress.station || piece->plan != progress.plan || piece->trial || !fits(progress, *piece))
      continue;
    std::vector<Scalar> scalars;
    if (!piece->feeds.empty() && !piece->feeds.values(scalarsOf(progress.walk.calls()), scalars))
      continue;
    OperandList operands = pieceOperands(progress.walk, progress.gradients, piece->sources);
    if (!operands.ok() || !session.enterSpan(candidate, operands.view()))
      continue;
    operands.markTouched(session.region());
    piece->feeds.apply(session.run().binding, scalars);
    Effects(progress, *piece, *candidate.span).apply(dropped);
    std::erase_if(dropped, [](const at::Tensor &tensor) { return !isKnownToPython(tensor); });
    finish(progress, piece);
    session.leaveSpan(*candidate.span);
    return true;
  }
  return false;
}

} // namespace terra::frontend
