// What a read or write touches: a strided view of a slot, comparable without regard to how its sizes are written.
#pragma once

#include "graph/dialect/Terra.h"

#include <optional>

namespace terra::passes {

struct View {
  mlir::Value slot;
  int64_t offset = 0;
  int64_t feed = -1;              ///< offset feed, or -1
  mlir::Type element;
  llvm::SmallVector<int64_t, 4> sizes, strides;

  static View of(ir::ReadOp op);
  static View of(ir::WriteOp op);

  /// Elements from the offset to past the last one.
  int64_t span() const;
  int64_t numel() const;
};

using SizeStride = std::pair<int64_t, int64_t>;

/// Sizes and strides without dimensions of size 1 and with neighbours merged where possible: equal for views that
/// list the same addresses in the same order. `dropBroadcast` also leaves out dimensions of stride 0.
llvm::SmallVector<SizeStride, 4> canonical(const View &view, bool dropBroadcast);

/// The same elements in the same order.
bool sameView(const View &a, const View &b);

/// Provably no byte in common (of one slot).
bool disjoint(const View &a, const View &b);

/// A read `read` after a write `written` of the same slot sees the written value, reshaped to these sizes (1 where the
/// read broadcasts); nothing when it is another arrangement.
std::optional<llvm::SmallVector<int64_t, 4>> forwardedShape(const View &written, const View &read);

} // namespace terra::passes
