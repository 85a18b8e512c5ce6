// One event being imported: reads its operands, converts scalars, writes its results.
#pragma once

#include "graph/Segment.h"
#include "graph/dialect/AtenForm.h"
#include "graph/dialect/Terra.h"

#include "mlir/IR/Builders.h"

namespace terra::passes {

/// The MLIR element type of `dtype`; null for those that Terra does not compute on.
mlir::Type elementType(mlir::MLIRContext *context, DType dtype);

class ImportCall {
public:
  ImportCall(mlir::OpBuilder &builder, mlir::Location loc, const graph::SegmentEvent &event,
             llvm::ArrayRef<mlir::Value> slots)
      : b(builder), loc(loc), event_(event), slots_(slots) {}

  mlir::OpBuilder &b;
  mlir::Location loc;

  const graph::Event &event() const { return *event_.event; }
  size_t numArgs() const { return event().args.size(); }
  /// Argument `n`; one of kind None when the call has fewer.
  const graph::Arg &arg(unsigned n) const;
  bool isNone(unsigned n) const { return arg(n).kind == graph::ArgKind::None; }
  /// True for an argument that is a defined tensor.
  bool isTensor(unsigned n) const;
  const graph::Operand &operand(unsigned n) const { return event().inputs[input(n)]; }

  /// For calls that work on lists, element by element (`_foreach_…`): which element the list arguments and results stand
  /// for from now on.
  void selectElement(unsigned element) { element_ = element; }
  /// Such a call: how many elements; 0 for any other.
  unsigned numElements() const;

  /// Nothing that the compiler does not understand: devices, dtypes, aliases, flags.
  bool isPlain() const;
  /// Guards compare with recorded values: false when the argument varies.
  bool holds(const ir::Guard &guard) const;

  /// The tensor argument `n` as it is stored; the scalar argument `n` as a constant or a feed (f64 or i64).
  mlir::Value value(unsigned n);
  /// `value(n)` converted.
  mlir::Value value(unsigned n, mlir::Type element);
  /// A constant argument; nothing when it varies or is of another kind.
  std::optional<int64_t> integer(unsigned n) const;
  std::optional<double> number(unsigned n) const;
  std::optional<bool> boolean(unsigned n) const;

  bool hasResult(unsigned i) const;
  /// The only result: its dtype, sizes and layout; of a call that only writes its first argument, that argument.
  const TensorMeta &resultMeta() const;
  /// The only result is a new tensor.
  bool makesResult() const;
  mlir::RankedTensorType resultType(unsigned i);
  /// Writes `value`, converted and broadcast or reshaped, as result `i`. False when the shapes do not fit.
  bool write(unsigned i, mlir::Value value);
  /// Writes in place over the tensor argument `n`.
  bool writeArgument(unsigned n, mlir::Value value);

private:
  /// The operand that argument `n` is.
  unsigned input(unsigned n) const;
  bool isElementList(unsigned n) const;
  bool onlyWrites() const { return event().results.empty(); }
  unsigned result(unsigned i) const { return numElements() ? element_ : i; }
  bool store(mlir::Value value, const TensorMeta &meta, graph::SlotRef ref);

  const graph::SegmentEvent &event_;
  llvm::ArrayRef<mlir::Value> slots_;
  unsigned element_ = 0;
};

/// Imports by the forms of elementwise ops. False leaves ops behind that the caller erases.
bool importElementwise(ImportCall &call, const ir::AtenForm &form);
/// Imports the structured op `form.op`.
bool importStructured(ImportCall &call, const ir::AtenForm &form);

} // namespace terra::passes
