// sin, cos, tan, pow, log2 and log10 of f32, with f64 where f32 has too few bits. Special values are libm's.
#include "passes/ScalarMath.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

#include <limits>

using namespace mlir;

namespace terra::passes {

namespace {
constexpr double kInfinity = std::numeric_limits<double>::infinity();
} // namespace

Value ScalarMath::f64(double number) { return constant(number, b.getF64Type()); }

/// The nearest integer of an f64 below 2^51; `lowBits` are its low 32 bits. NaN stays, with some bits.
Value ScalarMath::roundWithMagic(Value x, Value &lowBits) {
  Value magic = f64(6755399441055744.0); // 1.5 * 2^52
  Value shifted = arith::AddFOp::create(b, loc, x, magic);
  lowBits = arith::TruncIOp::create(b, loc, b.getI32Type(), arith::BitcastOp::create(b, loc, b.getI64Type(), shifted));
  return arith::SubFOp::create(b, loc, shifted, magic);
}

/// x = (n + f) pi/2 with |f| <= 1/2, for |x| >= 2^40: x = X 2^(32 j) with X of 24 bits in [2^8, 2^40). Of 2/pi 2^(32 j) only what
/// is below 2^17 matters (the rest times X is a multiple of 4); in parts of 29 bits the products with X are exact.
/// Returns f pi/2, and n.
std::pair<Value, Value> ScalarMath::reduceLargeAngle(Value x) {
  static constexpr double parts[3][4] = {
      {0x1.836e4e4p+16, 0x1.054a7fp-14, 0x1.3abe8fap-43, 0x1.34ddc0cp-72},
      {0x1.529fc2p+12, 0x1.d5f47d4p-14, 0x1.a6ee06cp-43, 0x1.b14acc9p-71},
      {0x1.57d1f53p+16, 0x1.377036cp-14, 0x1.8a5664fp-42, 0x1.0e41078p-74},
  };
  Value magnitude = fabs(x);
  Value second = less(magnitude, f64(0x1p104)), first = less(magnitude, f64(0x1p72));
  auto pick = [&](double a, double c, double e) { return select(first, f64(a), select(second, f64(c), f64(e))); };
  Value scaled = mul(x, pick(0x1p-32, 0x1p-64, 0x1p-96));
  auto product = [&](int i) {
    return arith::MulFOp::create(b, loc, scaled, pick(parts[0][i], parts[1][i], parts[2][i]));
  };
  auto modulo4 = [&](Value p) -> Value {
    Value quarter = LLVM::RoundEvenOp::create(b, loc, p.getType(), mul(p, f64(0.25)));
    return fma(quarter, f64(-4.0), p);
  };
  Value p0 = modulo4(product(0)), p1 = modulo4(product(1)), p2 = product(2), p3 = product(3);
  Value n = LLVM::RoundEvenOp::create(b, loc, p0.getType(), add(add(p0, p1), p2));
  Value f = p0;
  for (Value term : {Value(arith::NegFOp::create(b, loc, n)), p1, p2, p3})
    f = arith::AddFOp::create(b, loc, f, term);
  return {mul(f, f64(1.5707963267948966)), n};
}

/// x = n pi/2 + r with |r| <= pi/4: r as f32 and the low bits of n.
std::pair<Value, Value> ScalarMath::reduceAngle(Value x) {
  Value wide = arith::ExtFOp::create(b, loc, b.getF64Type(), x);
  Value quadrant, n = roundWithMagic(mul(wide, f64(0.63661977236758134)), quadrant);
  Value r = fma(n, f64(-1.5707963267948966), wide);
  r = fma(n, f64(-6.123233995736766e-17), r);
  Value isSmall = less(fabs(wide), f64(0x1p40));
  auto [largeR, largeN] = reduceLargeAngle(wide);
  Value largeQuadrant;
  roundWithMagic(largeN, largeQuadrant);
  r = select(isSmall, r, largeR);
  return {arith::TruncFOp::create(b, loc, b.getF32Type(), r), select(isSmall, quadrant, largeQuadrant)};
}

Value ScalarMath::trigonometricF32(Angle function, Value x) {
  auto [r, quadrant] = reduceAngle(x);
  Value s = mul(r, r);
  Value sine = polynomial(s, {-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1});
  sine = fma(mul(sine, s), r, r);
  Value cosine = polynomial(s, {2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2, -0.5, 1.0});
  if (function == Angle::Cos)
    quadrant = arith::AddIOp::create(b, loc, quadrant, i32(1));
  auto bit = [&](int32_t mask) {
    Value masked = arith::AndIOp::create(b, loc, quadrant, i32(mask));
    return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, masked, i32(0));
  };
  Value odd = bit(1), y;
  if (function == Angle::Tan) {
    Value below = select(odd, sine, cosine), above = select(odd, cosine, sine);
    y = div(select(odd, arith::NegFOp::create(b, loc, above), above), below);
  } else {
    y = select(odd, cosine, sine);
    y = select(bit(2), arith::NegFOp::create(b, loc, y), y);
  }
  return function == Angle::Cos ? y : select(equal(x, f32(0.0f)), x, y); // the sign of zero
}

