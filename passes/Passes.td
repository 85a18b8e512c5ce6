// The registry of Terra's passes: name, summary, example, options, statistics.
#ifndef TERRA_PASSES_TD
#define TERRA_PASSES_TD

include "mlir/Pass/PassBase.td"

def FuseGroups : Pass<"terra-fuse", "::terra::ir::SegmentOp"> {
  let summary = "Merges groups whose work shares loops";
  let description = [{
    Walks the events in order and merges a group into earlier ones that it reads from or shares inputs with, when
    one loop nest can compute both and no event in between has a hazard with the members that move. Then it decides
    which slots never reach memory: made and read only inside the group, and dead soon after it.

    ```
    terra.group [0] { a = read; b = exp(a); write b, %1 }      terra.group [0, 1] fused_away [1] {
    terra.group [1] { b = read %1; c = neg(b); write c, %2 } =>   a = read; b = exp(a); write b, %1; … }
    ```
  }];
  let options = [
    Option<"maxOps", "max-ops", "int64_t", "96", "Most ops in a group">,
    Option<"maxSlots", "max-slots", "int64_t", "24", "Most slots that a group touches">,
    Option<"patience", "patience", "int64_t", "32", "Events a group may wait for the death of a slot it fuses away">
  ];
  let statistics = [
    Statistic<"numMerged", "merged", "Groups merged into others">,
    Statistic<"numFusedAway", "fused-away", "Slots that never reach memory">
  ];
}

def ForwardStores : Pass<"terra-forward", "::terra::ir::SegmentOp"> {
  let summary = "Makes a group read memory once, at its start, and write it once, at its end";
  let description = [{
    A read of what the group wrote becomes the written value (reshaped where the views differ), a repeated read the
    first one, an overwritten write and a write of a fused-away slot disappear.
  }];
  let dependentDialects = ["::terra::ir::TerraDialect"];
}

def Decompose : Pass<"terra-decompose", "::terra::ir::SegmentOp"> {
  let summary = "Expands composite ops into elementwise primitives and sum, max, min";
  let description = [{
    Elementwise ops by the `expansion` of their definition, structured ops by Decompose.cpp.
    ```
    %1 = terra.silu %0  =>  %1 = terra.div %0, (terra.add 1, (terra.exp (terra.neg %0)))
    ```
  }];
  let dependentDialects = ["::terra::ir::TerraDialect"];
}

def SimplifyGroups : Pass<"terra-simplify", "::terra::ir::SegmentOp"> {
  let summary = "Rewrites pow by small exponents as eager computes it, drops reductions of nothing";
  let dependentDialects = ["::terra::ir::TerraDialect"];
}

def SeparateReductions : Pass<"terra-separate-reductions", "::terra::ir::SegmentOp"> {
  let summary = "Minor reductions of a group get loop nests of their own";
  let description = [{
    The values of one loop nest depend on one way of reducing at most. What another loop nest works on, and what it gives, goes from one to
    the other through scratch memory if it is little next to what the group works on: the sum of a loss over rows, of which each is a
    sum, or a number of targets by which every gradient is divided.
    ```
    %s = terra.sum %x {dims = [1]} : (tensor<64x1000xf32>) -> tensor<64x1xf32>
    terra.write %s, %scratch …
    %t = terra.sum (terra.read %scratch …) {dims = [0]} : (tensor<64x1xf32>) -> tensor<1x1xf32>
    ```
  }];
  let dependentDialects = ["::terra::ir::TerraDialect"];
  let statistics = [Statistic<"numPassed", "passed", "Values that go through scratch memory">];
}

def FormKernels : Pass<"terra-form-kernels", "::terra::ir::SegmentOp"> {
  let summary = "Splits a group into loop nests, one for each domain and set of reduced dimensions";
  let description = [{
    Each write goes to a kernel with the ops that it depends on; ops needed by two kernels are computed in both.
    A group that has no such split is erased with a remark: its events run as externs.
  }];
  let dependentDialects = ["::terra::ir::TerraDialect"];
  let statistics = [Statistic<"numFailed", "failed", "Groups that could not be split">];
}

def SplitReductions : Pass<"terra-split-reductions", "::terra::ir::SegmentOp"> {
  let summary = "Sums over what runs in parallel become partial sums of tasks, and a kernel that adds them up";
  let description = [{
    A kernel that reduces along rows and one that sums down columns over the same data become one that does both, row by row.
    A kernel with few results reduces its parts in parallel.
    ```
    terra.kernel domain [4096, 768] reduced [1] tasks 64 { … terra.accumulate %x, %scratch offset 0 }
    terra.kernel domain [64, 768] reduced [0] { terra.read %scratch … terra.sum … terra.write }
    ```
  }];
  let dependentDialects = ["::terra::ir::TerraDialect"];
  let statistics = [Statistic<"numShared", "shared", "Column sums computed along with rows">,
                    Statistic<"numSplit", "split", "Kernels reduced in parts">];
}

def LowerKernels : Pass<"terra-lower-kernels", "::mlir::ModuleOp"> {
  let summary = "Kernels to functions of scf loops over pointers, and a launch";
  let description = [{
    Each number in the code that sizes decide (extents, strides, divisors) and each constant of the program is an argument first. Those that the
    SizeMemory does not know to vary become constants; the launch passes the others.
  }];
  let dependentDialects = ["::terra::ir::TerraDialect", "::mlir::func::FuncDialect", "::mlir::scf::SCFDialect",
                           "::mlir::arith::ArithDialect", "::mlir::math::MathDialect", "::mlir::LLVM::LLVMDialect"];
}

#endif
