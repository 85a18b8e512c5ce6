// The compiler's stages in MLIR: segment → groups, and kernels as LLVM IR.
#pragma once

#include "codegen/Compiler.h"
#include "codegen/cache/SegmentCache.h"
#include "codegen/cpu/Build.h"
#include "graph/Segment.h"

namespace terra::codegen {

/// MLIR's context is one for the process, and held by a Stages while it lives: keep it short.
class Stages {
public:
  /// `onStage`, when set, gets the IR after each stage.
  Stages(const graph::Segment &segment, const graph::Deaths &deaths, NumberChoice numbers, StageCallback onStage,
         CompileCost &cost);
  ~Stages();

  /// Fills `result` (calls without functions yet), `kernels` with what `store` has, and `pending` with the other kernels,
  /// each once. False when some stage failed as a whole.
  bool run(KeyedGroups &result, KernelStore &store, Kernels &kernels, std::vector<PendingKernel> &pending);

  /// What passes said of events that they gave up, and of failures.
  const std::string &remarks() const;

private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// As `codegen::loweredOps`.
std::vector<std::string> loweredByStages();

} // namespace terra::codegen
