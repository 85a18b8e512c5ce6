// ATen calls whose forms are expressions over elementwise ops: type promotion, then the expression.
#include "passes/ImportCall.h"

#include "passes/ExprBuilder.h"

using namespace mlir;
using terra::graph::Alias;
using terra::graph::ArgKind;
using terra::ir::Expr;

namespace terra::passes {

namespace {

//===- Type promotion (c10::promoteTypes and ResultTypeState) ---------------------------------------------------===//

int category(DType t) { return isFloatingPoint(t) ? 2 : t == DType::Bool ? 0 : t == DType::Undefined ? -1 : 1; }

DType promote(DType a, DType b) {
  if (a == b || b == DType::Undefined)
    return a;
  if (a == DType::Undefined)
    return b;
  if (category(a) != category(b))
    return category(a) > category(b) ? a : b;
  if (category(a) == 2) { // f16 and bf16 meet in f32
    bool halves = elementSize(a) == 2 && elementSize(b) == 2;
    return halves ? DType::Float32 : std::max(a, b);
  }
  if (a == DType::UInt8 || b == DType::UInt8) { // u8 with a signed type: the next wider signed one
    DType other = a == DType::UInt8 ? b : a;
    return other == DType::Int8 ? DType::Int16 : other;
  }
  return std::max(a, b);
}

/// What takes part in promotion: tensors with dimensions, 0-dim tensors, Python numbers; each only widens the next
/// by category.
struct Promotion {
  DType dims = DType::Undefined, zeroDim = DType::Undefined, number = DType::Undefined;

