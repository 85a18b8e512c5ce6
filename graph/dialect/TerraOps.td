// Ops that carry the structure of a segment. Arithmetic is in TerraElementwise.td and TerraStructured.td.
#ifndef TERRA_OPS_TD
#define TERRA_OPS_TD

include "graph/dialect/TerraTypes.td"
include "graph/dialect/TerraInterfaces.td"
include "mlir/IR/BuiltinAttributeInterfaces.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/IR/RegionKindInterface.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

def Terra_Tensor : RankedTensorOf<[I1, I8, UI8, I16, I32, I64, F16, BF16, F32, F64]>;

class Terra_Op<string mnemonic, list<Trait> traits = []> : Op<TerraDialect, mnemonic, traits>;

def Terra_SegmentOp : Terra_Op<"segment", [SingleBlock, NoTerminator, IsolatedFromAbove]> {
  let summary = "A straight run of events over its slots";
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = "attr-dict-with-keyword $body";
}

def Terra_SlotOp : Terra_Op<"slot", [Pure, HasParent<"SegmentOp">]> {
  let summary = "A storage of the segment";
  let description = [{
    `external`: bound when the segment is walked. Otherwise some event makes it. `death`: the event at which the
    program's last reference was seen gone; without it the storage is an output of the segment.

    ```
    %3 = terra.slot 3 death 7
    ```
  }];
  let arguments = (ins I64Attr:$index, UnitAttr:$external, OptionalAttr<I64Attr>:$death);
  let results = (outs Terra_Storage:$result);
  let assemblyFormat = "$index (`external` $external^)? (`death` $death^)? attr-dict";
}

def Terra_ExternOp : Terra_Op<"extern", [AttrSizedOperandSegments]> {
  let summary = "An event that the host runs";
  let description = [{ `views`: it only makes views and touches no data. }];
  let arguments = (ins StrAttr:$callee, I64Attr:$event, UnitAttr:$views, UnitAttr:$random,
                       Variadic<Terra_Storage>:$reads, Variadic<Terra_Storage>:$writes);
  let assemblyFormat = [{
    $callee `event` $event (`views` $views^)? (`random` $random^)? (`reads` `(` $reads^ `)`)? (`writes` `(` $writes^ `)`)?
    attr-dict
  }];
}

def Terra_GroupOp : Terra_Op<"group", [SingleBlock, NoTerminator]> {
  let summary = "Events computed together by one instruction";
  let description = [{
    `fused_away`: slots made by these events whose data never reaches memory.
  }];
  let arguments = (ins DenseI64ArrayAttr:$events, OptionalAttr<DenseI64ArrayAttr>:$fused_away);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = "$events (`fused_away` $fused_away^)? attr-dict-with-keyword $body";
  let hasVerifier = 1;
}

def Terra_ScratchOp : Terra_Op<"scratch", [Pure, HasParent<"GroupOp">]> {
  let summary = "Memory of a group's kernels while they run";
  let arguments = (ins I64Attr:$bytes);
  let results = (outs Terra_Storage:$result);
  let assemblyFormat = "$bytes attr-dict";
}

def Terra_KernelOp : Terra_Op<"kernel", [SingleBlock, NoTerminator, HasParent<"GroupOp">]> {
  let summary = "A loop nest over one domain";
  let description = [{
    All values span the whole `domain` (row-major logical order), or the part of it that is not `reduced`, or are
    broadcast into it. Reductions in the kernel reduce exactly the dimensions `reduced`.

    `tasks`: it runs in so many parts, each with partial results of its own in the group's scratch memory. They divide the
    rows where the kernel accumulates, otherwise what is reduced.
  }];
  let arguments = (ins DenseI64ArrayAttr:$domain, DenseI64ArrayAttr:$reduced, OptionalAttr<I64Attr>:$tasks);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = "`domain` $domain `reduced` $reduced (`tasks` $tasks^)? attr-dict-with-keyword $body";
}

def Terra_AccumulateOp : Terra_Op<"accumulate", [MemoryEffects<[MemWrite]>, HasParent<"KernelOp">]> {
  let summary = "Sums over the rows of a task: one sum for each index of the kernel's reduced dimensions";
  let arguments = (ins Terra_Tensor:$value, Terra_Storage:$scratch, I64Attr:$offset);
  let assemblyFormat = "$value `,` $scratch `offset` $offset attr-dict `:` type($value)";
}

