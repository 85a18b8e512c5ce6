#include "passes/ExprBuilder.h"
#include "passes/Passes.h"

#include "mlir/IR/PatternMatch.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

using namespace mlir;

namespace terra::passes {

#define GEN_PASS_DEF_SIMPLIFYGROUPS
#include "passes/Passes.h.inc"

namespace {

std::optional<double> constantOf(Value value) {
  auto constant = value.getDefiningOp<ir::ConstantOp>();
  if (!constant)
    return std::nullopt;
  if (auto f = dyn_cast<FloatAttr>(constant.getValue()))
    return f.getValueAsDouble();
  return double(cast<IntegerAttr>(constant.getValue()).getInt());
}

/// Replaces `op` by a value built with its rewriter; false leaves it.
bool replaceWith(PatternRewriter &rewriter, Operation *op, Value value) {
  if (!value || value.getType() != op->getResult(0).getType())
    return false;
  rewriter.replaceOp(op, value);
  return true;
}

struct SimplifyPow : OpRewritePattern<ir::PowOp> {
  using OpRewritePattern::OpRewritePattern;

  // The exponents for which eager, too, does not call pow.
  LogicalResult matchAndRewrite(ir::PowOp op, PatternRewriter &rewriter) const override {
    std::optional<double> exponent = constantOf(op.getB());
    if (!exponent)
      return failure();
    auto make = [&](StringRef name, ValueRange operands) {
      return makeElementwise(rewriter, op.getLoc(), name, operands);
    };
    Value x = op.getA(), result;
    if (*exponent == 1) // pow(x, 1) => x
      result = x;
    else if (*exponent == 2) // pow(x, 2) => x * x
      result = make("terra.mul", {x, x});
    else if (*exponent == 3) // pow(x, 3) => x * x * x
      result = make("terra.mul", {make("terra.mul", {x, x}), x});
    else if (*exponent == 0.5) // pow(x, 0.5) => sqrt(x)
      result = make("terra.sqrt", {x});
    else if (*exponent == -1) // pow(x, -1) => 1 / x
      result = make("terra.div", {makeConstant(rewriter, op.getLoc(), 1, tensorType(x).getElementType()), x});
    else if (*exponent == -2) // pow(x, -2) => 1 / (x * x)
      result = make("terra.div", {makeConstant(rewriter, op.getLoc(), 1, tensorType(x).getElementType()),
                                  make("terra.mul", {x, x})});
    return success(replaceWith(rewriter, op, result));
  }
};

struct DropEmptyReduction : OpInterfaceRewritePattern<ir::Reduction> {
  using OpInterfaceRewritePattern::OpInterfaceRewritePattern;

  // sum(x) => x where every reduced dimension has size 1
  LogicalResult matchAndRewrite(ir::Reduction op, PatternRewriter &rewriter) const override {
    return success(replaceWith(rewriter, op, op->getOperand(0)));
  }
};

struct SimplifyGroupsPass : impl::SimplifyGroupsBase<SimplifyGroupsPass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<SimplifyPow, DropEmptyReduction>(&getContext());
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};

} // namespace
} // namespace terra::passes
