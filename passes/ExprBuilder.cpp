#include "passes/ExprBuilder.h"

#include "llvm/ADT/StringSwitch.h"

#include <cmath>

using namespace mlir;

namespace terra::passes {

RankedTensorType tensorType(Value value) { return cast<RankedTensorType>(value.getType()); }

Value makeConstant(OpBuilder &b, Location loc, double number, Type element) {
  TypedAttr value;
  if (isa<FloatType>(element))
    value = b.getF64FloatAttr(number);
  else
    value = b.getI64IntegerAttr(int64_t(number));
  return ir::ConstantOp::create(b, loc, RankedTensorType::get({}, element), value);
}

Value makeCast(OpBuilder &b, Location loc, Value value, Type element) {
  RankedTensorType type = tensorType(value);
  if (type.getElementType() == element)
    return value;
  return ir::CastOp::create(b, loc, type.clone(element), value);
}

namespace {

/// The value of a floating-point constant; nothing for integers, whose arithmetic differs.
std::optional<double> floatConstant(Value value) {
  auto constant = value.getDefiningOp<ir::ConstantOp>();
  if (!constant || !isa<FloatType>(tensorType(value).getElementType()))
    return std::nullopt;
  if (auto f = dyn_cast<FloatAttr>(constant.getValue()))
    return tensorType(value).getElementType().isF64() ? f.getValueAsDouble() : double(float(f.getValueAsDouble()));
  return double(cast<IntegerAttr>(constant.getValue()).getInt());
}

bool isOne(Value value) {
  auto constant = value.getDefiningOp<ir::ConstantOp>();
  if (!constant)
    return false;
  if (auto f = dyn_cast<FloatAttr>(constant.getValue()))
    return f.getValueAsDouble() == 1;
  return cast<IntegerAttr>(constant.getValue()).getInt() == 1;
}

std::optional<double> foldNumbers(StringRef name, ArrayRef<double> x, bool isDouble) {
  auto round = [&](double v) { return isDouble ? v : double(float(v)); };
  if (name == "terra.abs")
    return std::fabs(x[0]);
  if (name == "terra.neg")
    return -x[0];
  if (name == "terra.add")
    return round(x[0] + x[1]);
  if (name == "terra.sub")
    return round(x[0] - x[1]);
  if (name == "terra.mul")
    return round(x[0] * x[1]);
  if (name == "terra.div")
    return round(x[0] / x[1]);
  return std::nullopt;
}

Value fold(OpBuilder &b, Location loc, StringRef name, ValueRange operands) {
  // x * 1 => x
  if (name == "terra.mul")
    for (auto [x, other] : {std::pair(operands[0], operands[1]), std::pair(operands[1], operands[0])})
      if (isOne(other) && tensorType(x).getRank() >= tensorType(other).getRank())
        return x;
  // where(constant < constant, x, y) => x or y
  if (name == "terra.where")
    if (auto lt = operands[0].getDefiningOp<ir::LtOp>()) {
      auto l = floatConstant(lt.getA()), r = floatConstant(lt.getB());
      if (l && r)
        return *l < *r ? operands[1] : operands[2];
    }
  SmallVector<double> numbers;
  for (Value operand : operands) {
    auto number = floatConstant(operand);
    if (!number)
      return {};
    numbers.push_back(*number);
  }
  Type element = tensorType(operands[0]).getElementType();
  if (auto folded = foldNumbers(name, numbers, element.isF64()))
    return makeConstant(b, loc, *folded, element);
  return {};
}

SmallVector<int64_t> broadcastShape(ValueRange operands) {
  SmallVector<int64_t> shape;
  for (Value operand : operands) {
    ArrayRef<int64_t> sizes = tensorType(operand).getShape();
    if (sizes.size() > shape.size())
      shape.insert(shape.begin(), sizes.size() - shape.size(), 1);
    for (size_t i = 0; i < sizes.size(); ++i) {
      int64_t &size = shape[shape.size() - sizes.size() + i];
      size = size == 1 ? sizes[i] : size;
    }
  }
  return shape;
}

} // namespace

namespace {
/// sum(x) and mean(x) over all elements.
Value reduceAll(OpBuilder &b, Location loc, StringRef name, Value x) {
  if (!x)
    return {};
  RankedTensorType type = tensorType(x), scalar = RankedTensorType::get({}, type.getElementType());
  auto dims = llvm::to_vector(llvm::seq<int64_t>(0, type.getRank()));
  auto result = type.clone(SmallVector<int64_t>(type.getRank(), 1));
  Value reduced = name == ir::SumOp::getOperationName() ? Value(ir::SumOp::create(b, loc, result, x, dims))
                                                        : Value(ir::MeanOp::create(b, loc, result, x, dims));
  return result == scalar ? reduced : Value(ir::ReshapeOp::create(b, loc, scalar, reduced));
}
} // namespace

Value makeElementwise(OpBuilder &b, Location loc, StringRef name, ValueRange operands) {
  std::optional<RegisteredOperationName> info = RegisteredOperationName::lookup(name, b.getContext());
  auto *elementwise = info ? info->getInterface<ir::Elementwise>() : nullptr;
  if (!elementwise || operands.empty() || llvm::is_contained(operands, Value()))
    return {};
  if (Value folded = fold(b, loc, name, operands))
    return folded;
  Type element = elementwise->isPredicate() ? b.getI1Type() : tensorType(operands.back()).getElementType();
  OperationState state(loc, *info);
  state.addOperands(operands);
  state.addTypes(RankedTensorType::get(broadcastShape(operands), element));
  return b.create(state)->getResult(0);
}

Value buildExpr(OpBuilder &b, Location loc, const ir::Expr &expr, Type element,
                const std::function<Value(const ir::Expr &)> &argument) {
  if (expr.kind == ir::Expr::Kind::Number)
    return makeConstant(b, loc, expr.number, element);
  if (expr.kind != ir::Expr::Kind::Call)
    return argument(expr);
  SmallVector<Value> operands;
  for (const ir::Expr &operand : expr.operands) {
    operands.push_back(buildExpr(b, loc, operand, element, argument));
    if (!operands.back())
      return {};
  }
  if (expr.op == ir::SumOp::getOperationName() || expr.op == ir::MeanOp::getOperationName())
    return reduceAll(b, loc, expr.op, operands.front());
  return makeElementwise(b, loc, expr.op, operands);
}

} // namespace terra::passes
