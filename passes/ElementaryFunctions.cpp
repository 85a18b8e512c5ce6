// Functions of f32 without calls, so that loops around them vectorise. Infinities, NaN, denormals and the sign of zero come out
// as libm's.
#include "passes/ScalarMath.h"

#include "graph/dialect/Terra.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "llvm/ADT/TypeSwitch.h"

#include <limits>

using namespace mlir;

namespace terra::passes {

Value ScalarMath::f32(float number) { return arith::ConstantOp::create(b, loc, b.getF32FloatAttr(number)); }
Value ScalarMath::i32(int32_t number) { return arith::ConstantOp::create(b, loc, b.getI32IntegerAttr(number)); }
Value ScalarMath::bits(Value x) { return arith::BitcastOp::create(b, loc, b.getI32Type(), x); }
Value ScalarMath::fromBits(Value x) { return arith::BitcastOp::create(b, loc, b.getF32Type(), x); }

Value ScalarMath::polynomial(Value x, ArrayRef<double> c) {
  Value p = constant(c.front(), x.getType());
  for (double coefficient : c.drop_front())
    p = fma(p, x, constant(coefficient, x.getType()));
  return p;
}

Value ScalarMath::functionF32(Operation *op, Value x) {
  return llvm::TypeSwitch<Operation *, Value>(op)
      .Case<ir::ExpOp>([&](auto) { return expF32(x); })
      .Case<ir::Exp2Op>([&](auto) { return exp2F32(x); })
      .Case<ir::Expm1Op>([&](auto) { return expm1F32(x); })
      .Case<ir::LogOp>([&](auto) { return logF32(x); })
      .Case<ir::Log2Op>([&](auto) { return logF32(x, 1); })
      .Case<ir::Log10Op>([&](auto) { return logF32(x, 0.30102999566398119521); })
      .Case<ir::Log1pOp>([&](auto) { return log1pF32(x); })
      .Case<ir::TanhOp>([&](auto) { return tanhF32(x); })
      .Case<ir::ErfOp>([&](auto) { return erfF32(x); })
      .Case<ir::AtanOp>([&](auto) { return atanF32(x); })
      .Case<ir::SinOp>([&](auto) { return trigonometricF32(Angle::Sin, x); })
      .Case<ir::CosOp>([&](auto) { return trigonometricF32(Angle::Cos, x); })
      .Case<ir::TanOp>([&](auto) { return trigonometricF32(Angle::Tan, x); })
      .Default([](Operation *) { return Value(); });
}

/// exp(r) for |r| <= ln 2 / 2.
Value ScalarMath::reducedExp(Value r) {
  return polynomial(r, {1.37805939e-3, 8.37312452e-3, 4.16695364e-2, 1.66664720e-1, 4.99999851e-1, 1.0, 1.0});
}

/// x 2^exponent in two steps: for results that are denormal, or exponents beyond a float's.
Value ScalarMath::timesPowerOfTwo(Value x, Value exponent) {
  Value half = arith::ShRSIOp::create(b, loc, exponent, i32(1));
  Value rest = arith::SubIOp::create(b, loc, exponent, half);
  auto power = [&](Value e) {
    Value biased = arith::AddIOp::create(b, loc, e, i32(127));
    return fromBits(arith::ShLIOp::create(b, loc, biased, i32(23)));
  };
  return mul(mul(x, power(half)), power(rest));
}

/// Cody–Waite: x = n ln 2 + r, exp(r) by a polynomial, times 2^n in two steps (for denormal results).
Value ScalarMath::expF32(Value x) {
  // Beyond these bounds the result is inf or 0; comparisons keep NaN.
  Value lo = f32(-104.0f), hi = f32(89.0f), zero = f32(0.0f);
  Value vanishes = less(x, lo);
  Value clamped = select(vanishes, lo, x);
  clamped = select(less(hi, clamped), hi, clamped);
  // Adding 1.5 * 2^23 rounds to an integer, which stands in the low bits, here with the bias of two floats.
  Value magic = f32(12582912.0f + 254.0f);
  Value shifted = fma(clamped, f32(1.4426950408889634f), magic);
  Value n = sub(shifted, magic);
  Value r = fma(n, f32(-0.693145751953125f), clamped);
  r = fma(n, f32(-1.42860677e-6f), r);
  Value exponent = bits(shifted);
  Value half = arith::ShRUIOp::create(b, loc, exponent, i32(1));
  Value rest = arith::SubIOp::create(b, loc, exponent, half);
  auto power = [&](Value e) { return fromBits(arith::ShLIOp::create(b, loc, e, i32(23))); };
  Value y = mul(mul(reducedExp(r), power(half)), power(rest));
  return select(vanishes, zero, y);
}

/// As exp with n = round(x): exact for integers.
Value ScalarMath::exp2F32(Value x) {
  Value hi = f32(129.0f), zero = f32(0.0f), magic = f32(12582912.0f);
  Value vanishes = less(x, f32(-150.5f));
  Value clamped = select(less(hi, x), hi, select(vanishes, zero, x));
  Value shifted = arith::AddFOp::create(b, loc, clamped, magic);
  Value r = mul(sub(clamped, arith::SubFOp::create(b, loc, shifted, magic)), f32(0.693147181f));
  Value exponent = arith::SubIOp::create(b, loc, bits(shifted), bits(magic));
  return select(vanishes, zero, timesPowerOfTwo(reducedExp(r), exponent));
}

/// exp(r) - 1 for |r| <= ln 2 / 2.
Value ScalarMath::reducedExpm1(Value r) {
  Value p = polynomial(r, {1.97350979e-4, 1.39309070e-3, 8.33343994e-3, 4.16668020e-2, 1.66666716e-1, 4.99999970e-1});
  return fma(p, mul(r, r), r);
}

/// x = n ln 2 + r: 2^n expm1(r) + (2^n - 1), in halves so that 2^n stays finite.
Value ScalarMath::expm1F32(Value x) {
  Value lo = f32(-30.0f), hi = f32(89.0f), magic = f32(12582912.0f);
  Value clamped = select(less(hi, x), hi, select(less(x, lo), lo, x));
  Value shifted = fma(clamped, f32(1.4426950408889634f), magic);
  Value n = sub(shifted, magic);
  Value r = fma(n, f32(-0.693145751953125f), clamped);
  r = fma(n, f32(-1.42860677e-6f), r);
  Value p = reducedExpm1(r);
  Value exponent = arith::SubIOp::create(b, loc, bits(shifted), bits(magic));
  Value half = fromBits(arith::ShLIOp::create(b, loc, arith::AddIOp::create(b, loc, exponent, i32(126)), i32(23)));
  Value y = fma(p, half, arith::SubFOp::create(b, loc, half, f32(0.5f)));
  return copysign(arith::AddFOp::create(b, loc, y, y), x);
}

/// After N. Juffa: x = m 2^e with m in [2/3, 4/3], log1p(m - 1) by a polynomial.
Value ScalarMath::logF32(Value x) {
  Value denormal = less(x, f32(1.17549435e-38f));
  Value scaled = select(denormal, mul(x, f32(8388608.0f)), x);
  Value shift = select(denormal, f32(-23.0f), f32(0.0f));
  Value e = arith::AndIOp::create(b, loc, arith::SubIOp::create(b, loc, bits(scaled), i32(0x3f2aaaab)),
                                  i32(int32_t(0xff800000)));
  Value m = fromBits(arith::SubIOp::create(b, loc, bits(scaled), e));
  Value k = fma(arith::SIToFPOp::create(b, loc, b.getF32Type(), e), f32(1.19209290e-7f), shift);
  Value f = sub(m, f32(1.0f));
  Value s = mul(f, f);
  Value r = fma(f32(-0.130310059f), f, f32(0.140869141f));
  Value t = fma(f32(-0.121483132f), f, f32(0.139814854f));
  r = fma(r, s, t);
  for (float c : {-0.166846126f, 0.200120345f, -0.249996200f, 0.333331972f, -0.5f})
    r = fma(r, f, f32(c));
  r = fma(r, s, f);
  r = fma(k, f32(0.693147182f), r);
  // log(0) = -inf, log(negative) = NaN, log(inf) = inf, log(NaN) = NaN
  constexpr float inf = std::numeric_limits<float>::infinity();
  Value zero = f32(0.0f);
  Value regular = arith::AndIOp::create(b, loc, less(zero, x), less(x, f32(inf)));
  Value isZero = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OEQ, x, zero);
  Value special = select(isZero, f32(-inf), select(less(x, zero), f32(std::numeric_limits<float>::quiet_NaN()), x));
  return select(regular, r, special);
}

