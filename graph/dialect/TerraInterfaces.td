#ifndef TERRA_INTERFACES_TD
#define TERRA_INTERFACES_TD

include "mlir/IR/OpBase.td"

def Terra_AtenOp : OpInterface<"AtenOp"> {
  let cppNamespace = "::terra::ir";
  let description = "An op that ATen calls are imported as. The forms come from the op's definition (`aten`).";
  let methods = [
    StaticInterfaceMethod<"ATen overloads and how their arguments become operands (grammar: AtenForm.h).",
                          "::llvm::ArrayRef<::llvm::StringRef>", "getAtenForms">
  ];
}

def Terra_Elementwise : OpInterface<"Elementwise"> {
  let cppNamespace = "::terra::ir";
  let description = "Computes each element from the elements of its operands at the same (broadcast) index.";
  let methods = [
    StaticInterfaceMethod<"The op in terms of others (expression of AtenForm.h over `$0`, `$1`, …); empty for a "
                          "primitive, which the lowering knows.", "::llvm::StringRef", "getExpansion">,
    StaticInterfaceMethod<"Number of operands.", "unsigned", "getArity">,
    StaticInterfaceMethod<"The result is i1 whatever the operands are.", "bool", "isPredicate">,
    StaticInterfaceMethod<"Integers are promoted to the default floating-point type.", "bool", "isFloatOnly">
  ];
}

def Terra_Reduction : OpInterface<"Reduction"> {
  let cppNamespace = "::terra::ir";
  let description = "Reduces the dimensions `dims` of its operand; the result keeps them with size 1.";
  let methods = [InterfaceMethod<"Reduced dimensions, ascending.", "::llvm::ArrayRef<int64_t>", "getDims">];
}

#endif
