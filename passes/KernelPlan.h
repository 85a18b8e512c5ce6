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
  unsigned lastStage = 0; ///< passes over the reduced dimensions are numbered 0 … lastStage

  /// Kept loops that the parallel loop runs over (flattened): all but the innermost of Map and Columns, unless it is
  /// the only one.
  llvm::ArrayRef<PlannedLoop> parallel() const;
  /// The innermost kept loop of Map and Columns.
  const PlannedLoop &inner() const { return kept.back(); }
  bool innerIsParallel() const { return shape != Shape::Rows && kept.size() == 1 && !tasks; }
  /// Times that the kept loops run in parallel.
  int64_t keptExtent() const;
  /// Elements of all reduced loops together.
  int64_t reducedNumel() const;
};

} // namespace terra::passes