/// log1p(x) = log(u) * x / (u - 1) with u = 1 + x as rounded: the quotient repairs what rounding u lost.
Value ScalarMath::log1pF32(Value x) {
  Value one = f32(1.0f);
  Value u = arith::AddFOp::create(b, loc, x, one);
  Value d = arith::SubFOp::create(b, loc, u, one);
  Value tiny = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OEQ, d, f32(0.0f));
  Value logU = logF32(u);
  // Infinite u and u = 0 need no repair (and would give NaN).
  constexpr float inf = std::numeric_limits<float>::infinity();
  Value exact = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OEQ, d, x);
  Value infinite = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OEQ, u, f32(inf));
  Value repaired = mul(logU, div(x, d));
  Value plain = arith::OrIOp::create(b, loc, exact, infinite);
  return select(tiny, x, select(plain, logU, repaired));
}

/// e / (e + 2) with e = expm1(-2|x|), which is as expm1F32 but in a range that needs no halves.
Value ScalarMath::tanhF32(Value x) {
  Value magnitude = fabs(x), lo = f32(-19.0f); // where 1 is reached
  Value y = arith::NegFOp::create(b, loc, add(magnitude, magnitude));
  y = select(less(y, lo), lo, y);
  Value magic = f32(12582912.0f + 127.0f); // with the bias of a float
  Value shifted = fma(y, f32(1.4426950408889634f), magic);
  Value power = fromBits(arith::ShLIOp::create(b, loc, bits(shifted), i32(23)));
  Value n = sub(shifted, magic);
  Value r = fma(n, f32(-0.693145751953125f), y);
  r = fma(n, f32(-1.42860677e-6f), r);
  Value e = fma(reducedExpm1(r), power, sub(power, f32(1.0f)));
  return copysign(div(e, add(e, f32(2.0f))), x);
}

