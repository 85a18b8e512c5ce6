// Parts of a group that belong together.
#pragma once

#include "passes/Domain.h"

#include "llvm/ADT/SetVector.h"

namespace terra::passes {

/// An op with everything it depends on.
struct Slice {
  static Slice of(mlir::Operation *op);

  llvm::SetVector<mlir::Operation *> ops; ///< in an order in which they can be computed
  llvm::SmallVector<Reduced, 1> reduced; ///< distinct
  int64_t numel = 1; ///< of the largest operand
};

} // namespace terra::passes
