// Builds ops from the expressions that ODS definitions hold (AtenForm.h).
#pragma once

#include "graph/dialect/AtenForm.h"
#include "graph/dialect/Terra.h"

#include "mlir/IR/Builders.h"

#include <functional>

namespace terra::passes {

mlir::RankedTensorType tensorType(mlir::Value value);

/// A 0-dim constant of element type `element`.
mlir::Value makeConstant(mlir::OpBuilder &b, mlir::Location loc, double number, mlir::Type element);

/// `value` as `element`, broadcast to nothing; no op where nothing changes.
mlir::Value makeCast(mlir::OpBuilder &b, mlir::Location loc, mlir::Value value, mlir::Type element);

/// The elementwise op `name` on `operands`; its result type follows from theirs. Folds constants and `x * 1`.
/// Null when there is no such op or the types do not fit.
mlir::Value makeElementwise(mlir::OpBuilder &b, mlir::Location loc, llvm::StringRef name, mlir::ValueRange operands);

/// `expr` with numbers of type `element`; `argument` supplies `$N`, `#N` and `?N`. Null when any part fails.
mlir::Value buildExpr(mlir::OpBuilder &b, mlir::Location loc, const ir::Expr &expr, mlir::Type element,
                      const std::function<mlir::Value(const ir::Expr &)> &argument);

} // namespace terra::passes
