// What learning and recognising a piece of a backward have in common.
#pragma once

#include "frontend/torch/BackwardPiece.h"

namespace terra::frontend {

const graph::Op &pieceOp();

OperandList pieceOperands(const BackwardWalk &walk, const std::vector<at::Tensor> &gradients,
                          const std::vector<BackwardPiece::Source> &sources);

/// Whether a gradient may be written, or taken over: what the engine asks before it does so. `references`: how many are its own.
uint8_t sharingOf(const at::Tensor &gradient, size_t references);

/// Its last reference may not be dropped where the interpreter's lock cannot be waited for.
bool isKnownToPython(const at::Tensor &tensor);

} // namespace terra::frontend
