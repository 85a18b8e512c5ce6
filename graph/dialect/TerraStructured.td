// Reductions, normalisations, softmax and losses: the importer for each of their ATen names is in ImportStructured.cpp,
// their meaning in terms of elementwise ops and reductions in Decompose.cpp.
#ifndef TERRA_STRUCTURED_TD
#define TERRA_STRUCTURED_TD

class Terra_StructuredOp<string mnemonic, list<string> aten, list<Trait> traits = []>
    : Terra_Op<mnemonic, !listconcat([Pure, DeclareOpInterfaceMethods<Terra_AtenOp>], traits)> {
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
  code atenForms = "::llvm::ArrayRef<::llvm::StringRef> $cppClass::getAtenForms() {\n"
    # "  static const std::vector<::llvm::StringRef> forms = {"
    # !interleave(!foreach(form, aten, "\"" # form # "\""), ", ") # "};\n  return forms;\n}\n";
  let extraClassDefinition = atenForms # "::llvm::LogicalResult $cppClass::verify() { return verifyStructured(*this); }\n";
}

//===- Reductions ------------------------------------------------------------------------------------------------===//

class Terra_ReduceOp<string mnemonic, list<string> aten>
    : Terra_StructuredOp<mnemonic, aten, [DeclareOpInterfaceMethods<Terra_Reduction>]> {
  let arguments = (ins Terra_Tensor:$input, DenseI64ArrayAttr:$dims);
  let results = (outs Terra_Tensor:$result);
  let extraClassDefinition = atenForms
    # "::llvm::LogicalResult $cppClass::verify() { return verifyReduction(*this, getInput(), getDims()); }\n";
}
def Terra_SumOp : Terra_ReduceOp<"sum", ["aten::sum", "aten::sum.dim_IntList"]>;
def Terra_MaxOp : Terra_ReduceOp<"max", ["aten::amax", "aten::max"]>;
def Terra_MinOp : Terra_ReduceOp<"min", ["aten::amin", "aten::min"]>;
/// The maximum of numbers; where a NaN is among them, any value. Cheaper than `max`, and as good for those who meet the NaN again.
def Terra_MaxOfNumbersOp : Terra_ReduceOp<"max_of_numbers", []>;

/// Reductions that are expanded into the ones above.
class Terra_CompositeReduceOp<string mnemonic, list<string> aten> : Terra_StructuredOp<mnemonic, aten> {
  let arguments = (ins Terra_Tensor:$input, DenseI64ArrayAttr:$dims);
  let results = (outs Terra_Tensor:$result);
  let extraClassDefinition = atenForms
    # "::llvm::LogicalResult $cppClass::verify() { return verifyReduction(*this, getInput(), getDims()); }\n";
}
def Terra_MeanOp : Terra_CompositeReduceOp<"mean", ["aten::mean", "aten::mean.dim"]>;
def Terra_VarOp : Terra_StructuredOp<"var", ["aten::var.correction", "aten::var_mean.correction", "aten::std.correction"]> {
  let summary = "Variance and mean; the sum of squares is divided by n - correction";
  let arguments = (ins Terra_Tensor:$input, DenseI64ArrayAttr:$dims, F64Attr:$correction);
  let results = (outs Terra_Tensor:$variance, Terra_Tensor:$mean);
}

//===- Softmax ---------------------------------------------------------------------------------------------------===//

class Terra_SoftmaxLike<string mnemonic, list<string> aten> : Terra_StructuredOp<mnemonic, aten> {
  let arguments = (ins Terra_Tensor:$input, I64Attr:$dim);
  let results = (outs Terra_Tensor:$result);
}
class Terra_SoftmaxBackwardLike<string mnemonic, list<string> aten> : Terra_StructuredOp<mnemonic, aten> {
  let arguments = (ins Terra_Tensor:$grad, Terra_Tensor:$output, I64Attr:$dim);
  let results = (outs Terra_Tensor:$result);
}
def Terra_SoftmaxOp : Terra_SoftmaxLike<"softmax", ["aten::_softmax"]>;
/// 0 where all elements are -inf.
def Terra_SafeSoftmaxOp : Terra_SoftmaxLike<"safe_softmax", ["aten::_safe_softmax"]>;
def Terra_LogSoftmaxOp : Terra_SoftmaxLike<"log_softmax", ["aten::_log_softmax"]>;
def Terra_SoftmaxBackwardOp : Terra_SoftmaxBackwardLike<"softmax_backward", ["aten::_softmax_backward_data"]>;
def Terra_LogSoftmaxBackwardOp : Terra_SoftmaxBackwardLike<"log_softmax_backward", ["aten::_log_softmax_backward_data"]>;

//===- Normalisation ---------------------------------------------------------------------------------------------===//

def Terra_LayerNormOp : Terra_StructuredOp<"layer_norm", ["aten::native_layer_norm"], [AttrSizedOperandSegments]> {
  let summary = "Normalises over the last `axes` dimensions";
  let arguments = (ins Terra_Tensor:$input, Optional<Terra_Tensor>:$weight, Optional<Terra_Tensor>:$bias, I64Attr:$axes,
                       F64Attr:$eps);
  let results = (outs Terra_Tensor:$result, Terra_Tensor:$mean, Terra_Tensor:$rstd);
}
def Terra_LayerNormBackwardOp
    : Terra_StructuredOp<"layer_norm_backward", ["aten::native_layer_norm_backward"]> {
  let summary = "Gradients of input, weight and bias";
  let arguments = (ins Terra_Tensor:$grad, Terra_Tensor:$input, Terra_Tensor:$mean, Terra_Tensor:$rstd,
                       Optional<Terra_Tensor>:$weight, I64Attr:$axes);
  let results = (outs Terra_Tensor:$dinput, Terra_Tensor:$dweight, Terra_Tensor:$dbias);
}
def Terra_BatchNormOp : Terra_StructuredOp<"batch_norm", ["aten::native_batch_norm"], [AttrSizedOperandSegments]> {
  let summary = "Training batch norm over all dimensions but the second; gives the unbiased variance as well";
  let arguments = (ins Terra_Tensor:$input, Optional<Terra_Tensor>:$weight, Optional<Terra_Tensor>:$bias, F64Attr:$eps);
  let results = (outs Terra_Tensor:$result, Terra_Tensor:$mean, Terra_Tensor:$rstd, Terra_Tensor:$variance);
}
def Terra_BatchNormBackwardOp
    : Terra_StructuredOp<"batch_norm_backward", ["aten::native_batch_norm_backward"]> {
  let arguments = (ins Terra_Tensor:$grad, Terra_Tensor:$input, Terra_Tensor:$mean, Terra_Tensor:$rstd,
                       Optional<Terra_Tensor>:$weight);
  let results = (outs Terra_Tensor:$dinput, Terra_Tensor:$dweight, Terra_Tensor:$dbias);
}

#endif
