// Elementwise ops. An op's ATen names, its operands' order and its meaning in terms of other ops are here and nowhere else.
//
// `aten` lists forms, `NAME{GUARDS} = EXPRESSION` (grammar: AtenForm.h). `[_]` in a name also matches the in-place
// overload. Without an expression the arguments are the operands, in order. `expansion` defines an op through others;
// an op without one is a primitive that ScalarMath.cpp lowers.
#ifndef TERRA_ELEMENTWISE_TD
#define TERRA_ELEMENTWISE_TD

/// Meaningful for i1 operands (a predicate always is).
def WorksOnBool : NativeOpTrait<"WorksOnBool"> { let cppNamespace = "::terra::ir"; }
/// Not lowered for integers: eager raises on a zero divisor.
def NoIntegers : NativeOpTrait<"NoIntegers"> { let cppNamespace = "::terra::ir"; }
/// Many instructions an element: worth keeping rather than computing twice.
def Expensive : NativeOpTrait<"Expensive"> { let cppNamespace = "::terra::ir"; }

class Terra_ElementwiseOp<string mnemonic, int arity, list<string> aten, string expansion, bit predicate, bit floatOnly,
                          list<Trait> traits>
    : Terra_Op<mnemonic, !listconcat([Pure, DeclareOpInterfaceMethods<Terra_AtenOp>,
                                      DeclareOpInterfaceMethods<Terra_Elementwise>], traits)> {
  let results = (outs Terra_Tensor:$result);
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
  let extraClassDefinition = "::llvm::ArrayRef<::llvm::StringRef> $cppClass::getAtenForms() {\n"
    # "  static const std::vector<::llvm::StringRef> forms = {"
    # !interleave(!foreach(form, aten, "R\"(" # !subst("$", "$$", form) # ")\""), ", ") # "};\n  return forms;\n}\n"
    # "::llvm::StringRef $cppClass::getExpansion() { return \"" # !subst("$", "$$", expansion) # "\"; }\n"
    # "unsigned $cppClass::getArity() { return " # arity # "; }\n"
    # "bool $cppClass::isPredicate() { return " # predicate # "; }\n"
    # "bool $cppClass::isFloatOnly() { return " # floatOnly # "; }\n"
    # "::llvm::LogicalResult $cppClass::verify() { return verifyElementwise(*this, isPredicate()); }\n";
}

