// Terra's passes and the pipelines made of them.
#pragma once

#include "graph/Segment.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/Pass/Pass.h"
#include "llvm/ADT/BitVector.h"

namespace terra::ir {
class SegmentOp;
class GroupOp;
} // namespace terra::ir

namespace terra::passes {

#define GEN_PASS_DECL
#include "passes/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "passes/Passes.h.inc"

/// A segment as a module with one `terra.segment`: each event with a lowering a group of its own, the rest externs.
mlir::OwningOpRef<mlir::ModuleOp> importSegment(mlir::MLIRContext &context, const graph::Segment &segment,
                                                const graph::Deaths &deaths);

/// Remembers the numbers of a segment's kernels, so that those that sizes decide can be told from constants.
class SizeMemory {
public:
  virtual ~SizeMemory() = default;
  /// Which numbers of the kernel at `place` are to be arguments of its code. The others become constants.
  virtual llvm::BitVector whichVary(llvm::StringRef place, llvm::ArrayRef<int64_t> numbers) = 0;
};

std::unique_ptr<mlir::Pass> createLowerKernels(SizeMemory &memory);

/// The named stages of the compiler, in order; see Pipeline.cpp.
void addFusionStage(mlir::OpPassManager &pm);
void addKernelStage(mlir::OpPassManager &pm);
void addLoweringStage(mlir::OpPassManager &pm, SizeMemory *memory = nullptr);
void addLlvmStage(mlir::OpPassManager &pm);

/// Makes the stages known to command-line tools as `terra-fusion-stage`, …
void registerPipelines();

} // namespace terra::passes
