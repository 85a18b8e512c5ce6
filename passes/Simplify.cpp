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

bool widensF16(Value x) {
  auto cast = x.getDefiningOp<ir::CastOp>();
  return cast && tensorType(cast->getOperand(0)).getElementType().isF16();
}

struct SimplifyPow : OpRewritePattern<ir::PowOp> {
  using OpRewritePattern::OpRewritePattern;

  // The exponents for which eager, too, does not call pow. It does for the square roots of f16, and they differ for
  // minus infinity and minus zero.
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
    else if (*exponent == 0.5 && !widensF16(x)) // pow(x, 0.5) => sqrt(x)
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

struct SumOfOneHot : OpRewritePattern<ir::SumOp> {
  using OpRewritePattern::OpRewritePattern;

  // sum(where(i == iota, x, 0)) => where(0 <= i < n, x, 0) where neither i nor x varies along the sum
  // sum(where(i == iota, x - y, 0)) => where(0 <= i < n, sum(where(i == iota, x, 0)) - y, 0) where neither i nor y does
  LogicalResult matchAndRewrite(ir::SumOp op, PatternRewriter &rewriter) const override {
    auto where = op.getInput().getDefiningOp<ir::WhereOp>();
    auto equal = where ? where->getOperand(0).getDefiningOp<ir::EqOp>() : ir::EqOp();
    if (!equal || constantOf(where->getOperand(2)) != 0.0 || op.getDims().size() != 1)
      return failure();
    Value index = equal.getA(), x = where->getOperand(1);
    auto iota = equal.getB().getDefiningOp<ir::IotaOp>();
    int64_t rank = tensorType(op.getInput()).getRank(), dim = op.getDims().front();
    auto varies = [&](Value v) {
      int64_t d = dim - rank + tensorType(v).getRank();
      return d >= 0 && tensorType(v).getDimSize(d) != 1;
    };
    if (!iota || tensorType(iota).getRank() != rank || int64_t(iota.getDim()) != dim || varies(index))
      return failure();
    if (varies(x)) {
      auto difference = x.getDefiningOp<ir::SubOp>();
      if (!difference || varies(difference.getB()) || tensorType(difference.getA()) != tensorType(op.getInput()))
        return failure();
      Value picked = makeElementwise(rewriter, op.getLoc(), "terra.where",
                                     {where->getOperand(0), difference.getA(), where->getOperand(2)});
      picked = ir::SumOp::create(rewriter, op.getLoc(), op.getType(), picked, op.getDimsAttr());
      x = makeElementwise(rewriter, op.getLoc(), "terra.sub", {picked, difference.getB()});
    }
    auto make = [&](StringRef name, ValueRange operands) {
      return makeElementwise(rewriter, op.getLoc(), name, operands);
    };
    auto number = [&](double n, Value like) {
      return makeConstant(rewriter, op.getLoc(), n, tensorType(like).getElementType());
    };
    Value size = number(double(tensorType(iota).getDimSize(dim)), index);
    Value inside =
        make("terra.logical_and", {make("terra.ge", {index, number(0, index)}), make("terra.lt", {index, size})});
    return success(replaceWith(rewriter, op, make("terra.where", {inside, x, number(0, x)})));
  }
};

struct SimplifyGroupsPass : impl::SimplifyGroupsBase<SimplifyGroupsPass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<SimplifyPow, DropEmptyReduction, SumOfOneHot>(&getContext());
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};

} // namespace
} // namespace terra::passes
