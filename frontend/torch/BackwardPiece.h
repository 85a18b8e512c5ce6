// Part of a backward as one event: from one call into Python (a hook) to the next.
#pragma once

#include "frontend/torch/BackwardCut.h"
#include "frontend/torch/BackwardFeeds.h"
#include "frontend/torch/BackwardSpan.h"
#include "frontend/torch/GradientResults.h"

#include <deque>
#include <memory>
#include <optional>
#include <vector>

namespace terra::frontend {

class BackwardPlan;
struct BackwardPiece;

/// A cut that backwards over one kind of graph have come to, and what is known of the way on.
struct BackwardStation {
  BackwardCut cut;
  bool waitsForCall = false;
  BackwardStation *afterHooks = nullptr, *afterLeaf = nullptr, *afterRun = nullptr;
  std::vector<uint32_t> kept; ///< BackwardCut::afterLeaf
  /// Pieces without events that begin here. Those with events are spans.
  std::vector<std::shared_ptr<const BackwardPiece>> silent;
};

/// Span::host of a piece. Leaves and calls are told by their node of the walk.
struct BackwardPiece {
  struct Source {
    enum class Kind : uint8_t { Given, Leaf, LeafGrad, Saved } kind = Kind::Given;
    uint32_t index = 0, sub = 0; ///< gradient of `from`, or node and which of its saved storages
  };
  struct Leaf {
    uint32_t node = 0;
    bool hadGrad = false;
    LeafEffect effect;
    std::optional<uint32_t> stolen; ///< the new gradient is this one of `from`
  };

  std::shared_ptr<const BackwardPlan> plan; ///< owns the stations
  BackwardStation *from = nullptr, *to = nullptr;
  std::vector<BackwardPlace> executed;
  std::vector<uint32_t> nodes; ///< of the walk, that `executed` has something of
  std::vector<uint32_t> finished; ///< of the walk, of which nothing is left to be done afterwards
  std::vector<uint8_t> sharing; ///< by gradient of `from`: whether others held it (`sharingOf`)
  std::vector<std::pair<uint32_t, uint32_t>> versions; ///< gradient of `from`, how far its counter moves
  std::vector<Source> sources;
  std::vector<Leaf> leaves;
  GradientResults results; ///< the gradients of `to`, given those of `from`
  std::vector<uint32_t> moved; ///< without events: which gradient of `from` each of `to` is
  BackwardFeeds feeds;
  BackwardOwn own;
  bool trial = false; ///< where its scalars come from is not certain yet
};

/// All backwards over graphs with one signature.
class BackwardPlan {
public:
  BackwardPlan(const BackwardWalk &walk, bool retainGraph);

  /// From a few that were used last, or a new one.
  static std::shared_ptr<BackwardPlan> find(const BackwardWalk &walk, bool retainGraph);

  BackwardStation *start(const BackwardWalk &walk, size_t roots);
  /// The station with this cut.
  BackwardStation *at(BackwardCut cut, const BackwardWalk &walk);
  BackwardStation *afterHooks(BackwardStation *station, const BackwardWalk &walk);
  BackwardStation *afterLeaf(BackwardStation *station, const BackwardWalk &walk);
  BackwardStation *afterRun(BackwardStation *station, const std::vector<bool> &defined, const BackwardWalk &walk);

private:
  std::vector<uint64_t> signature_;
  /// Of what the signature has addresses of: while this lives, nothing else comes to be there.
  std::vector<std::weak_ptr<const void>> addresses_;
  bool retainGraph_;
  std::deque<BackwardStation> stations_;
};

/// What is to be done, and how far it has come.
struct BackwardProgress {
  runtime::Session &session;
  BackwardWalk &walk;
  std::shared_ptr<BackwardPlan> plan;
  bool retainGraph = false;
  BackwardStation *station = nullptr;
  std::vector<at::Tensor> gradients; ///< those that have arrived
  std::vector<std::shared_ptr<const BackwardPiece>> passed;
};

/// Goes on by one piece that was learned. False, and nothing has changed, when none fits.
bool recognisePiece(BackwardProgress &progress);

/// Watches an engine from one cut to the next.
class BackwardPieceLearner {
public:
  /// `gradients`: those that have arrived, as a copy of what the engine holds.
  BackwardPieceLearner(BackwardProgress &progress, const std::vector<at::Tensor> &gradients);
  void finish(const BackwardEngine &engine, size_t executedBefore);

private:
  using Source = BackwardPiece::Source;
  void describeSources(const std::vector<at::Tensor> &gradients);
  bool learn(const runtime::SpanRange &range, const std::vector<at::Tensor> &results);
  bool learnSilent(const std::vector<at::Tensor> &results);
  bool effectOn(uint32_t node, const runtime::SpanRange &range, const std::vector<at::Tensor> &given);
  bool compareWithEarlier(const runtime::SpanRange &range);
  bool noteVersions(const std::vector<at::Tensor> &given, uint64_t epoch);
  std::vector<at::Tensor> given(const std::vector<at::Tensor> &results) const;

  struct LeafBefore {
    c10::TensorImpl *grad = nullptr;
    uint32_t version = 0;
  };
  BackwardProgress &progress_;
  runtime::SpanMark mark_;
  CallScalars scalars_;
  FactoryWatch factories_;
  std::unique_ptr<SpanDraft> draft_;
  std::shared_ptr<BackwardPiece> piece_ = std::make_shared<BackwardPiece>();
  using Weak = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;
  std::vector<Weak> given_, bases_; ///< weak: the engine decides by use counts
  std::vector<uint32_t> givenVersions_;
  std::unordered_map<uint32_t, LeafBefore> leavesBefore_; ///< by node
};

} // namespace terra::frontend
