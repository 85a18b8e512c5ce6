#include "passes/View.h"

namespace terra::passes {

namespace {
template <typename Op> View viewOf(Op op, mlir::Value value) {
  View view;
  view.slot = op.getSlot();
  view.offset = op.getOffset();
  if (auto feed = op.getFeed())
    view.feed = int64_t(*feed);
  auto type = mlir::cast<mlir::RankedTensorType>(value.getType());
  view.element = type.getElementType();
  view.sizes.assign(type.getShape().begin(), type.getShape().end());
  view.strides.assign(op.getStrides().begin(), op.getStrides().end());
  return view;
}
} // namespace

View View::of(ir::ReadOp op) { return viewOf(op, op.getResult()); }
View View::of(ir::WriteOp op) { return viewOf(op, op.getValue()); }

int64_t View::span() const {
  int64_t last = 0;
  for (auto [size, stride] : llvm::zip(sizes, strides))
    last += (size - 1) * stride;
  return last + 1;
}

int64_t View::numel() const {
  int64_t n = 1;
  for (int64_t size : sizes)
    n *= size;
  return n;
}

llvm::SmallVector<SizeStride, 4> canonical(const View &view, bool dropBroadcast) {
  llvm::SmallVector<SizeStride, 4> dims;
  for (auto [size, stride] : llvm::zip(view.sizes, view.strides)) {
    if (size == 1 || (dropBroadcast && stride == 0))
      continue;
    if (!dims.empty() && dims.back().second == size * stride)
      dims.back() = {dims.back().first * size, stride};
    else
      dims.emplace_back(size, stride);
  }
  return dims;
}

bool sameView(const View &a, const View &b) {
  return a.slot == b.slot && a.offset == b.offset && a.feed == b.feed && a.element == b.element &&
         canonical(a, false) == canonical(b, false);
}

bool disjoint(const View &a, const View &b) {
  if (a.slot != b.slot)
    return true;
  if (a.feed != b.feed || a.element != b.element)
    return false;
  if (a.feed >= 0 && a.offset != b.offset) // recorded offsets say nothing about fed ones
    return false;
  return a.offset + a.span() <= b.offset || b.offset + b.span() <= a.offset;
}

std::optional<llvm::SmallVector<int64_t, 4>> forwardedShape(const View &written, const View &read) {
  if (written.slot != read.slot || written.offset != read.offset || written.feed != read.feed ||
      written.element != read.element || canonical(written, false) != canonical(read, true))
    return std::nullopt;
  llvm::SmallVector<int64_t, 4> shape;
  for (auto [size, stride] : llvm::zip(read.sizes, read.strides))
    shape.push_back(stride == 0 ? 1 : size);
  return shape;
}

} // namespace terra::passes
