#include "passes/Domain.h"

#include "passes/ExprBuilder.h"

#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;

namespace terra::passes {

int64_t numElements(ArrayRef<int64_t> shape) {
  int64_t n = 1;
  for (int64_t size : shape)
    n *= size;
  return n;
}

SmallVector<int64_t> rowMajor(ArrayRef<int64_t> shape) {
  SmallVector<int64_t> strides(shape.size());
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0; step *= shape[i])
    strides[i] = step;
  return strides;
}

Cuts cutsOf(ArrayRef<int64_t> shape) {
  Cuts cuts;
  int64_t product = 1, total = numElements(shape);
  for (int64_t size : llvm::reverse(shape)) {
    product *= size;
    if (product != 1 && product != total && (cuts.empty() || cuts.back() != product))
      cuts.push_back(product);
  }
  return cuts;
}

std::optional<Cuts> unite(const Cuts &a, const Cuts &b, int64_t numel) {
  Cuts cuts(a);
  cuts.append(b.begin(), b.end());
  llvm::sort(cuts);
  cuts.erase(llvm::unique(cuts), cuts.end());
  int64_t previous = 1;
  for (int64_t cut : cuts) {
    if (cut % previous)
      return std::nullopt;
    previous = cut;
  }
  if (numel % previous)
    return std::nullopt;
  return cuts;
}

SmallVector<int64_t> sizesOf(const Cuts &cuts, int64_t numel) {
  SmallVector<int64_t> sizes;
  int64_t outer = numel;
  for (int64_t cut : llvm::reverse(cuts)) {
    sizes.push_back(outer / cut);
    outer = cut;
  }
  sizes.push_back(outer);
  return sizes;
}

Reduced reducedRanges(ArrayRef<int64_t> shape, ArrayRef<int64_t> dims) {
  Reduced ranges;
  int64_t product = 1;
  for (int64_t d = int64_t(shape.size()) - 1; d >= 0; --d) {
    int64_t outer = product * shape[d];
    if (outer != product && llvm::is_contained(dims, d)) {
      if (!ranges.empty() && ranges.back().second == product)
        ranges.back().second = outer;
      else
        ranges.emplace_back(product, outer);
    }
    product = outer;
  }
  return ranges;
}

int64_t largestNumel(Block &block) {
  int64_t numel = 1;
  block.walk([&](Operation *op) {
    for (Value value : op->getResults())
      if (auto type = dyn_cast<RankedTensorType>(value.getType()))
        numel = std::max(numel, type.getNumElements());
  });
  return numel;
}

bool isMinor(Operation *reduction, int64_t numel) {
  constexpr int64_t kMuch = 16;
  return tensorType(reduction->getOperand(0)).getNumElements() * kMuch <= numel;
}

namespace {
SmallVector<int64_t> allBut(int64_t rank, llvm::function_ref<bool(int64_t)> keep) {
  SmallVector<int64_t> dims;
  for (int64_t d = 0; d < rank; ++d)
    if (!keep(d))
      dims.push_back(d);
  return dims;
}
} // namespace

SmallVector<Reduced> reductionsOf(Operation *op) {
  auto type = op->getNumOperands() ? dyn_cast<RankedTensorType>(op->getOperand(0).getType()) : RankedTensorType();
  if (!type) // a read has a storage as its operand
    return {};
  ArrayRef<int64_t> shape = type.getShape();
  int64_t rank = int64_t(shape.size());
  auto same = [&](ArrayRef<int64_t> dims) {
    return SmallVector<Reduced>(op->getNumResults(), reducedRanges(shape, dims));
  };
  if (auto dims = op->getAttrOfType<DenseI64ArrayAttr>("dims"))
    return same(dims.asArrayRef());
  if (auto dim = op->getAttrOfType<IntegerAttr>("dim"))
    return same({dim.getInt()});
  if (isa<ir::BatchNormOp, ir::BatchNormBackwardOp>(op))
    return same(allBut(rank, [](int64_t d) { return d == 1; }));
  auto axes = op->getAttrOfType<IntegerAttr>("axes");
  if (!axes)
    return {};
  int64_t rows = rank - axes.getInt();
  Reduced inner = reducedRanges(shape, allBut(rank, [&](int64_t d) { return d < rows; }));
  Reduced outer = reducedRanges(shape, allBut(rank, [&](int64_t d) { return d >= rows; }));
  if (isa<ir::LayerNormBackwardOp>(op))
    return {inner, outer, outer};
  return SmallVector<Reduced>(op->getNumResults(), inner);
}

} // namespace terra::passes
