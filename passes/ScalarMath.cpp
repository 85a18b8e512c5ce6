#include "passes/ScalarMath.h"

#include "graph/dialect/Terra.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;

namespace terra::passes {

namespace {
bool isUnsigned(Type element) { return element.isUnsignedInteger() || element.isInteger(1); }
arith::FastMathFlags contract() { return arith::FastMathFlags::contract; }
} // namespace

Type ScalarMath::registerType(Type element) {
  return element.isUnsignedInteger() ? IntegerType::get(element.getContext(), element.getIntOrFloatBitWidth())
                                     : element;
}

Type ScalarMath::memoryType(Type element) {
  return element.isInteger(1) ? IntegerType::get(element.getContext(), 8) : registerType(element);
}

Value ScalarMath::constant(double number, Type element) {
  if (auto type = dyn_cast<FloatType>(element)) {
    APFloat value(number);
    bool lost;
    value.convert(type.getFloatSemantics(), APFloat::rmNearestTiesToEven, &lost);
    return arith::ConstantOp::create(b, loc, FloatAttr::get(type, value));
  }
  return integerConstant(element.isInteger(1) ? number != 0 : int64_t(number), element);
}

Value ScalarMath::integerConstant(int64_t number, Type element) {
  if (isa<FloatType>(element))
    return constant(double(number), element);
  Type type = registerType(element);
  APInt value(64, uint64_t(element.isInteger(1) ? number != 0 : number), true);
  return arith::ConstantOp::create(b, loc, b.getIntegerAttr(type, value.trunc(type.getIntOrFloatBitWidth())));
}

//===- Short forms ------------------------------------------------------------------------------------------------===//

Value ScalarMath::add(Value x, Value y) { return arith::AddFOp::create(b, loc, x, y, contract()); }
Value ScalarMath::sub(Value x, Value y) { return arith::SubFOp::create(b, loc, x, y, contract()); }
Value ScalarMath::mul(Value x, Value y) { return arith::MulFOp::create(b, loc, x, y, contract()); }
Value ScalarMath::div(Value x, Value y) { return arith::DivFOp::create(b, loc, x, y, contract()); }
Value ScalarMath::fma(Value x, Value y, Value z) {
  return LLVM::FMAOp::create(b, loc, x.getType(), ValueRange{x, y, z});
}
Value ScalarMath::equal(Value x, Value y) { return arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OEQ, x, y); }
Value ScalarMath::either(Value x, Value y) { return arith::OrIOp::create(b, loc, x, y); }
Value ScalarMath::less(Value x, Value y) { return arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OLT, x, y); }
Value ScalarMath::select(Value c, Value x, Value y) { return arith::SelectOp::create(b, loc, c, x, y); }
Value ScalarMath::fabs(Value x) { return LLVM::FAbsOp::create(b, loc, x.getType(), x); }
Value ScalarMath::copysign(Value m, Value s) { return LLVM::CopySignOp::create(b, loc, m.getType(), m, s); }

//===- Conversion -------------------------------------------------------------------------------------------------===//

Value ScalarMath::castToInteger(Value x, Type from, IntegerType to) {
  Type target = registerType(to);
  if (isa<FloatType>(from)) {
    // As C++ does it in steps: small integers take the low bits of a wider one.
    Type wide = to.getWidth() < 32 ? b.getI32Type() : target;
    if (from.isF16() || from.isBF16())
      x = arith::ExtFOp::create(b, loc, b.getF32Type(), x);
    x = arith::FPToSIOp::create(b, loc, wide, x);
    return wide == target ? x : Value(arith::TruncIOp::create(b, loc, target, x));
  }
  unsigned have = from.getIntOrFloatBitWidth(), want = to.getWidth();
  if (have == want)
    return x;
  if (have > want)
    return arith::TruncIOp::create(b, loc, target, x);
  if (isUnsigned(from))
    return arith::ExtUIOp::create(b, loc, target, x);
  return arith::ExtSIOp::create(b, loc, target, x);
}

