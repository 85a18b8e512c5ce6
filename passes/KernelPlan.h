// The loops of a kernel: which dimensions are merged, in which order, and which loop is the parallel one.
#pragma once

#include "passes/KernelAnalysis.h"

namespace terra::passes {

enum class Shape : uint8_t {
  Map,    ///< nothing is reduced: the last kept loop is innermost
  Rows,   ///< the reduced loops are innermost, accumulators are scalars
  Columns ///< the last kept loop is innermost, in tiles; accumulators are arrays of one tile
};

struct PlannedLoop {
  int64_t size = 1;
  unsigned dim = 0; ///< the domain dimension whose strides are the loop's (the innermost of the merged ones)
};

struct KernelPlan {
  explicit KernelPlan(const KernelAnalysis &analysis);

  Shape shape = Shape::Map;
  llvm::SmallVector<PlannedLoop, 4> kept, reduced; ///< outermost first
  int64_t extent = 1;  ///< of the parallel loop
  int64_t grain = 1;
  int64_t tasks = 0;      ///< parts of the rows, or of the outermost reduced loop; 0: undivided
  int64_t part = 0;       ///< iterations in each
  int64_t tileRows = 0; ///< Map: the last kept loop but one is divided by this, and the innermost one too; 0: undivided
  unsigned lastStage = 0; ///< passes over the reduced dimensions are numbered 0 … lastStage

  /// Kept loops that the parallel loop runs over (flattened): all but the innermost of Map and Columns, unless it is
  /// the only one.
  llvm::ArrayRef<PlannedLoop> parallel() const;
  /// The innermost kept loop of Map and Columns.
  const PlannedLoop &inner() const { return kept.back(); }
  bool innerIsParallel() const { return shape != Shape::Rows && kept.size() == 1 && !tasks; }
  /// Times that the kept loops run in parallel.
  int64_t keptExtent() const;
  /// The kept loop around the innermost one.
  const PlannedLoop &outer() const { return kept[kept.size() - 2]; }
  /// Contiguous along `outer()`, and not along `inner()`: its cache lines are used up row by row.
  bool isTransposed(llvm::ArrayRef<int64_t> strides) const;
  /// Elements of all reduced loops together.
  int64_t reducedNumel() const;

private:
  bool isTransposed(const KernelAnalysis &analysis) const;
};

} // namespace terra::passes
