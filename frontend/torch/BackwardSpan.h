// What is kept of a backward that was learned.
#pragma once

#include "frontend/torch/BackwardFeeds.h"
#include "frontend/torch/BackwardWalk.h"
#include "frontend/torch/GradientResults.h"
#include "frontend/torch/SpanParts.h"

#include <vector>

namespace terra::frontend {

/// Where an operand of the backward is found.
struct BackwardSource {
  enum class Kind : uint8_t { Root, Gradient, Leaf, LeafGrad, Saved } kind = Kind::Root;
  uint32_t index = 0, sub = 0; ///< root, leaf, or call and which of its saved storages
};

/// What the backward does to one leaf's `.grad`.
struct LeafEffect {
  enum class Kind : uint8_t { None, InPlace, New } kind = Kind::None;
  uint32_t slot = graph::kNever, version = 0; ///< New: its counter; InPlace: how far it moves
  TensorMeta meta;
};

/// Span::host of a backward.
struct BackwardSpan {
  std::vector<uint64_t> signature;
  std::vector<uint32_t> identities; ///< BackwardWalk::identities
  std::vector<BackwardSource> sources;
  std::vector<bool> hadGrad; ///< by leaf, where gradients are accumulated
  std::vector<LeafEffect> effects; ///< by leaf, where gradients are accumulated
  GradientResults results; ///< where they are returned
  std::vector<bool> needed; ///< BackwardWalk::needed
  BackwardFeeds feeds;
  BackwardOwn own;
  bool trial = false; ///< where its scalars come from is not certain yet
};

/// The graph is kept or released: two operators, since that is known before anything is compared.
const graph::Op &backwardOp(bool retainGraph);

OperandList operandsOf(const BackwardRequest &request, const BackwardWalk &walk,
                       const std::vector<BackwardSource> &sources);

} // namespace terra::frontend