/// For positive finite x: x = m 2^k with m in [sqrt(1/2), sqrt(2)], log m by the series of artanh.
Value ScalarMath::log2F64(Value x) {
  Type i64 = b.getI64Type();
  auto word = [&](int64_t n) { return arith::ConstantOp::create(b, loc, b.getI64IntegerAttr(n)); };
  Value pattern = arith::BitcastOp::create(b, loc, i64, x);
  Value above = arith::SubIOp::create(b, loc, pattern, word(0x3fe6a09e667f3bcd));
  Value k = arith::ShRSIOp::create(b, loc, above, word(52));
  Value m = arith::SubIOp::create(b, loc, pattern, arith::ShLIOp::create(b, loc, k, word(52)));
  m = arith::BitcastOp::create(b, loc, b.getF64Type(), m);
  k = arith::SIToFPOp::create(b, loc, b.getF64Type(), arith::TruncIOp::create(b, loc, b.getI32Type(), k));
  Value s = div(sub(m, f64(1)), add(m, f64(1)));
  Value p = polynomial(mul(s, s), {1.0 / 15, 1.0 / 13, 1.0 / 11, 1.0 / 9, 1.0 / 7, 1.0 / 5, 1.0 / 3, 1.0});
  return fma(mul(s, f64(2.8853900817779268)), p, k);
}

/// log2(x) * ofBase2, rounded once.
Value ScalarMath::logF32(Value x, double ofBase2) {
  Value y = mul(log2F64(arith::ExtFOp::create(b, loc, b.getF64Type(), x)), f64(ofBase2));
  y = arith::TruncFOp::create(b, loc, b.getF32Type(), y);
  Value zero = f32(0.0f), inf = f32(float(kInfinity));
  Value regular = arith::AndIOp::create(b, loc, less(zero, x), less(x, inf));
  Value invalid = select(less(x, zero), f32(std::numeric_limits<float>::quiet_NaN()), x); // NaN, inf stay
  return select(regular, y, select(equal(x, zero), f32(-float(kInfinity)), invalid));
}

/// 2^(y log2 |x|) with the product in f64, then the sign and the special cases of C's pow.
Value ScalarMath::powF32(Value x, Value y) {
  Value zero = f32(0.0f), one = f32(1.0f), inf = f32(float(kInfinity));
  Value magnitude = fabs(x);
  Value log = log2F64(arith::ExtFOp::create(b, loc, b.getF64Type(), magnitude));
  log = select(equal(magnitude, zero), f64(-kInfinity), select(equal(magnitude, inf), f64(kInfinity), log));
  Value t = arith::MulFOp::create(b, loc, arith::ExtFOp::create(b, loc, b.getF64Type(), y), log);
  Value vanishes = less(t, f64(-151.0)), hi = f64(129.0);
  Value clamped = select(less(hi, t), hi, select(vanishes, f64(0.0), t));
  Value exponent, n = roundWithMagic(clamped, exponent);
  Value r = mul(sub(clamped, n), f64(0.69314718055994531));
  Value power = timesPowerOfTwo(reducedExp(arith::TruncFOp::create(b, loc, b.getF32Type(), r)), exponent);
  power = select(vanishes, zero, power);

  auto isWhole = [&](Value v) { return equal(LLVM::FFloorOp::create(b, loc, v.getType(), v), v); };
  Value whole = isWhole(y), yes = integerConstant(1, b.getI1Type());
  Value odd = arith::AndIOp::create(b, loc, whole, arith::XOrIOp::create(b, loc, isWhole(mul(y, f32(0.5f))), yes));
  Value negative = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, bits(x), i32(0));
  Value flips = arith::AndIOp::create(b, loc, negative, odd);
  power = select(flips, arith::NegFOp::create(b, loc, power), power);
  Value finite = arith::AndIOp::create(b, loc, less(f32(-float(kInfinity)), x), less(x, zero));
  Value fractional = arith::XOrIOp::create(b, loc, whole, yes);
  Value undefined = arith::AndIOp::create(b, loc, finite, fractional);
  undefined = either(undefined, arith::CmpFOp::create(b, loc, arith::CmpFPredicate::UNO, x, y));
  power = select(undefined, f32(std::numeric_limits<float>::quiet_NaN()), power);
  Value infiniteY = arith::AndIOp::create(b, loc, equal(magnitude, one), equal(fabs(y), inf));
  return select(either(either(equal(y, zero), equal(x, one)), infiniteY), one, power);
}

} // namespace terra::passes