/// Two polynomials (minimax, fitted for this): x P(x²) below 1, one centred in [1, 3.92] above, where 1 is reached.
Value ScalarMath::erfF32(Value x) {
  Value magnitude = fabs(x), square = mul(x, x), one = f32(1.0f), end = f32(3.92f);
  Value small = polynomial(square, {7.853860006e-05, -8.010193123e-04, 5.188327748e-03, -2.685381100e-02,
                                    1.128358543e-01, -3.761262596e-01, 1.128379107e+00});
  Value clamped = select(less(end, magnitude), end, magnitude); // keeps NaN
  Value centred = fma(clamped, f32(0.6849315f), f32(-1.6849315f));
  Value large =
      polynomial(centred, {-8.599194116e-04, 1.629612991e-03, 2.283840673e-03, -9.083879180e-03, 8.065709844e-03,
                           6.526904646e-03, -2.869897336e-02, 4.509779066e-02, -4.500537366e-02, 3.060109727e-02,
                           -1.393160224e-02, 3.878064919e-03, 9.994966984e-01});
  large = copysign(select(less(one, large), one, large), x);
  return select(less(magnitude, one), mul(x, small), large);
}

/// After N. Juffa: a polynomial below 1, pi/2 - atan(1/|x|) above.
Value ScalarMath::atanF32(Value x) {
  Value magnitude = fabs(x), one = f32(1.0f);
  Value above = less(one, magnitude);
  Value a = select(above, div(one, magnitude), magnitude);
  Value s = mul(a, a);
  Value p = polynomial(s, {2.78569828e-3, -1.58660226e-2, 4.24722321e-2, -7.49753043e-2, 1.06448799e-1, -1.42070308e-1,
                           1.99934542e-1, -3.33331466e-1});
  Value y = fma(mul(p, s), a, a);
  Value complement =
      fma(f32(0x1.aee9d6p+0f), f32(0x1.ddcb02p-1f), arith::NegFOp::create(b, loc, y)); // pi/2 as a product
  y = select(above, complement, y);
  return copysign(y, x);
}

} // namespace terra::passes
