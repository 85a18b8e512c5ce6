// The compiler as a list of named stages.
#include "passes/Passes.h"

#include "graph/dialect/Terra.h"

#include "mlir/Conversion/ArithToLLVM/ArithToLLVM.h"
#include "mlir/Conversion/ControlFlowToLLVM/ControlFlowToLLVM.h"
#include "mlir/Conversion/FuncToLLVM/ConvertFuncToLLVMPass.h"
#include "mlir/Conversion/MathToLibm/MathToLibm.h"
#include "mlir/Conversion/ReconcileUnrealizedCasts/ReconcileUnrealizedCasts.h"
#include "mlir/Conversion/SCFToControlFlow/SCFToControlFlow.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/Passes.h"

using namespace mlir;

namespace terra::passes {

/// imported → fused: which events are computed together, and what they compute as SSA.
void addFusionStage(OpPassManager &pm) {
  OpPassManager &segment = pm.nest<ir::SegmentOp>();
  segment.addPass(createFuseGroups()); // first: it reasons about events, and composites say most about their loops
  segment.addPass(createForwardStores()); // before anything rewrites: it needs the reads and writes in event order
  segment.addPass(createDecompose());     // after forwarding, so that equal subexpressions of several events meet
  segment.addPass(createSimplifyGroups());
  segment.addPass(createCanonicalizerPass());
  segment.addPass(createCSEPass()); // last: removes what folding made equal or dead
}

/// fused → kernels: one loop nest for each domain.
void addKernelStage(OpPassManager &pm) {
  OpPassManager &segment = pm.nest<ir::SegmentOp>();
  segment.addPass(createSeparateReductions()); // first: a loop nest has one way of reducing
  segment.addPass(createFormKernels());
  segment.addPass(createSplitReductions()); // needs to know which loops are long
}

/// kernels → lowered: functions of scf loops over pointers.
void addLoweringStage(OpPassManager &pm, SizeMemory *memory) {
  pm.addPass(memory ? createLowerKernels(*memory) : createLowerKernels());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
}

/// lowered → LLVM dialect.
void addLlvmStage(OpPassManager &pm) {
  pm.addPass(createSCFToControlFlowPass());
  pm.addPass(
      createConvertMathToLibmPass()); // what ScalarMath.cpp does not expand; the rest is LLVM's intrinsics already
  ArithToLLVMConversionPassOptions arith;
  arith.indexBitwidth = 64;
  pm.addPass(createArithToLLVMConversionPass(arith));
  pm.addPass(createConvertFuncToLLVMPass());
  pm.addPass(createConvertControlFlowToLLVMPass());
  pm.addPass(createReconcileUnrealizedCastsPass()); // last: the conversions above leave casts between each other
}

void registerPipelines() {
  static PassPipelineRegistration<> fusion("terra-fusion-stage", "imported → fused", addFusionStage);
  static PassPipelineRegistration<> kernels("terra-kernel-stage", "fused → kernels", addKernelStage);
  static PassPipelineRegistration<> lowering("terra-lowering-stage", "kernels → lowered",
                                             [](OpPassManager &pm) { addLoweringStage(pm); });
  static PassPipelineRegistration<> llvm("terra-llvm-stage", "lowered → LLVM dialect", addLlvmStage);
}

} // namespace terra::passes
