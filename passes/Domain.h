// Shapes as nested cuts of a row-major index space, so that work recorded with different sizes (`[B*T, C]` and
// `[B, T, C]`) can share loops.
#pragma once

#include "graph/dialect/Terra.h"

#include <optional>

namespace terra::passes {

/// Products of the trailing sizes of a shape, without 1 and the number of elements, ascending.
using Cuts = llvm::SmallVector<int64_t, 4>;
/// Reduced parts of the index space, as [inner product, outer product) pairs; neighbours merged, ascending.
using Reduced = llvm::SmallVector<std::pair<int64_t, int64_t>, 2>;

int64_t numElements(llvm::ArrayRef<int64_t> shape);
/// Strides of memory without gaps.
llvm::SmallVector<int64_t> rowMajor(llvm::ArrayRef<int64_t> shape);
Cuts cutsOf(llvm::ArrayRef<int64_t> shape);
/// The union; nothing when the cuts are not nested (each dividing the next).
std::optional<Cuts> unite(const Cuts &a, const Cuts &b, int64_t numel);
/// Sizes of the dimensions between the cuts, outermost first.
llvm::SmallVector<int64_t> sizesOf(const Cuts &cuts, int64_t numel);
Reduced reducedRanges(llvm::ArrayRef<int64_t> shape, llvm::ArrayRef<int64_t> dims);

/// Elements of the largest value that is made in a block.
int64_t largestNumel(mlir::Block &block);
/// A reduction of so little, next to values of `numel` elements, that it is better apart, with its result in scratch memory: then it
/// does not count as a way of reducing that all have to share.
bool isMinor(mlir::Operation *reduction, int64_t numel);

/// For an op that reduces (also one that is not decomposed yet): for each result the ranges of the first operand's
/// index space that its computation reduces. Empty for other ops.
llvm::SmallVector<Reduced> reductionsOf(mlir::Operation *op);

} // namespace terra::passes