Value ScalarMath::cast(Value x, Type from, Type to) {
  if (from == to)
    return x;
  if (to.isInteger(1)) {
    Value zero = integerConstant(0, from);
    if (isa<FloatType>(from))
      return arith::CmpFOp::create(b, loc, arith::CmpFPredicate::UNE, x, zero);
    return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, x, zero);
  }
  if (auto integer = dyn_cast<IntegerType>(to))
    return castToInteger(x, from, integer);
  if (!isa<FloatType>(from)) {
    // Through f32 for the halves, as eager rounds.
    Type target = to.isF64() ? to : Type(b.getF32Type());
    Value wide = isUnsigned(from) ? Value(arith::UIToFPOp::create(b, loc, target, x))
                                  : Value(arith::SIToFPOp::create(b, loc, target, x));
    return cast(wide, target, to);
  }
  unsigned have = from.getIntOrFloatBitWidth(), want = to.getIntOrFloatBitWidth();
  if (have < want)
    return arith::ExtFOp::create(b, loc, to, x);
  if (have > want && (have == 32 || want == 32))
    return arith::TruncFOp::create(b, loc, to, x);
  return cast(cast(x, from, b.getF32Type()), b.getF32Type(), to); // f64 and halves, bf16 and f16 meet in f32
}

//===- Primitives -------------------------------------------------------------------------------------------------===//

Value ScalarMath::primitive(Operation *op, Type element, ValueRange x) {
  if (isa<ir::WhereOp>(op))
    return select(x[0], x[1], x[2]);
  if (x.size() == 2)
    return binary(op, element, x[0], x[1]);
  return x.size() == 1 ? unary(op, element, x[0]) : Value();
}

Value ScalarMath::compare(Operation *op, Type element, Value x, Value y) {
  using F = arith::CmpFPredicate;
  using I = arith::CmpIPredicate;
  struct Predicates {
    F f;
    I s, u;
  };
  auto p = llvm::TypeSwitch<Operation *, Predicates>(op)
               .Case<ir::EqOp>([](auto) { return Predicates{F::OEQ, I::eq, I::eq}; })
               .Case<ir::NeOp>([](auto) { return Predicates{F::UNE, I::ne, I::ne}; })
               .Case<ir::LtOp>([](auto) { return Predicates{F::OLT, I::slt, I::ult}; })
               .Case<ir::LeOp>([](auto) { return Predicates{F::OLE, I::sle, I::ule}; })
               .Case<ir::GtOp>([](auto) { return Predicates{F::OGT, I::sgt, I::ugt}; })
               .Default([](Operation *) { return Predicates{F::OGE, I::sge, I::uge}; });
  if (isa<FloatType>(element))
    return arith::CmpFOp::create(b, loc, p.f, x, y);
  return arith::CmpIOp::create(b, loc, isUnsigned(element) ? p.u : p.s, x, y);
}

/// c10::div_floor_floating
Value ScalarMath::floorDiv(Value x, Value y) {
  Type type = x.getType();
  Value zero = constant(0, type);
  auto differs = [&](Value a, Value c) { return arith::CmpFOp::create(b, loc, arith::CmpFPredicate::UNE, a, c); };
  Value mod = arith::RemFOp::create(b, loc, x, y);
  Value quotient = arith::DivFOp::create(b, loc, arith::SubFOp::create(b, loc, x, mod), y);
  Value signs = arith::XOrIOp::create(b, loc, less(y, zero), less(mod, zero));
  Value lower = arith::AndIOp::create(b, loc, differs(mod, zero), signs);
  quotient = select(lower, arith::SubFOp::create(b, loc, quotient, constant(1, type)), quotient);
  Value floor = LLVM::FFloorOp::create(b, loc, type, quotient);
  Value up = less(constant(0.5, type), arith::SubFOp::create(b, loc, quotient, floor));
  floor = select(up, arith::AddFOp::create(b, loc, floor, constant(1, type)), floor);
  Value exact = arith::DivFOp::create(b, loc, x, y);
  Value result = select(differs(quotient, zero), floor, copysign(zero, exact));
  return select(arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OEQ, y, zero), exact, result);
}

