// The terra dialect's C++ classes.
#pragma once

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "graph/dialect/TerraDialect.h.inc"
#include "graph/dialect/TerraInterfaces.h.inc"

#define GET_TYPEDEF_CLASSES
#include "graph/dialect/TerraTypes.h.inc"

namespace terra::ir {
/// Operands broadcast to the result, element types agree (the result's is i1 for a predicate; `where` has an i1 first).
mlir::LogicalResult verifyElementwise(mlir::Operation *op, bool predicate);
/// The result has the operand's sizes with 1 in `dims`.
mlir::LogicalResult verifyReduction(mlir::Operation *op, mlir::Value input, llvm::ArrayRef<int64_t> dims);
/// All tensors have the element type of the first, and attributes name dimensions of it.
mlir::LogicalResult verifyStructured(mlir::Operation *op);

// Properties of elementwise ops, explained in TerraElementwise.td.
template <typename Op> class WorksOnBool : public mlir::OpTrait::TraitBase<Op, WorksOnBool> {};
template <typename Op> class NoIntegers : public mlir::OpTrait::TraitBase<Op, NoIntegers> {};
template <typename Op> class Expensive : public mlir::OpTrait::TraitBase<Op, Expensive> {};
} // namespace terra::ir

#define GET_OP_CLASSES
#include "graph/dialect/TerraOps.h.inc"