def Terra_LaunchOp : Terra_Op<"launch", [HasParent<"GroupOp">]> {
  let summary = "A call of lowered code";
  let description = [{
    `views` has one dictionary for each pointer of the kernel: a slot operand, a scalar feed or a place in the scratch memory.
    After them come the numbers that its code takes as arguments.
  }];
  let arguments = (ins FlatSymbolRefAttr:$callee, I64Attr:$extent, I64Attr:$grain, UnitAttr:$serial,
                       OptionalAttr<I64Attr>:$scratch, ArrayAttr:$views, Variadic<Terra_Storage>:$slots);
  let assemblyFormat = [{
    $callee `(` $slots `)` `extent` $extent `grain` $grain (`serial` $serial^)? (`scratch` $scratch^)? `views` $views attr-dict
  }];
}

def Terra_ReadOp : Terra_Op<"read", [MemoryEffects<[MemRead]>]> {
  let summary = "The elements of a view, as memory holds them now";
  let description = [{
    `feed`: the offset is the run's offset feed of that number instead.
    ```
    %a = terra.read %0 offset 0 strides [3, 1] : tensor<2x3xf32>
    ```
  }];
  let arguments = (ins Terra_Storage:$slot, I64Attr:$offset, DenseI64ArrayAttr:$strides, OptionalAttr<I64Attr>:$feed);
  let results = (outs Terra_Tensor:$result);
  let assemblyFormat = "$slot `offset` $offset (`feed` $feed^)? `strides` $strides attr-dict `:` type($result)";
  let hasVerifier = 1;
}

def Terra_WriteOp : Terra_Op<"write", [MemoryEffects<[MemWrite]>]> {
  let summary = "Writes all elements of a view";
  let arguments = (ins Terra_Tensor:$value, Terra_Storage:$slot, I64Attr:$offset, DenseI64ArrayAttr:$strides,
                       OptionalAttr<I64Attr>:$feed);
  let assemblyFormat = "$value `,` $slot `offset` $offset (`feed` $feed^)? `strides` $strides attr-dict `:` type($value)";
  let hasVerifier = 1;
}

def Terra_ConstantOp : Terra_Op<"constant", [Pure]> {
  let summary = "A number";
  let description = [{ Converted to the element type of the 0-dim result as a C++ cast does. }];
  let arguments = (ins TypedAttrInterface:$value);
  let results = (outs Terra_Tensor:$result);
  let assemblyFormat = "$value attr-dict `:` type($result)";
  let hasVerifier = 1;
}

def Terra_FeedOp : Terra_Op<"feed", [Pure]> {
  let summary = "A scalar that Python hands over on every run";
  let arguments = (ins I64Attr:$index);
  let results = (outs Terra_Tensor:$result);
  let assemblyFormat = "$index attr-dict `:` type($result)";
  let hasVerifier = 1;
}

def Terra_IotaOp : Terra_Op<"iota", [Pure, DeclareOpInterfaceMethods<Terra_AtenOp>]> {
  let summary = "The index along dimension `dim`, as i64";
  let arguments = (ins I64Attr:$dim);
  let results = (outs Terra_Tensor:$result);
  let assemblyFormat = "$dim attr-dict `:` type($result)";
  let hasVerifier = 1;
  let extraClassDefinition = [{
    ::llvm::ArrayRef<::llvm::StringRef> $cppClass::getAtenForms() {
      static const std::vector<::llvm::StringRef> forms = {"aten::nll_loss_forward", "aten::nll_loss_backward"};
      return forms;
    }
  }];
}

def Terra_ReshapeOp : Terra_Op<"reshape", [Pure]> {
  let summary = "The same elements, in row-major order, with other sizes";
  let arguments = (ins Terra_Tensor:$input);
  let results = (outs Terra_Tensor:$result);
  let assemblyFormat = "$input attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
  let hasFolder = 1;
}

include "graph/dialect/TerraElementwise.td"
include "graph/dialect/TerraStructured.td"

#endif