Value ScalarMath::remainder(Value x, Value y) {
  Value zero = constant(0, x.getType());
  Value mod = arith::RemFOp::create(b, loc, x, y);
  Value nonZero = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::UNE, mod, zero);
  Value signs = arith::XOrIOp::create(b, loc, less(y, zero), less(mod, zero));
  return select(arith::AndIOp::create(b, loc, nonZero, signs), arith::AddFOp::create(b, loc, mod, y), mod);
}

Value ScalarMath::binary(Operation *op, Type element, Value x, Value y) {
  bool isFloat = isa<FloatType>(element), isSigned = !isUnsigned(element);
  auto pick = [&](auto f, auto i) -> Value { return isFloat ? f() : i(); };
#define ARITH(F, I)                                                                                                    \
  pick([&]() -> Value { return arith::F::create(b, loc, x, y, contract()); },                                          \
       [&]() -> Value { return arith::I::create(b, loc, x, y); })
  return llvm::TypeSwitch<Operation *, Value>(op)
      .Case<ir::AddOp>([&](auto) { return ARITH(AddFOp, AddIOp); })
      .Case<ir::SubOp>([&](auto) { return ARITH(SubFOp, SubIOp); })
      .Case<ir::MulOp>([&](auto) { return ARITH(MulFOp, MulIOp); })
      .Case<ir::MaximumOp>([&](auto) { return isSigned ? ARITH(MaximumFOp, MaxSIOp) : ARITH(MaximumFOp, MaxUIOp); })
      .Case<ir::MinimumOp>([&](auto) { return isSigned ? ARITH(MinimumFOp, MinSIOp) : ARITH(MinimumFOp, MinUIOp); })
      .Case<ir::DivOp>([&](auto) { return isFloat ? div(x, y) : Value(); })
      .Case<ir::FloorDivOp>([&](auto) { return isFloat ? floorDiv(x, y) : Value(); })
      .Case<ir::TruncDivOp>(
          [&](auto) { return isFloat ? Value(LLVM::FTruncOp::create(b, loc, x.getType(), div(x, y))) : Value(); })
      .Case<ir::RemainderOp>([&](auto) { return isFloat ? remainder(x, y) : Value(); })
      .Case<ir::FmodOp>([&](auto) { return isFloat ? Value(arith::RemFOp::create(b, loc, x, y)) : Value(); })
      .Case<ir::PowOp>([&](auto) -> Value {
        if (element.isF32())
          return powF32(x, y);
        return isFloat ? Value(math::PowFOp::create(b, loc, x, y)) : Value();
      })
      .Case<ir::Atan2Op>([&](auto) { return isFloat ? Value(math::Atan2Op::create(b, loc, x, y)) : Value(); })
      .Case<ir::AndOp, ir::LogicalAndOp>(
          [&](auto) { return isFloat ? Value() : Value(arith::AndIOp::create(b, loc, x, y)); })
      .Case<ir::OrOp, ir::LogicalOrOp>(
          [&](auto) { return isFloat ? Value() : Value(arith::OrIOp::create(b, loc, x, y)); })
      .Case<ir::XorOp, ir::LogicalXorOp>(
          [&](auto) { return isFloat ? Value() : Value(arith::XOrIOp::create(b, loc, x, y)); })
      .Case<ir::EqOp, ir::NeOp, ir::LtOp, ir::LeOp, ir::GtOp, ir::GeOp>(
          [&](auto) { return compare(op, element, x, y); })
      .Default([](Operation *) { return Value(); });
#undef ARITH
}

