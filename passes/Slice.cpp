#include "passes/Slice.h"

#include "passes/ExprBuilder.h"

using namespace mlir;

namespace terra::passes {

static void add(Operation *op, Slice &slice) {
  if (!op || slice.ops.contains(op) || isa<ir::SlotOp, ir::ScratchOp>(op))
    return;
  for (Value operand : op->getOperands())
    add(operand.getDefiningOp(), slice);
  slice.ops.insert(op);
  for (const Reduced &r : reductionsOf(op))
    if (!r.empty() && !llvm::is_contained(slice.reduced, r))
      slice.reduced.push_back(r);
  for (Value value : op->getOperands())
    if (auto type = dyn_cast<RankedTensorType>(value.getType()))
      slice.numel = std::max(slice.numel, type.getNumElements());
}

Slice Slice::of(Operation *op) {
  Slice slice;
  add(op, slice);
  return slice;
}

} // namespace terra::passes