class Unary<string mnemonic, list<string> aten, string expansion = "", bit floatOnly = 0, bit predicate = 0,
            list<Trait> traits = []> : Terra_ElementwiseOp<mnemonic, 1, aten, expansion, predicate, floatOnly, traits> {
  let arguments = (ins Terra_Tensor:$a);
}
class Binary<string mnemonic, list<string> aten, string expansion = "", bit floatOnly = 0, bit predicate = 0,
             list<Trait> traits = []> : Terra_ElementwiseOp<mnemonic, 2, aten, expansion, predicate, floatOnly, traits> {
  let arguments = (ins Terra_Tensor:$a, Terra_Tensor:$b);
}
class Ternary<string mnemonic, list<string> aten, string expansion = "", bit floatOnly = 0, list<Trait> traits = []>
    : Terra_ElementwiseOp<mnemonic, 3, aten, expansion, 0, floatOnly, traits> {
  let arguments = (ins Terra_Tensor:$a, Terra_Tensor:$b, Terra_Tensor:$c);
}
class Quaternary<string mnemonic, list<string> aten, string expansion = "", bit floatOnly = 0>
    : Terra_ElementwiseOp<mnemonic, 4, aten, expansion, 0, floatOnly, []> {
  let arguments = (ins Terra_Tensor:$a, Terra_Tensor:$b, Terra_Tensor:$c, Terra_Tensor:$d);
}
class FloatUnary<string mnemonic, list<string> aten, string expansion = ""> : Unary<mnemonic, aten, expansion, 1>;
class FloatBinary<string mnemonic, list<string> aten, string expansion = ""> : Binary<mnemonic, aten, expansion, 1>;
/// Primitive functions of one float.
class Function<string mnemonic, list<string> aten> : Unary<mnemonic, aten, "", 1, 0, [Expensive]>;
class WithTrait<Trait trait, string mnemonic, list<string> aten> : Binary<mnemonic, aten, "", 0, 0, [trait]>;
class Compare<string mnemonic, string name>
    : Binary<mnemonic, ["aten::" # name # ".Tensor", "aten::" # name # ".Scalar = " # mnemonic # "($0, #1)",
                        "aten::" # name # "_.Tensor", "aten::" # name # "_.Scalar = " # mnemonic # "($0, #1)"], "", 0, 1>;

//===- Arithmetic ------------------------------------------------------------------------------------------------===//

def Terra_AddOp : Binary<"add", ["aten::add[_].Tensor = add($0, mul($2, $1))", "aten::add[_].Scalar = add($0, mul($2, #1))",
    "aten::_foreach_add[_].List = add($0, mul($2, $1))", "aten::_foreach_add[_].Tensor = add($0, mul($2, $1))",
    "aten::_foreach_add[_].Scalar = add($0, #1)", "aten::_foreach_add[_].ScalarList = add($0, #1)"]>;
def Terra_SubOp : Binary<"sub", ["aten::sub[_].Tensor = sub($0, mul($2, $1))", "aten::sub[_].Scalar = sub($0, mul($2, #1))",
                                 "aten::rsub.Tensor = sub($1, mul($2, $0))", "aten::rsub.Scalar = sub(#1, mul($2, $0))",
    "aten::_foreach_sub[_].List = sub($0, mul($2, $1))", "aten::_foreach_sub[_].Scalar = sub($0, #1)",
    "aten::_foreach_sub[_].ScalarList = sub($0, #1)"]>;
def Terra_MulOp : Binary<"mul", ["aten::mul[_].Tensor", "aten::mul[_].Scalar = mul($0, #1)",
    "aten::_foreach_mul[_].List = mul($0, $1)", "aten::_foreach_mul[_].Tensor = mul($0, $1)",
    "aten::_foreach_mul[_].Scalar = mul($0, #1)", "aten::_foreach_mul[_].ScalarList = mul($0, #1)"]>;
def Terra_DivOp : FloatBinary<"div", ["aten::div[_].Tensor", "aten::div[_].Scalar = div($0, #1)",
                                      "aten::div[_].Tensor_mode{$2=None}", "aten::div[_].Scalar_mode{$2=None} = div($0, #1)",
    "aten::_foreach_div[_].List = div($0, $1)", "aten::_foreach_div[_].Tensor = div($0, $1)",
    "aten::_foreach_div[_].Scalar = div($0, #1)", "aten::_foreach_div[_].ScalarList = div($0, #1)"]>;
def Terra_FloorDivOp : WithTrait<NoIntegers, "floor_div", ["aten::div[_].Tensor_mode{$2='floor'}", "aten::floor_divide", "aten::floor_divide_.Tensor",
                                            "aten::div[_].Scalar_mode{$2='floor'} = floor_div($0, #1)"]>;
def Terra_TruncDivOp : WithTrait<NoIntegers, "trunc_div", ["aten::div[_].Tensor_mode{$2='trunc'}",
                                            "aten::div[_].Scalar_mode{$2='trunc'} = trunc_div($0, #1)"]>;
def Terra_RemainderOp : WithTrait<NoIntegers, "remainder", ["aten::remainder[_].Tensor", "aten::remainder[_].Scalar = remainder($0, #1)"]>;
def Terra_FmodOp : WithTrait<NoIntegers, "fmod", ["aten::fmod[_].Tensor", "aten::fmod[_].Scalar = fmod($0, #1)"]>;
def Terra_MaximumOp : Binary<"maximum", ["aten::maximum", "aten::clamp_min[_] = maximum($0, $1)", "aten::clamp_min[_].Tensor",
                                         "aten::clamp[_]{$2=None} = maximum($0, $1)",
    "aten::_foreach_maximum[_].List = maximum($0, $1)"]>;
def Terra_MinimumOp : Binary<"minimum", ["aten::minimum", "aten::clamp_max[_] = minimum($0, $1)", "aten::clamp_max[_].Tensor",
                                         "aten::clamp[_]{$1=None} = minimum($0, $2)"]>;
def Terra_ClampOp : Ternary<"clamp", ["aten::clamp[_]", "aten::clamp[_].Tensor", "aten::hardtanh[_]"], "minimum(maximum($0, $1), $2)">;
def Terra_NegOp : Unary<"neg", ["aten::neg[_]", "aten::_foreach_neg[_] = neg($0)"]>;
def Terra_AbsOp : Unary<"abs", ["aten::abs[_]"]>;
def Terra_SignOp : Unary<"sign", ["aten::sign[_]", "aten::sgn[_]"]>;
def Terra_SquareOp : Unary<"square", ["aten::square[_]"], "mul($0, $0)">;
def Terra_AddcmulOp : Quaternary<"addcmul", ["aten::addcmul[_]",
    "aten::_foreach_addcmul[_].Scalar = add($0, mul(mul($3, $1), $2))",
    "aten::_foreach_addcmul[_].ScalarList = add($0, mul(mul($3, $1), $2))"], "add($0, mul(mul($3, $1), $2))">;
def Terra_AddcdivOp : Quaternary<"addcdiv", ["aten::addcdiv[_]",
    "aten::_foreach_addcdiv[_].Scalar = add($0, div(mul($3, $1), $2))",
    "aten::_foreach_addcdiv[_].ScalarList = add($0, div(mul($3, $1), $2))"], "add($0, div(mul($3, $1), $2))", 1>;
def Terra_LerpOp : Ternary<"lerp", ["aten::lerp[_].Scalar", "aten::lerp[_].Tensor",
    "aten::_foreach_lerp[_].Scalar = lerp($0, $1, $2)", "aten::_foreach_lerp[_].List = lerp($0, $1, $2)"],
    "where(lt(abs($2), 0.5), add($0, mul($2, sub($1, $0))), sub($1, mul(sub($1, $0), sub(1, $2))))", 1>;
def Terra_PowOp : Binary<"pow", ["aten::pow.Tensor_Tensor", "aten::pow.Tensor_Scalar = pow($0, #1)", "aten::pow_.Tensor",
                                 "aten::pow_.Scalar = pow($0, #1)", "aten::pow.Scalar = pow(#0, $1)"], "", 0, 0, [NoIntegers, Expensive]>;

//===- Conversion ------------------------------------------------------------------------------------------------===//

def Terra_CastOp : Terra_Op<"cast", [Pure, DeclareOpInterfaceMethods<Terra_AtenOp>]> {
  let summary = "Converts as PyTorch's copy does: floats to integers truncate, anything to i1 compares with zero";
  let arguments = (ins Terra_Tensor:$input);
  let results = (outs Terra_Tensor:$result);
  let assemblyFormat = "$input attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
  let hasFolder = 1;
  let extraClassDefinition = [{
    ::llvm::ArrayRef<::llvm::StringRef> $cppClass::getAtenForms() {
      static const std::vector<::llvm::StringRef> forms = {
          "aten::_to_copy = cast($$0)", "aten::clone = cast($$0)", "aten::copy_ = cast($$1)", "aten::fill_.Scalar = cast($$1)", "aten::fill_.Tensor = cast($$1)",
          "aten::zero_ = cast(0)", "aten::_foreach_zero_ = cast(0)", "aten::_foreach_copy_ = cast($$1)", "aten::zeros_like = cast(0)", "aten::ones_like = cast(1)", "aten::full_like = cast($$1)",
          "aten::zeros = cast(0)", "aten::ones = cast(1)", "aten::full = cast($$1)", "aten::new_zeros = cast(0)",
          "aten::new_ones = cast(1)", "aten::new_full = cast($$2)"};
      return forms;
    }
  }];
}

//===- Predicates ------------------------------------------------------------------------------------------------===//

def Terra_EqOp : Compare<"eq", "eq">;
def Terra_NeOp : Compare<"ne", "ne">;
def Terra_LtOp : Compare<"lt", "lt">;
def Terra_LeOp : Compare<"le", "le">;
def Terra_GtOp : Compare<"gt", "gt">;
def Terra_GeOp : Compare<"ge", "ge">;
def Terra_IsNanOp : Unary<"isnan", ["aten::isnan"], "ne($0, $0)", 0, 1>;
def Terra_LogicalNotOp : Unary<"logical_not", ["aten::logical_not[_] = logical_not(?0)"], "", 0, 1>;
def Terra_LogicalAndOp : Binary<"logical_and", ["aten::logical_and[_] = logical_and(?0, ?1)"], "", 0, 1>;
def Terra_LogicalOrOp : Binary<"logical_or", ["aten::logical_or[_] = logical_or(?0, ?1)"], "", 0, 1>;
def Terra_LogicalXorOp : Binary<"logical_xor", ["aten::logical_xor[_] = logical_xor(?0, ?1)"], "", 0, 1>;
def Terra_AndOp : WithTrait<WorksOnBool, "and", ["aten::bitwise_and[_].Tensor", "aten::bitwise_and[_].Scalar = and($0, #1)"]>;
def Terra_OrOp : WithTrait<WorksOnBool, "or", ["aten::bitwise_or[_].Tensor", "aten::bitwise_or[_].Scalar = or($0, #1)"]>;
def Terra_XorOp : WithTrait<WorksOnBool, "xor", ["aten::bitwise_xor[_].Tensor", "aten::bitwise_xor[_].Scalar = xor($0, #1)"]>;
def Terra_NotOp : Unary<"not", ["aten::bitwise_not[_]"], "", 0, 0, [WorksOnBool]>;
def Terra_WhereOp : Ternary<"where", ["aten::where.self = where(?0, $1, $2)", "aten::where.ScalarSelf = where(?0, #1, $2)",
    "aten::where.ScalarOther = where(?0, $1, #2)", "aten::masked_fill[_].Scalar = where(?1, $2, $0)",
    "aten::masked_fill[_].Tensor = where(?1, $2, $0)"], "", 0, [WorksOnBool]>;

//===- Functions -------------------------------------------------------------------------------------------------===//

def Terra_SqrtOp : FloatUnary<"sqrt", ["aten::sqrt[_]", "aten::_foreach_sqrt[_] = sqrt($0)"]>;
def Terra_RsqrtOp : FloatUnary<"rsqrt", ["aten::rsqrt[_]"], "div(1, sqrt($0))">;
def Terra_ReciprocalOp : FloatUnary<"reciprocal", ["aten::reciprocal[_]"], "div(1, $0)">;
def Terra_ExpOp : Function<"exp", ["aten::exp[_]"]>;
def Terra_Exp2Op : Function<"exp2", ["aten::exp2[_]"]>;
def Terra_Expm1Op : Function<"expm1", ["aten::expm1[_]"]>;
def Terra_LogOp : Function<"log", ["aten::log[_]"]>;
def Terra_Log2Op : Function<"log2", ["aten::log2[_]"]>;
def Terra_Log10Op : Function<"log10", ["aten::log10[_]"]>;
def Terra_Log1pOp : Function<"log1p", ["aten::log1p[_]"]>;
def Terra_SinOp : Function<"sin", ["aten::sin[_]"]>;
def Terra_CosOp : Function<"cos", ["aten::cos[_]"]>;
def Terra_TanOp : Function<"tan", ["aten::tan[_]"]>;
def Terra_AtanOp : Function<"atan", ["aten::atan[_]"]>;
def Terra_Atan2Op : Binary<"atan2", ["aten::atan2[_]"], "", 1, 0, [Expensive]>;
def Terra_TanhOp : Function<"tanh", ["aten::tanh[_]"]>;
def Terra_ErfOp : Function<"erf", ["aten::erf[_]"]>;
def Terra_FloorOp : Unary<"floor", ["aten::floor[_]"]>;
def Terra_CeilOp : Unary<"ceil", ["aten::ceil[_]"]>;
def Terra_RoundOp : Unary<"round", ["aten::round[_]"]>;
def Terra_TruncOp : Unary<"trunc", ["aten::trunc[_]"]>;

//===- Activations and their gradients ---------------------------------------------------------------------------===//

def Terra_ReluOp : Unary<"relu", ["aten::relu[_]"], "where(lt($0, 0), 0, $0)">;
def Terra_ThresholdBackwardOp : Ternary<"threshold_backward", ["aten::threshold_backward"], "where(le($1, $2), 0, $0)">;
def Terra_SigmoidOp : FloatUnary<"sigmoid", ["aten::sigmoid[_]"], "div(1, add(1, exp(neg($0))))">;
def Terra_SigmoidBackwardOp : FloatBinary<"sigmoid_backward", ["aten::sigmoid_backward"], "mul($0, mul(sub(1, $1), $1))">;
def Terra_TanhBackwardOp : FloatBinary<"tanh_backward", ["aten::tanh_backward"], "mul($0, sub(1, mul($1, $1)))">;
def Terra_SiluOp : FloatUnary<"silu", ["aten::silu[_]"], "div($0, add(1, exp(neg($0))))">;
def Terra_SiluBackwardOp : FloatBinary<"silu_backward", ["aten::silu_backward"],
    "mul($0, mul(sigmoid($1), add(1, mul($1, sub(1, sigmoid($1))))))">;
def Terra_GeluOp : FloatUnary<"gelu", ["aten::gelu[_]{$1='none'} = gelu($0)"],
    "mul(mul(0.5, $0), add(1, erf(mul($0, 0.7071067811865476))))">;
// 0.5 (1 + tanh(u)) is sigmoid(2u), which is cheaper and keeps its digits where tanh is near -1.
defvar geluSigmoid = "div(1, add(1, exp(mul(-1.5957691216057308, add(X, mul(0.044715, mul(X, mul(X, X))))))))";
def Terra_GeluTanhOp : FloatUnary<"gelu_tanh", ["aten::gelu[_]{$1='tanh'} = gelu_tanh($0)"],
    "mul($0, " # !subst("X", "$0", geluSigmoid) # ")">;
def Terra_GeluBackwardOp : FloatBinary<"gelu_backward", ["aten::gelu_backward{$2='none'} = gelu_backward($0, $1)"],
    "mul($0, add(mul(0.5, add(1, erf(mul($1, 0.7071067811865476)))), mul($1, mul(0.3989422804014327, exp(mul(mul(-0.5, $1), $1))))))">;
defvar geluSlope = !subst("X", "$1", geluSigmoid);
def Terra_GeluTanhBackwardOp : FloatBinary<"gelu_tanh_backward", ["aten::gelu_backward{$2='tanh'} = gelu_tanh_backward($0, $1)"],
    !subst("S", geluSlope, "mul($0, add(S, mul(mul(mul($1, S), sub(1, S)), "
                           "mul(1.5957691216057308, add(1, mul(0.134145, mul($1, $1)))))))")>;
def Terra_SoftplusOp : Ternary<"softplus", ["aten::softplus"],
    "where(gt(mul($0, $1), $2), $0, div(log1p(exp(mul($0, $1))), $1))", 1>;
def Terra_SoftplusBackwardOp : Quaternary<"softplus_backward", ["aten::softplus_backward"],
    "where(gt(mul($1, $2), $3), $0, div(mul($0, exp(mul($1, $2))), add(exp(mul($1, $2)), 1)))", 1>;
def Terra_LeakyReluOp : Binary<"leaky_relu", ["aten::leaky_relu[_]"], "where(gt($0, 0), $0, mul($0, $1))", 1>;
def Terra_LeakyReluBackwardOp : Ternary<"leaky_relu_backward", ["aten::leaky_relu_backward = leaky_relu_backward($0, $1, $2)"],
    "where(gt($1, 0), $0, mul($0, $2))", 1>;
def Terra_EluOp : Quaternary<"elu", ["aten::elu[_]"],
    "where(lt($0, 0), mul(expm1(mul($0, $3)), mul($1, $2)), mul($0, $2))", 1>;
def Terra_EluBackwardOp : Quaternary<"elu_backward", [
    "aten::elu_backward{$4=true} = where(le($5, 0), mul(mul($0, $3), add($5, mul($1, $2))), mul($0, $2))",
    "aten::elu_backward{$4=false} = where(le($5, 0), mul(mul(mul($0, $3), mul($1, $2)), exp(mul($5, $3))), mul($0, $2))"],
    "where(le($1, 0), mul($0, add($1, $2)), mul($0, $3))", 1>;
def Terra_HardtanhBackwardOp : Quaternary<"hardtanh_backward", ["aten::hardtanh_backward"],
    "where(logical_or(le($1, $2), ge($1, $3)), 0, $0)">;
def Terra_HardswishOp : FloatUnary<"hardswish", ["aten::hardswish[_]"], "div(mul($0, minimum(maximum(add($0, 3), 0), 6)), 6)">;
def Terra_HardswishBackwardOp : FloatBinary<"hardswish_backward", ["aten::hardswish_backward"],
    "where(le($1, -3), 0, where(lt($1, 3), mul($0, add(div($1, 3), 0.5)), $0))">;
def Terra_HardsigmoidOp : FloatUnary<"hardsigmoid", ["aten::hardsigmoid[_]"], "div(minimum(maximum(add($0, 3), 0), 6), 6)">;
def Terra_HardsigmoidBackwardOp : FloatBinary<"hardsigmoid_backward", ["aten::hardsigmoid_backward"],
    "where(logical_and(gt($1, -3), lt($1, 3)), mul($0, 0.16666667163372039794921875), 0)">; // PyTorch's 1.0f / 6.0f
def Terra_MishOp : FloatUnary<"mish", ["aten::mish[_]"], "mul($0, tanh(log1p(exp($0))))">;
def Terra_DropoutBackwardOp : Ternary<"dropout_backward", ["aten::native_dropout_backward = mul(mul($0, $1), $2)"],
    "mul(mul($0, $1), $2)", 1>;

//===- Losses ----------------------------------------------------------------------------------------------------===//

def Terra_SquaredErrorOp : FloatBinary<"squared_error", ["aten::mse_loss{$2=0} = squared_error($0, $1)",
    "aten::mse_loss{$2=1} = mean(squared_error($0, $1))", "aten::mse_loss{$2=2} = sum(squared_error($0, $1))"],
    "mul(sub($0, $1), sub($0, $1))">;
def Terra_SquaredErrorBackwardOp : Terra_ElementwiseOp<"squared_error_backward", 3, [
    "aten::mse_loss_backward{$3=0} = mul(mul(2, sub($1, $2)), $0)", "aten::mse_loss_backward{$3=2} = mul(mul(2, sub($1, $2)), $0)",
    "aten::mse_loss_backward{$3=1} = mul(mul(div(2, @1), sub($1, $2)), $0)"], "mul(mul(2, sub($1, $2)), $0)", 0, 1, []> {
  let arguments = (ins Terra_Tensor:$a, Terra_Tensor:$b, Terra_Tensor:$c);
}
def Terra_BceLogitsOp : FloatBinary<"bce_logits", [
    "aten::binary_cross_entropy_with_logits{$2=None,$3=None,$4=0} = bce_logits($0, $1)",
    "aten::binary_cross_entropy_with_logits{$2=None,$3=None,$4=1} = mean(bce_logits($0, $1))",
    "aten::binary_cross_entropy_with_logits{$2=None,$3=None,$4=2} = sum(bce_logits($0, $1))"],
    "sub(mul(sub(1, $1), $0), sub(minimum($0, 0), log1p(exp(neg(abs($0))))))">;
defvar bceSlope = "div(mul($0, sub($1, $2)), maximum(mul(sub(1, $1), $1), 1e-12))";
def Terra_BceBackwardOp : Ternary<"bce_backward", [
    "aten::binary_cross_entropy_backward{$3=None,$4=0} = bce_backward($0, $1, $2)",
    "aten::binary_cross_entropy_backward{$3=None,$4=1} = div(bce_backward($0, $1, $2), @1)",
    "aten::binary_cross_entropy_backward{$3=None,$4=2} = bce_backward($0, $1, $2)"], !strconcat(bceSlope, ""), 1>;

#endif
