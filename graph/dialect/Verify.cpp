// Verifiers and folders of the terra ops.
#include "graph/dialect/Terra.h"

#include "mlir/IR/Builders.h"

using namespace mlir;

namespace terra::ir {

namespace {

/// `from` broadcasts to `to` by PyTorch's rules: aligned at the right, 1 or equal.
bool broadcastsTo(ArrayRef<int64_t> from, ArrayRef<int64_t> to) {
  if (from.size() > to.size())
    return false;
  to = to.take_back(from.size());
  for (auto [a, b] : llvm::zip(from, to))
    if (a != b && a != 1)
      return false;
  return true;
}

LogicalResult verifyView(Operation *op, RankedTensorType type, ArrayRef<int64_t> strides, int64_t offset,
                         bool written) {
  if (int64_t(strides.size()) != type.getRank())
    return op->emitOpError("has ") << strides.size() << " strides for a tensor of rank " << type.getRank();
  if (offset < 0)
    return op->emitOpError("has a negative offset");
  for (auto [size, stride] : llvm::zip(type.getShape(), strides)) {
    if (stride < 0)
      return op->emitOpError("has a negative stride");
    if (written && stride == 0 && size > 1)
      return op->emitOpError("writes elements that share memory");
  }
  return success();
}

LogicalResult verifyScalar(Operation *op, Type type) {
  if (cast<RankedTensorType>(type).getRank() != 0)
    return op->emitOpError("result must have rank 0");
  return success();
}

} // namespace

LogicalResult verifyElementwise(Operation *op, bool predicate) {
  auto result = cast<RankedTensorType>(op->getResult(0).getType());
  Type common;
  bool first = true;
  for (Type operand : op->getOperandTypes()) {
    auto type = cast<RankedTensorType>(operand);
    if (!broadcastsTo(type.getShape(), result.getShape()))
      return op->emitOpError("operand ") << type << " does not broadcast to the result " << result;
    bool condition = first && isa<WhereOp>(op);
    first = false;
    if (condition) {
      if (!type.getElementType().isInteger(1))
        return op->emitOpError("condition must have element type i1");
      continue;
    }
    if (common && common != type.getElementType())
      return op->emitOpError("operands must have one element type, found ")
             << common << " and " << type.getElementType();
    common = type.getElementType();
  }
  if (predicate && !result.getElementType().isInteger(1))
    return op->emitOpError("is a predicate: its result must have element type i1");
  if (!predicate && common != result.getElementType())
    return op->emitOpError("result must have the operands' element type ") << common;
  return success();
}

LogicalResult verifyReduction(Operation *op, Value input, ArrayRef<int64_t> dims) {
  auto type = cast<RankedTensorType>(input.getType());
  SmallVector<int64_t> shape(type.getShape());
  int64_t previous = -1;
  for (int64_t dim : dims) {
    if (dim <= previous || dim >= type.getRank())
      return op->emitOpError("dims must be ascending and below the rank ") << type.getRank();
    previous = dim;
    shape[dim] = 1;
  }
  if (op->getResult(0).getType() != RankedTensorType::get(shape, type.getElementType()))
    return op->emitOpError("result must be ") << RankedTensorType::get(shape, type.getElementType());
  return success();
}

LogicalResult verifyStructured(Operation *op) {
  auto first = cast<RankedTensorType>(op->getOperand(0).getType());
  auto check = [&](Type type) { return cast<RankedTensorType>(type).getElementType() == first.getElementType(); };
  if (!llvm::all_of(op->getOperandTypes(), check) || !llvm::all_of(op->getResultTypes(), check))
    return op->emitOpError("operands and results must have one element type");
  if (!isa<FloatType>(first.getElementType()))
    return op->emitOpError("needs a floating-point element type");
  for (const char *name : {"dim", "axes"})
    if (auto attr = op->getAttrOfType<IntegerAttr>(name))
      if (attr.getInt() < 0 || attr.getInt() > first.getRank() - (name[0] == 'd' ? 1 : 0))
        return op->emitOpError() << name << " is out of range for rank " << first.getRank();
  if (auto dims = op->getAttrOfType<DenseI64ArrayAttr>("dims"))
    for (int64_t dim : dims.asArrayRef())
      if (dim < 0 || dim >= first.getRank())
        return op->emitOpError("dims are out of range for rank ") << first.getRank();
  return success();
}

LogicalResult GroupOp::verify() {
  if (getEvents().empty())
    return emitOpError("has no events");
  if (!llvm::is_sorted(getEvents()))
    return emitOpError("events must be ascending");
  return success();
}

LogicalResult ReadOp::verify() {
  return verifyView(*this, cast<RankedTensorType>(getType()), getStrides(), getOffset(), false);
}

LogicalResult WriteOp::verify() {
  return verifyView(*this, cast<RankedTensorType>(getValue().getType()), getStrides(), getOffset(), true);
}

LogicalResult ConstantOp::verify() {
  if (!isa<FloatAttr, IntegerAttr>(getValue()))
    return emitOpError("value must be a number");
  return verifyScalar(*this, getType());
}

LogicalResult FeedOp::verify() {
  Type type = cast<RankedTensorType>(getType()).getElementType();
  if (!type.isF64() && !type.isInteger(64))
    return emitOpError("result must be f64 or i64");
  return verifyScalar(*this, getType());
}

LogicalResult IotaOp::verify() {
  auto type = cast<RankedTensorType>(getType());
  if (!type.getElementType().isInteger(64) || int64_t(getDim()) >= type.getRank())
    return emitOpError("must count along a dimension of an i64 tensor");
  return success();
}

LogicalResult ReshapeOp::verify() {
  auto from = cast<RankedTensorType>(getInput().getType()), to = cast<RankedTensorType>(getType());
  if (from.getElementType() != to.getElementType() || from.getNumElements() != to.getNumElements())
    return emitOpError("must keep the element type and the number of elements");
  return success();
}

LogicalResult CastOp::verify() {
  if (!broadcastsTo(cast<RankedTensorType>(getInput().getType()).getShape(),
                    cast<RankedTensorType>(getType()).getShape()))
    return emitOpError("operand does not broadcast to the result");
  return success();
}

OpFoldResult ReshapeOp::fold(FoldAdaptor) {
  // reshape(x) => x where nothing changes
  if (getInput().getType() == getType())
    return getInput();
  // reshape(reshape(x)) => reshape(x)
  if (auto inner = getInput().getDefiningOp<ReshapeOp>()) {
    getInputMutable().assign(inner.getInput());
    return getResult();
  }
  return {};
}

OpFoldResult CastOp::fold(FoldAdaptor) {
  // cast(x) => x where nothing changes. A cast to a narrower type and back is kept: it rounds, as eager does after every op.
  return getInput().getType() == getType() ? OpFoldResult(getInput()) : OpFoldResult();
}

} // namespace terra::ir