  static DType combine(DType higher, DType lower) {
    return category(higher) >= category(lower) ? higher : promote(higher, lower);
  }
  DType result() const { return combine(dims, combine(zeroDim, number)); }
};

bool isNumber(ArgKind kind) {
  return kind == ArgKind::NumberInt || kind == ArgKind::NumberDouble || kind == ArgKind::NumberBool;
}

void addNumber(Promotion &p, ArgKind kind) {
  bool floating = kind == ArgKind::NumberDouble || kind == ArgKind::Double || kind == ArgKind::DoubleList;
  bool boolean = kind == ArgKind::NumberBool || kind == ArgKind::Bool;
  p.number = promote(p.number, floating ? DType::Float32 : boolean ? DType::Bool : DType::Int64);
}

/// Adds the arguments of `expr`; false when one of them has no value.
bool collect(const ImportCall &call, const Expr &expr, Promotion &p) {
  for (const Expr &operand : expr.operands)
    if (!collect(call, operand, p))
      return false;
  if (expr.kind == Expr::Kind::PromotingScalar ||
      (expr.kind == Expr::Kind::Argument && isNumber(call.arg(expr.index).kind)))
    addNumber(p, call.arg(expr.index).kind);
  else if (ArgKind kind = call.arg(expr.index).kind;
           expr.kind == Expr::Kind::Argument && (kind == ArgKind::Tensor || kind == ArgKind::TensorList)) {
    if (!call.isTensor(expr.index))
      return false;
    const TensorMeta &meta = call.operand(expr.index).meta;
    DType &group = meta.rank() ? p.dims : p.zeroDim;
    group = promote(group, meta.dtype);
  }
  return true;
}

//===- Properties of an expression -------------------------------------------------------------------------------===//

bool anyOp(MLIRContext *context, const Expr &expr, llvm::function_ref<bool(RegisteredOperationName)> test) {
  if (expr.kind != Expr::Kind::Call)
    return false;
  auto name = RegisteredOperationName::lookup(expr.op, context);
  if (name && test(*name))
    return true;
  return llvm::any_of(expr.operands, [&](const Expr &e) { return anyOp(context, e, test); });
}

bool floatOnly(RegisteredOperationName name) {
  auto *e = name.getInterface<ir::Elementwise>();
  return e && e->isFloatOnly();
}

bool worksOnBool(RegisteredOperationName name) {
  auto *e = name.getInterface<ir::Elementwise>();
  return e && (e->isPredicate() || name.hasTrait<ir::WorksOnBool>());
}

Expr defaultExpr(MLIRContext *context, const ir::AtenForm &form, const ImportCall &call) {
  Expr expr;
  expr.kind = Expr::Kind::Call;
  expr.op = form.op;
  auto info = RegisteredOperationName::lookup(form.op, context);
  unsigned arity = info->getInterface<ir::Elementwise>()->getArity();
  for (unsigned i = 0; i < arity; ++i) {
    Expr argument;
    argument.kind = Expr::Kind::Argument;
    argument.index = i;
    expr.operands.push_back(argument);
  }
  return expr;
}

/// `cast(x)`: the value in its own type; the write converts it.
bool importConversion(ImportCall &call, const Expr &operand) {
  if (operand.kind == Expr::Kind::Number) {
    Type element = call.resultType(0).getElementType();
    bool predicate = element.isInteger(1);
    return call.write(0, makeConstant(call.b, call.loc, operand.number, predicate ? call.b.getI64Type() : element));
  }
  Value value = call.value(operand.index);
  if (!value)
    return false;
  if (tensorType(value).getRank() == 0 && !call.isTensor(operand.index))
    value = call.value(operand.index, call.resultType(0).getElementType());
  return call.write(0, value);
}

} // namespace

/// What the call writes is its result, or the elements of its first argument.
static bool writesOnlyResult(const ImportCall &call) {
  const graph::Event &event = call.event();
  if (unsigned elements = call.numElements()) {
    if (!event.results.empty() && event.results.size() != elements)
      return false;
    unsigned first = call.arg(0).first;
    for (unsigned i = 0; i < event.inputs.size(); ++i)
      if (event.inputs[i].written != (event.results.empty() && i >= first && i < first + elements))
        return false;
    return llvm::all_of(event.results, [](const graph::Result &r) { return r.alias == Alias::Fresh; });
  }
  if (event.results.size() != 1)
    return false;
  const graph::Result &result = event.results[0];
  return llvm::all_of(event.inputs, [&](const graph::Operand &operand) {
    return !operand.written || (result.alias == Alias::Same && &operand == &event.inputs[result.aliasOf]);
  });
}

bool importElementwise(ImportCall &call, const ir::AtenForm &form) {
  MLIRContext *context = call.b.getContext();
  if (!writesOnlyResult(call) || !call.hasResult(0))
    return false;
  Expr expr = form.hasExpr ? form.expr : defaultExpr(context, form, call);
  if (expr.op == "terra.cast")
    return importConversion(call, expr.operands.front());

  Promotion promotion;
  if (!collect(call, expr, promotion))
    return false;
  DType common = promotion.result();
  bool real = anyOp(context, expr, floatOnly);
  if (real && category(common) < 2)
    common = DType::Float32; // the default dtype; a result of another type is refused below
  if (category(common) == 0 && anyOp(context, expr, [](auto name) { return !worksOnBool(name); }))
    return false;
  if (category(common) == 1 && anyOp(context, expr, [](auto name) { return name.template hasTrait<ir::NoIntegers>(); }))
    return false;

  // The dtype that eager would give a new tensor tells whether we agree on the promotion.
  auto top = RegisteredOperationName::lookup(expr.op, context);
  auto *elementwise = top->getInterface<ir::Elementwise>();
  DType expected = elementwise && elementwise->isPredicate() ? DType::Bool : common;
  if (call.makesResult() && call.resultMeta().dtype != expected && common != DType::Undefined)
    return false;

  bool half = common == DType::Float16 || common == DType::BFloat16;
  Type element = elementType(context, half ? DType::Float32 : common == DType::Undefined ? DType::Bool : common);
  if (!element)
    return false;
  Value value = buildExpr(call.b, call.loc, expr, element, [&](const Expr &e) {
    if (e.kind == Expr::Kind::Numel)
      return makeConstant(call.b, call.loc, double(call.operand(e.index).meta.numel()), element);
    return call.value(e.index, e.kind == Expr::Kind::Condition ? Type(call.b.getI1Type()) : element);
  });
  if (!value)
    return false;
  auto type = tensorType(value);
  if (!type.getShape().empty() && type.getShape() != call.resultType(0).getShape())
    return false;
  return call.write(0, value);
}

} // namespace terra::passes