Value ScalarMath::unary(Operation *op, Type element, Value x) {
  bool isFloat = isa<FloatType>(element);
  Type type = x.getType();
  Value zero = integerConstant(0, element);
  if (isa<ir::LogicalNotOp>(op) || (isa<ir::NotOp>(op) && !isFloat))
    return arith::XOrIOp::create(b, loc, x, integerConstant(-1, element));
  if (isFloat)
    return llvm::TypeSwitch<Operation *, Value>(op)
        .Case<ir::NegOp>([&](auto) { return arith::NegFOp::create(b, loc, x); })
        .Case<ir::AbsOp>([&](auto) { return fabs(x); })
        .Case<ir::SqrtOp>([&](auto) { return LLVM::SqrtOp::create(b, loc, type, x); })
        .Case<ir::FloorOp>([&](auto) { return LLVM::FFloorOp::create(b, loc, type, x); })
        .Case<ir::CeilOp>([&](auto) { return LLVM::FCeilOp::create(b, loc, type, x); })
        .Case<ir::RoundOp>([&](auto) { return LLVM::RoundEvenOp::create(b, loc, type, x); })
        .Case<ir::TruncOp>([&](auto) { return LLVM::FTruncOp::create(b, loc, type, x); })
        .Case<ir::SignOp>([&](auto) { // 0 and NaN as eager: (0 < x) - (x < 0)
          Value positive = arith::UIToFPOp::create(b, loc, type, less(zero, x));
          return sub(positive, arith::UIToFPOp::create(b, loc, type, less(x, zero)));
        })
        .Default([&](Operation *) { return function(op, x); });
  return llvm::TypeSwitch<Operation *, Value>(op)
      .Case<ir::NegOp>([&](auto) { return arith::SubIOp::create(b, loc, zero, x); })
      .Case<ir::AbsOp>([&](auto) -> Value {
        return isUnsigned(element) ? x
                                   : Value(arith::MaxSIOp::create(b, loc, x, arith::SubIOp::create(b, loc, zero, x)));
      })
      .Case<ir::SignOp>([&](auto) -> Value {
        Value one = integerConstant(1, element);
        if (isUnsigned(element))
          return arith::MinUIOp::create(b, loc, x, one);
        return arith::MaxSIOp::create(b, loc, arith::MinSIOp::create(b, loc, x, one), integerConstant(-1, element));
      })
      .Case<ir::FloorOp, ir::CeilOp, ir::RoundOp, ir::TruncOp>([&](auto) { return x; })
      .Default([](Operation *) { return Value(); });
}

Value ScalarMath::function(Operation *op, Value x) {
  if (x.getType().isF32())
    return functionF32(op, x);
  return llvm::TypeSwitch<Operation *, Value>(op)
      .Case<ir::ExpOp>([&](auto) { return math::ExpOp::create(b, loc, x); })
      .Case<ir::LogOp>([&](auto) { return math::LogOp::create(b, loc, x); })
      .Case<ir::Log1pOp>([&](auto) { return math::Log1pOp::create(b, loc, x); })
      .Case<ir::TanhOp>([&](auto) { return math::TanhOp::create(b, loc, x); })
      .Case<ir::ErfOp>([&](auto) { return math::ErfOp::create(b, loc, x); })
      .Case<ir::Exp2Op>([&](auto) { return math::Exp2Op::create(b, loc, x); })
      .Case<ir::Expm1Op>([&](auto) { return math::ExpM1Op::create(b, loc, x); })
      .Case<ir::Log2Op>([&](auto) { return math::Log2Op::create(b, loc, x); })
      .Case<ir::Log10Op>([&](auto) { return math::Log10Op::create(b, loc, x); })
      .Case<ir::SinOp>([&](auto) { return math::SinOp::create(b, loc, x); })
      .Case<ir::CosOp>([&](auto) { return math::CosOp::create(b, loc, x); })
      .Case<ir::TanOp>([&](auto) { return math::TanOp::create(b, loc, x); })
      .Case<ir::AtanOp>([&](auto) { return math::AtanOp::create(b, loc, x); })
      .Default([](Operation *) { return Value(); });
}

Value ScalarMath::plus(Type element, Value x, Value y) {
  return isa<FloatType>(element) ? add(x, y) : Value(arith::AddIOp::create(b, loc, x, y));
}

//===- Reductions -------------------------------------------------------------------------------------------------===//

namespace {
bool usesKeys(Operation *op, Type element) { return isa<FloatType>(element) && isa<ir::MaxOp, ir::MinOp>(op); }
} // namespace

Value ScalarMath::combine(Operation *op, Type element, Value a, Value x) {
  if (usesKeys(op, element)) // keeps NaN
    return isa<ir::MaxOp>(op) ? Value(arith::MaximumFOp::create(b, loc, a, x))
                              : Value(arith::MinimumFOp::create(b, loc, a, x));
  Value both = join(op, element, a, x, false);
  return isa<ir::MaxOfNumbersOp>(op) ? Value(LLVM::FreezeOp::create(b, loc, both)) : both;
}

