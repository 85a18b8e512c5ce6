// ATen calls that become structured ops: their arguments, in the order of the schema.
#include "passes/ImportCall.h"

#include "passes/ExprBuilder.h"

#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringSwitch.h"

using namespace mlir;
using terra::graph::ArgKind;

namespace terra::passes {

namespace {

/// The type to compute in: halves in f32.
Type computeType(Type element) {
  return element.isF16() || element.isBF16() ? Float32Type::get(element.getContext()) : element;
}

/// Dimension arguments: a list, one number, or none for all; ascending and without negatives.
std::optional<SmallVector<int64_t>> dimsArgument(const ImportCall &call, unsigned n, int64_t rank) {
  SmallVector<int64_t> dims;
  const graph::Arg &arg = call.arg(n);
  if (arg.kind == ArgKind::IntList)
    dims.assign(arg.ints.begin(), arg.ints.end());
  else if (arg.kind == ArgKind::Int && !arg.varies)
    dims.push_back(arg.scalar.i);
  else if (arg.kind != ArgKind::None)
    return std::nullopt;
  for (int64_t &d : dims)
    d += d < 0 ? rank : 0;
  if (dims.empty())
    dims = llvm::to_vector(llvm::seq<int64_t>(0, rank));
  llvm::sort(dims);
  dims.erase(llvm::unique(dims), dims.end());
  for (int64_t d : dims)
    if (d < 0 || d >= rank)
      return std::nullopt;
  return dims;
}

RankedTensorType reducedType(Value input, ArrayRef<int64_t> dims) {
  SmallVector<int64_t> shape(tensorType(input).getShape());
  for (int64_t d : dims)
    shape[d] = 1;
  return tensorType(input).clone(shape);
}

/// "aten::sum" takes no dimensions, "aten::sum.dim_IntList" and "aten::amax" do.
bool reducesAll(const ir::AtenForm &form) {
  return form.aten == "aten::sum" || form.aten == "aten::mean" || form.aten == "aten::max" || form.aten == "aten::min";
}

template <typename Op> bool importReduction(ImportCall &call, const ir::AtenForm &form) {
  if (!call.isTensor(0) || call.event().results.size() != 1 || !call.hasResult(0))
    return false;
  Type stored = elementType(call.b.getContext(), call.operand(0).meta.dtype);
  Type element = computeType(call.resultType(0).getElementType());
  bool changesType = std::is_same_v<Op, ir::SumOp> || std::is_same_v<Op, ir::MeanOp>;
  if (!changesType && computeType(stored) != element)
    return false;
  if (element.isInteger(1) || (std::is_same_v<Op, ir::MeanOp> && !isa<FloatType>(element)))
    return false;
  Value input = call.value(0, element);
  auto dims = reducesAll(form) ? llvm::to_vector(llvm::seq<int64_t>(0, tensorType(input).getRank()))
                               : dimsArgument(call, 1, tensorType(input).getRank());
  if (!dims)
    return false;
  return call.write(0, Op::create(call.b, call.loc, reducedType(input, *dims), input, *dims));
}

bool importVar(ImportCall &call, const ir::AtenForm &form) {
  Type element = computeType(call.resultType(0).getElementType());
  if (!call.isTensor(0) || !isa<FloatType>(element))
    return false;
  Value input = call.value(0, element);
  auto dims = dimsArgument(call, 1, tensorType(input).getRank());
  std::optional<double> correction = call.isNone(2) ? 1.0 : call.number(2);
  if (!dims || !correction)
    return false;
  RankedTensorType type = reducedType(input, *dims);
  auto op = ir::VarOp::create(call.b, call.loc, type, type, input, call.b.getDenseI64ArrayAttr(*dims),
                              call.b.getF64FloatAttr(*correction));
  if (form.aten == "aten::std.correction")
    return call.write(0, makeElementwise(call.b, call.loc, "terra.sqrt", {op.getVariance()}));
  return call.write(0, op.getVariance()) && (call.event().results.size() < 2 || call.write(1, op.getMean()));
}

template <typename Op> bool importSoftmax(ImportCall &call, const ir::AtenForm &) {
  if (!call.isTensor(0) || !call.hasResult(0))
    return false;
  Value input = call.value(0, computeType(call.resultType(0).getElementType()));
  auto dim = dimsArgument(call, 1, tensorType(input).getRank());
  if (!dim || dim->size() != 1 || !isa<FloatType>(tensorType(input).getElementType()))
    return false;
  return call.write(0, Op::create(call.b, call.loc, input.getType(), input, dim->front()));
}

template <typename Op> bool importSoftmaxBackward(ImportCall &call, const ir::AtenForm &) {
  if (!call.isTensor(0) || !call.isTensor(1) || !call.hasResult(0))
    return false;
  Type element =
      computeType(call.operand(1).meta.dtype == DType::Float64 ? Type(call.b.getF64Type()) : Type(call.b.getF32Type()));
  Value grad = call.value(0, element), output = call.value(1, element);
  auto dim = dimsArgument(call, 2, tensorType(output).getRank());
  if (!dim || dim->size() != 1 || grad.getType() != output.getType())
    return false;
  return call.write(0, Op::create(call.b, call.loc, output.getType(), grad, output, dim->front()));
}

/// The tensor argument `n` converted; null when absent.
Value optionalValue(ImportCall &call, unsigned n, Type element) {
  return call.isTensor(n) ? call.value(n, element) : Value();
}

/// Statistics of a layer norm: the input's sizes with 1 in the normalised dimensions.
bool importLayerNorm(ImportCall &call, const ir::AtenForm &) {
  auto eps = call.number(4);
  if (!call.isTensor(0) || call.arg(1).kind != ArgKind::IntList || !eps || call.event().results.size() != 3)
    return false;
  Type element = computeType(call.resultType(0).getElementType());
  if (!isa<FloatType>(element))
    return false;
  Value input = call.value(0, element);
  int64_t rank = tensorType(input).getRank(), axes = int64_t(call.arg(1).ints.size());
  RankedTensorType stats = reducedType(input, llvm::to_vector(llvm::seq(rank - axes, rank)));
  auto op = ir::LayerNormOp::create(call.b, call.loc, input.getType(), stats, stats, input,
                                    optionalValue(call, 2, element), optionalValue(call, 3, element),
                                    call.b.getI64IntegerAttr(axes), call.b.getF64FloatAttr(*eps));
  return call.write(0, op.getResult()) && call.write(1, op.getMean()) && call.write(2, op.getRstd());
}

bool importLayerNormBackward(ImportCall &call, const ir::AtenForm &) {
  for (unsigned n : {0, 1, 3, 4})
    if (!call.isTensor(n))
      return false;
  if (call.arg(2).kind != ArgKind::IntList || call.event().results.size() != 3)
    return false;
  Type element = computeType(elementType(call.b.getContext(), call.operand(1).meta.dtype));
  if (!isa<FloatType>(element))
    return false;
  Value input = call.value(1, element);
  int64_t rank = tensorType(input).getRank(), axes = int64_t(call.arg(2).ints.size());
  RankedTensorType affine = reducedType(input, llvm::to_vector(llvm::seq<int64_t>(0, rank - axes)));
  auto op = ir::LayerNormBackwardOp::create(call.b, call.loc, input.getType(), affine, affine, call.value(0, element),
                                            input, call.value(3, element), call.value(4, element),
                                            optionalValue(call, 5, element), call.b.getI64IntegerAttr(axes));
  for (unsigned i = 0; i < 3; ++i)
    if (call.hasResult(i) && !call.write(i, op.getResult(i)))
      return false;
  return true;
}

/// old * (1 - momentum) + momentum * fresh, in place over argument `n`.
bool updateRunning(ImportCall &call, unsigned n, Value fresh, double momentum, Type element) {
  auto constant = [&](double x) { return makeConstant(call.b, call.loc, x, element); };
  auto make = [&](StringRef name, ValueRange x) { return makeElementwise(call.b, call.loc, name, x); };
  Value old = call.value(n, element);
  RankedTensorType type = tensorType(old);
  fresh = ir::ReshapeOp::create(call.b, call.loc, type, fresh);
  return call.writeArgument(n, make("terra.add", {make("terra.mul", {fresh, constant(momentum)}),
                                                  make("terra.mul", {old, constant(1 - momentum)})}));
}

/// Batch norm with the running statistics: elementwise; the other two results are empty.
bool importBatchNormInference(ImportCall &call, double eps) {
  Type element = computeType(call.resultType(0).getElementType());
  if (!call.isTensor(3) || !call.isTensor(4) || !isa<FloatType>(element))
    return false;
  for (unsigned i : {1, 2})
    if (call.hasResult(i) && call.event().results[i].meta.numel() != 0)
      return false;
  auto make = [&](StringRef name, ValueRange x) { return makeElementwise(call.b, call.loc, name, x); };
  Value input = call.value(0, element);
  SmallVector<int64_t> shape(tensorType(input).getRank(), 1);
  if (shape.size() < 2)
    return false;
  shape[1] = tensorType(input).getDimSize(1);
  auto channels = [&](unsigned n) -> Value {
    return ir::ReshapeOp::create(call.b, call.loc, RankedTensorType::get(shape, element), call.value(n, element));
  };
  Value rstd = make("terra.rsqrt", {make("terra.add", {channels(4), makeConstant(call.b, call.loc, eps, element)})});
  Value y = make("terra.mul", {make("terra.sub", {input, channels(3)}), rstd});
  y = call.isTensor(1) ? make("terra.mul", {y, channels(1)}) : y;
  y = call.isTensor(2) ? make("terra.add", {y, channels(2)}) : y;
  return call.write(0, y);
}

bool importBatchNorm(ImportCall &call, const ir::AtenForm &) {
  auto training = call.boolean(5);
  auto momentum = call.number(6), eps = call.number(7);
  if (!call.isTensor(0) || !training || !momentum || !eps || call.event().results.size() != 3)
    return false;
  if (!*training)
    return importBatchNormInference(call, *eps);
  Type element = computeType(call.resultType(0).getElementType());
  // The schema does not say that the statistics are written: only if the recording knows it, the order is safe.
  for (unsigned n : {3, 4})
    if (call.isTensor(n) && !call.operand(n).written)
      return false;
  Value input = call.value(0, element);
  int64_t rank = tensorType(input).getRank();
  if (rank < 2 || !isa<FloatType>(element))
    return false;
  SmallVector<int64_t> dims = llvm::to_vector(llvm::seq<int64_t>(0, rank));
  dims.erase(dims.begin() + 1);
  RankedTensorType stats = reducedType(input, dims);
  auto op = ir::BatchNormOp::create(call.b, call.loc, input.getType(), stats, stats, stats, input,
                                    optionalValue(call, 1, element), optionalValue(call, 2, element),
                                    call.b.getF64FloatAttr(*eps));
  if (!call.write(0, op.getResult()) || !call.write(1, op.getMean()) || !call.write(2, op.getRstd()))
    return false;
  return (!call.isTensor(3) || updateRunning(call, 3, op.getMean(), *momentum, element)) &&
         (!call.isTensor(4) || updateRunning(call, 4, op.getVariance(), *momentum, element));
}

bool importBatchNormBackward(ImportCall &call, const ir::AtenForm &) {
  auto training = call.boolean(7);
  for (unsigned n : {0, 1, 5, 6})
    if (!call.isTensor(n))
      return false;
  if (!training || !*training || call.event().results.size() != 3)
    return false;
  Type element = computeType(elementType(call.b.getContext(), call.operand(1).meta.dtype));
  Value input = call.value(1, element);
  SmallVector<int64_t> dims = llvm::to_vector(llvm::seq<int64_t>(0, tensorType(input).getRank()));
  dims.erase(dims.begin() + 1);
  RankedTensorType stats = reducedType(input, dims);
  auto op =
      ir::BatchNormBackwardOp::create(call.b, call.loc, input.getType(), stats, stats, call.value(0, element), input,
                                      call.value(5, element), call.value(6, element), optionalValue(call, 2, element));
  for (unsigned i = 0; i < 3; ++i)
    if (call.hasResult(i) && !call.write(i, op.getResult(i)))
      return false;
  return true;
}

/// What both directions of the negative log likelihood of rows × classes begin with.
struct NllLoss {
  Type element;
  int64_t rows = 0;
  Value used; ///< rows × 1: the target is not the one that is ignored
  Value atTarget; ///< rows × classes

