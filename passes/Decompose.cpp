#include "passes/Decompose.h"

#include "passes/ExprBuilder.h"
#include "passes/Passes.h"

#include "llvm/ADT/StringMap.h"

using namespace mlir;

namespace terra::passes {

#define GEN_PASS_DEF_DECOMPOSE
#include "passes/Passes.h.inc"

namespace {

struct DecomposePass : impl::DecomposeBase<DecomposePass> {
  void runOnOperation() override {
    for (auto group : getOperation().getBody().getOps<ir::GroupOp>())
      decompose(group.getBody().front());
  }

  void decompose(Block &body) {
    // Expansions may use composites themselves: repeat until only primitives are left.
    for (bool changed = true; changed;) {
      changed = false;
      for (Operation &op : llvm::make_early_inc_range(body))
        changed |= expandElementwise(&op) || decomposeStructured(&op);
    }
  }

  bool expandElementwise(Operation *op) {
    auto elementwise = dyn_cast<ir::Elementwise>(op);
    if (!elementwise || elementwise.getExpansion().empty())
      return false;
    OpBuilder b(op);
    Type element = tensorType(op->getOperands().back()).getElementType();
    Value value = buildExpr(b, op->getLoc(), expansionOf(elementwise), element,
                            [&](const ir::Expr &e) { return op->getOperand(e.index); });
    if (!value) {
      op->emitOpError("has an expansion that does not build");
      signalPassFailure();
      return false;
    }
    if (value.getType() != op->getResult(0).getType()) // operands that are all smaller than the result
      value = ir::CastOp::create(b, op->getLoc(), op->getResult(0).getType(), value);
    op->getResult(0).replaceAllUsesWith(value);
    op->erase();
    return true;
  }

  const ir::Expr &expansionOf(ir::Elementwise op) {
    auto [it, inserted] = expansions_.try_emplace(op->getName().getStringRef());
    if (inserted && !ir::parseExpr(op.getExpansion(), it->second))
      llvm::report_fatal_error("malformed expansion of " + op->getName().getStringRef());
    return it->second;
  }

  llvm::StringMap<ir::Expr> expansions_;
};

} // namespace
} // namespace terra::passes
