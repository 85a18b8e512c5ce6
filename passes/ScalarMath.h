// The arithmetic of one element: terra's primitives in arith, LLVM intrinsics and, for rare functions, libm.
#pragma once

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/Builders.h"

namespace terra::passes {

/// Builds scalar ops at a place. Integers are signless; `Type` arguments are tensors' element types, which know signs.
class ScalarMath {
public:
  ScalarMath(mlir::OpBuilder &b, mlir::Location loc) : b(b), loc(loc) {}

  /// The type in registers of a tensor's element type: ui8 is i8.
  static mlir::Type registerType(mlir::Type element);
  /// The type in memory: i1 is stored as i8.
  static mlir::Type memoryType(mlir::Type element);

  /// A primitive elementwise op on scalars of element type `element`. Null when it has no lowering.
  mlir::Value primitive(mlir::Operation *op, mlir::Type element, mlir::ValueRange x);
  mlir::Value cast(mlir::Value x, mlir::Type from, mlir::Type to);
  mlir::Value constant(double number, mlir::Type element);
  mlir::Value integerConstant(int64_t number, mlir::Type element);

  mlir::Value plus(mlir::Type element, mlir::Value x, mlir::Value y);

  /// One step of a reduction, and where it starts.
  mlir::Value combine(mlir::Operation *reduction, mlir::Type element, mlir::Value a, mlir::Value x);
  mlir::Value identity(mlir::Operation *reduction, mlir::Type element);

  /// The same for an accumulator in a register, in any order: start, step for each element, join of two, finish.
  /// Maxima and minima of floats accumulate integers of the same order: LLVM vectorises those whatever x is.
  mlir::Value start(mlir::Operation *reduction, mlir::Type element);
  mlir::Value step(mlir::Operation *reduction, mlir::Type element, mlir::Value a, mlir::Value x);
  mlir::Value join(mlir::Operation *reduction, mlir::Type element, mlir::Value a, mlir::Value b, bool reassociate);
  mlir::Value finish(mlir::Operation *reduction, mlir::Type element, mlir::Value a);

  mlir::OpBuilder &b;
  mlir::Location loc;

private:
  mlir::Value binary(mlir::Operation *op, mlir::Type element, mlir::Value x, mlir::Value y);
  mlir::Value unary(mlir::Operation *op, mlir::Type element, mlir::Value x);
  mlir::Value function(mlir::Operation *op, mlir::Value x);
  mlir::Value compare(mlir::Operation *op, mlir::Type element, mlir::Value x, mlir::Value y);
  mlir::Value orderKey(mlir::Value x);
  mlir::Value floorDiv(mlir::Value x, mlir::Value y);
  mlir::Value remainder(mlir::Value x, mlir::Value y);
  mlir::Value castToInteger(mlir::Value x, mlir::Type from, mlir::IntegerType to);

  // Elementary functions of f32 by range reduction and polynomials, at most a few ulp (ElementaryFunctions.cpp).
  mlir::Value functionF32(mlir::Operation *op, mlir::Value x);
  mlir::Value expF32(mlir::Value x);
  mlir::Value exp2F32(mlir::Value x);
  mlir::Value expm1F32(mlir::Value x);
  mlir::Value logF32(mlir::Value x);
  mlir::Value log1pF32(mlir::Value x);
  mlir::Value tanhF32(mlir::Value x);
  mlir::Value erfF32(mlir::Value x);
  mlir::Value atanF32(mlir::Value x);
  mlir::Value reducedExp(mlir::Value r);
  mlir::Value reducedExpm1(mlir::Value r);
  mlir::Value timesPowerOfTwo(mlir::Value x, mlir::Value exponent);

  // The ones that need more bits on the way (WideFunctions.cpp).
  enum class Angle : uint8_t { Sin, Cos, Tan };
  mlir::Value trigonometricF32(Angle function, mlir::Value x);
  mlir::Value logF32(mlir::Value x, double ofBase2);
  mlir::Value powF32(mlir::Value x, mlir::Value y);
  std::pair<mlir::Value, mlir::Value> reduceAngle(mlir::Value x);
  std::pair<mlir::Value, mlir::Value> reduceLargeAngle(mlir::Value x);
  mlir::Value log2F64(mlir::Value x);
  mlir::Value roundWithMagic(mlir::Value x, mlir::Value &lowBits);

  mlir::Value f32(float number);
  mlir::Value f64(double number);
  mlir::Value i32(int32_t number);
  mlir::Value add(mlir::Value x, mlir::Value y);
  mlir::Value sub(mlir::Value x, mlir::Value y);
  mlir::Value mul(mlir::Value x, mlir::Value y);
  mlir::Value div(mlir::Value x, mlir::Value y);
  mlir::Value fma(mlir::Value x, mlir::Value y, mlir::Value z);
  mlir::Value less(mlir::Value x, mlir::Value y);
  mlir::Value equal(mlir::Value x, mlir::Value y);
  mlir::Value either(mlir::Value x, mlir::Value y);
  mlir::Value select(mlir::Value c, mlir::Value x, mlir::Value y);
  mlir::Value fabs(mlir::Value x);
  mlir::Value copysign(mlir::Value magnitude, mlir::Value sign);
  mlir::Value bits(mlir::Value x);
  mlir::Value fromBits(mlir::Value x);
  mlir::Value polynomial(mlir::Value x, llvm::ArrayRef<double> highestFirst);
};

} // namespace terra::passes
