// The meaning of the structured ops.
#pragma once

#include "mlir/IR/Operation.h"

namespace terra::passes {

/// Replaces a structured op by elementwise ops and sum, max, min. False when `op` is none.
bool decomposeStructured(mlir::Operation *op);

} // namespace terra::passes
