// exp, log, log1p, tanh and erf of f32 without calls, so that loops around them vectorise. Infinities, NaN, denormals and the
// sign of zero come out as libm's.
#include "passes/ScalarMath.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

#include <limits>

using namespace mlir;

namespace terra::passes {

Value ScalarMath::f32(float number) { return arith::ConstantOp::create(b, loc, b.getF32FloatAttr(number)); }
Value ScalarMath::i32(int32_t number) { return arith::ConstantOp::create(b, loc, b.getI32IntegerAttr(number)); }
Value ScalarMath::bits(Value x) { return arith::BitcastOp::create(b, loc, b.getI32Type(), x); }
Value ScalarMath::fromBits(Value x) { return arith::BitcastOp::create(b, loc, b.getF32Type(), x); }

Value ScalarMath::polynomial(Value x, ArrayRef<float> c) {
  Value p = f32(c.front());
  for (float coefficient : c.drop_front())
    p = fma(p, x, f32(coefficient));
  return p;
}

/// Cody–Waite: x = n ln 2 + r, exp(r) by a polynomial, times 2^n in two steps (for denormal results).
Value ScalarMath::expF32(Value x) {
  // Beyond these bounds the result is inf or 0; comparisons keep NaN. What is 0 is not computed as a denormal number on
  // the way: each would cost as much as a hundred others, and masks make many.
  Value hi = f32(89.0f), zero = f32(0.0f);
  Value vanishes = less(x, f32(-104.0f));
  Value clamped = select(less(hi, x), hi, select(vanishes, zero, x));
  Value magic = f32(12582912.0f); // 1.5 * 2^23: adding it rounds to an integer, which stands in the low bits
  Value shifted = fma(clamped, f32(1.4426950408889634f), magic);
  Value n = sub(shifted, magic);
  Value r = fma(n, f32(-0.693145751953125f), clamped);
  r = fma(n, f32(-1.42860677e-6f), r);
  Value p = polynomial(r, {1.37805939e-3f, 8.37312452e-3f, 4.16695364e-2f, 1.66664720e-1f, 4.99999851e-1f, 1.0f, 1.0f});
  Value exponent = arith::SubIOp::create(b, loc, bits(shifted), bits(magic));
  Value half = arith::ShRSIOp::create(b, loc, exponent, i32(1));
  Value rest = arith::SubIOp::create(b, loc, exponent, half);
  auto power = [&](Value e) {
    Value biased = arith::AddIOp::create(b, loc, e, i32(127));
    return fromBits(arith::ShLIOp::create(b, loc, biased, i32(23)));
  };
  return select(vanishes, zero, mul(mul(p, power(half)), power(rest)));
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

/// Cephes below 0.625, 1 - 2 / (exp(2|x|) + 1) above.
Value ScalarMath::tanhF32(Value x) {
  Value magnitude = fabs(x);
  Value z = mul(x, x);
  Value p =
      polynomial(z, {-5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f, -3.33332819422e-1f});
  Value small = fma(mul(p, z), x, x);
  Value e = expF32(add(magnitude, magnitude));
  Value large = sub(f32(1.0f), div(f32(2.0f), add(e, f32(1.0f))));
  return copysign(select(less(magnitude, f32(0.625f)), small, large), x);
}

/// Two polynomials (minimax, fitted for this): x P(x²) below 1, one centred in [1, 3.92] above, where 1 is reached.
Value ScalarMath::erfF32(Value x) {
  Value magnitude = fabs(x), square = mul(x, x), one = f32(1.0f), end = f32(3.92f);
  Value small = polynomial(square, {7.853860006e-05f, -8.010193123e-04f, 5.188327748e-03f, -2.685381100e-02f,
                                    1.128358543e-01f, -3.761262596e-01f, 1.128379107e+00f});
  Value clamped = select(less(end, magnitude), end, magnitude); // keeps NaN
  Value centred = fma(clamped, f32(0.6849315f), f32(-1.6849315f));
  Value large =
      polynomial(centred, {-8.599194116e-04f, 1.629612991e-03f, 2.283840673e-03f, -9.083879180e-03f, 8.065709844e-03f,
                           6.526904646e-03f, -2.869897336e-02f, 4.509779066e-02f, -4.500537366e-02f, 3.060109727e-02f,
                           -1.393160224e-02f, 3.878064919e-03f, 9.994966984e-01f});
  large = copysign(select(less(one, large), one, large), x);
  return select(less(magnitude, one), mul(x, small), large);
}

} // namespace terra::passes