Value ScalarMath::identity(Operation *op, Type element) {
  if (isa<ir::SumOp>(op))
    return integerConstant(0, element);
  bool isMax = isa<ir::MaxOp, ir::MaxOfNumbersOp>(op);
  if (isa<FloatType>(element))
    return constant(isMax ? -std::numeric_limits<double>::infinity() : std::numeric_limits<double>::infinity(),
                    element);
  unsigned width = element.getIntOrFloatBitWidth();
  APInt value = isUnsigned(element) ? (isMax ? APInt::getMinValue(width) : APInt::getMaxValue(width))
                                    : (isMax ? APInt::getSignedMinValue(width) : APInt::getSignedMaxValue(width));
  return arith::ConstantOp::create(b, loc, b.getIntegerAttr(registerType(element), value));
}

/// The bits of x as an integer that grows with x: those of negative numbers inverted below the sign. Its own inverse.
Value ScalarMath::orderKey(Value bits) {
  Type type = bits.getType();
  unsigned width = type.getIntOrFloatBitWidth();
  auto integer = [&](const APInt &value) { return arith::ConstantOp::create(b, loc, b.getIntegerAttr(type, value)); };
  Value sign = arith::ShRSIOp::create(b, loc, bits, integer(APInt(width, width - 1)));
  Value mask = arith::AndIOp::create(b, loc, sign, integer(APInt::getSignedMaxValue(width)));
  return arith::XOrIOp::create(b, loc, bits, mask);
}

Value ScalarMath::start(Operation *op, Type element) {
  Value value = identity(op, element);
  if (!usesKeys(op, element))
    return value;
  Type integer = b.getIntegerType(element.getIntOrFloatBitWidth());
  return orderKey(arith::BitcastOp::create(b, loc, integer, value));
}

Value ScalarMath::step(Operation *op, Type element, Value a, Value x) {
  if (!usesKeys(op, element))
    return join(op, element, a, x, true);
  // NaN wins: for a maximum it is a key above that of infinity, for a minimum one below that of -infinity.
  unsigned width = element.getIntOrFloatBitWidth();
  Type integer = b.getIntegerType(width);
  APInt nan = llvm::APFloat::getQNaN(mlir::cast<FloatType>(element).getFloatSemantics()).bitcastToAPInt();
  if (isa<ir::MinOp>(op))
    nan = ~nan;
  Value isNan = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::UNO, x, x);
  Value key = orderKey(arith::BitcastOp::create(b, loc, integer, x));
  key = select(isNan, arith::ConstantOp::create(b, loc, b.getIntegerAttr(integer, nan)), key);
  return join(op, element, a, key, true);
}

Value ScalarMath::join(Operation *op, Type element, Value a, Value x, bool reassociate) {
  if (isa<ir::SumOp>(op)) {
    if (!isa<FloatType>(element))
      return arith::AddIOp::create(b, loc, a, x);
    auto flags = reassociate ? contract() | arith::FastMathFlags::reassoc : contract();
    return arith::AddFOp::create(b, loc, a, x, flags);
  }
  if (isa<ir::MaxOfNumbersOp>(op) && isa<FloatType>(element))
    return arith::MaxNumFOp::create(b, loc, a, x, arith::FastMathFlags::nnan | arith::FastMathFlags::nsz);
  bool isMax = isa<ir::MaxOp, ir::MaxOfNumbersOp>(op);
  if (isUnsigned(element) && !usesKeys(op, element))
    return isMax ? Value(arith::MaxUIOp::create(b, loc, a, x)) : Value(arith::MinUIOp::create(b, loc, a, x));
  return isMax ? Value(arith::MaxSIOp::create(b, loc, a, x)) : Value(arith::MinSIOp::create(b, loc, a, x));
}

Value ScalarMath::finish(Operation *op, Type element, Value a) {
  return usesKeys(op, element) ? Value(arith::BitcastOp::create(b, loc, element, orderKey(a))) : a;
}

} // namespace terra::passes