  static Value make(ImportCall &call, StringRef name, ValueRange x) {
    return makeElementwise(call.b, call.loc, name, x);
  }
  Value column(ImportCall &call, Value x) const {
    return ir::ReshapeOp::create(call.b, call.loc, tensorType(x).clone({rows, 1}), x);
  }
  Value number(ImportCall &call, double n, Type type) const { return makeConstant(call.b, call.loc, n, type); }

  /// Arguments: the log-probabilities, the targets, no weights; the index to ignore. A comparison instead of a gather or a
  /// scatter, so that it fuses.
  static std::optional<NllLoss> of(ImportCall &call, unsigned input, unsigned target, unsigned ignore) {
    auto ignored = call.integer(ignore);
    bool plain = call.isTensor(input) && call.isTensor(target) && call.isNone(target + 1) && ignored;
    if (!plain || call.operand(input).meta.rank() != 2 || call.operand(target).meta.dtype != DType::Int64)
      return std::nullopt;
    NllLoss loss;
    loss.element = computeType(call.resultType(0).getElementType());
    if (!isa<FloatType>(loss.element))
      return std::nullopt;
    Type i64 = call.b.getI64Type();
    int64_t classes = call.operand(input).meta.sizes()[1];
    loss.rows = call.operand(input).meta.sizes()[0];
    Value index =
        ir::IotaOp::create(call.b, call.loc, RankedTensorType::get({1, classes}, i64), call.b.getI64IntegerAttr(1));
    Value column = loss.column(call, call.value(target));
    loss.used = make(call, "terra.ne", {column, loss.number(call, double(*ignored), i64)});
    Value known = make(call, "terra.where", {loss.used, column, loss.number(call, -1, i64)});
    loss.atTarget = make(call, "terra.eq", {known, index});
    return loss;
  }
};

/// Targets that are no classes raise: runtime/Guards.h looks at them before the kernels run.
bool importNllLossForward(ImportCall &call, const ir::AtenForm &) {
  auto reduction = call.integer(3);
  if (!reduction || *reduction == 0 || !call.hasResult(0) || !call.hasResult(1) || !call.operand(1).meta.isContiguous())
    return false;
  std::optional<NllLoss> loss = NllLoss::of(call, 0, 1, 4);
  if (!loss)
    return false;
  auto make = [&](StringRef name, ValueRange x) { return NllLoss::make(call, name, x); };
  auto sum = [&](Value x, ArrayRef<int64_t> dims) -> Value {
    return ir::SumOp::create(call.b, call.loc, reducedType(x, dims), x, call.b.getDenseI64ArrayAttr(dims));
  };
  auto number = [&](double n) { return loss->number(call, n, loss->element); };
  Value total = sum(make("terra.where", {loss->used, number(1), number(0)}), {0, 1});
  Value picked = sum(make("terra.where", {loss->atTarget, call.value(0, loss->element), number(0)}), {1});
  Value result = make("terra.neg", {sum(picked, {0, 1})});
  if (*reduction == 1)
    result = make("terra.div", {result, total});
  return call.write(0, result) && call.write(1, total);
}

/// grad * -1/total at the target's class, 0 elsewhere.
bool importNllLossBackward(ImportCall &call, const ir::AtenForm &) {
  auto reduction = call.integer(4);
  if (!call.isTensor(0) || !call.isTensor(6) || !reduction)
    return false;
  std::optional<NllLoss> loss = NllLoss::of(call, 1, 2, 5);
  if (!loss)
    return false;
  auto make = [&](StringRef name, ValueRange x) { return NllLoss::make(call, name, x); };
  Value grad = call.value(0, loss->element);
  if (tensorType(grad).getRank() == 1)
    grad = loss->column(call, grad);
  grad = make("terra.neg", {grad});
  if (*reduction == 1)
    grad = make("terra.div", {grad, call.value(6, loss->element)});
  return call.write(0, make("terra.where", {loss->atTarget, grad, loss->number(call, 0, loss->element)}));
}

bool importNllLoss(ImportCall &call, const ir::AtenForm &form) {
  return call.event().op->name == "aten::nll_loss_forward" ? importNllLossForward(call, form)
                                                           : importNllLossBackward(call, form);
}

using ImportFn = bool (*)(ImportCall &, const ir::AtenForm &);

ImportFn importerOf(StringRef op) {
  return llvm::StringSwitch<ImportFn>(op)
      .Case(ir::SumOp::getOperationName(), importReduction<ir::SumOp>)
      .Case(ir::MaxOp::getOperationName(), importReduction<ir::MaxOp>)
      .Case(ir::MinOp::getOperationName(), importReduction<ir::MinOp>)
      .Case(ir::MeanOp::getOperationName(), importReduction<ir::MeanOp>)
      .Case(ir::VarOp::getOperationName(), importVar)
      .Case(ir::SoftmaxOp::getOperationName(), importSoftmax<ir::SoftmaxOp>)
      .Case(ir::SafeSoftmaxOp::getOperationName(), importSoftmax<ir::SafeSoftmaxOp>)
      .Case(ir::LogSoftmaxOp::getOperationName(), importSoftmax<ir::LogSoftmaxOp>)
      .Case(ir::SoftmaxBackwardOp::getOperationName(), importSoftmaxBackward<ir::SoftmaxBackwardOp>)
      .Case(ir::LogSoftmaxBackwardOp::getOperationName(), importSoftmaxBackward<ir::LogSoftmaxBackwardOp>)
      .Case(ir::LayerNormOp::getOperationName(), importLayerNorm)
      .Case(ir::LayerNormBackwardOp::getOperationName(), importLayerNormBackward)
      .Case(ir::BatchNormOp::getOperationName(), importBatchNorm)
      .Case(ir::BatchNormBackwardOp::getOperationName(), importBatchNormBackward)
      .Case(ir::IotaOp::getOperationName(), importNllLoss)
      .Default(nullptr);
}

} // namespace

bool importStructured(ImportCall &call, const ir::AtenForm &form) {
  ImportFn import = importerOf(form.op);
  return import && import(call, form);
}

} // namespace terra::passes
