// Writes the loops of one kernel: what the three loop shapes share. EmitLoops.cpp has the shapes.
#pragma once

#include "passes/KernelPlan.h"
#include "passes/ScalarMath.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/BitVector.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/MapVector.h"

#include <functional>

namespace terra::passes {

/// One pointer of the kernel: a view of a slot, or a scalar feed.
struct KernelPointer {
  mlir::Value slot;           ///< null for a scalar feed
  int64_t offset = 0, feed = -1; ///< in elements; the feed's number
  mlir::Type element;
  bool operator==(const KernelPointer &) const = default;
};

/// A number in a kernel's code: one that sizes decide (an extent, a stride, the divisor of a mean), or a constant of the program.
struct KernelNumber {
  int64_t bits = 0; ///< of an i64, or of an f64 where the element is a float
  mlir::Type element; ///< what the code takes it as
  mlir::Value argument; ///< of the kernel's body
};

class KernelEmitter {
public:
  KernelEmitter(const KernelAnalysis &analysis, const KernelPlan &plan, mlir::Location loc, mlir::MLIRContext *context);

  /// Adds the kernel's body to `module`, with all of its numbers as arguments. False when an op has no lowering.
  bool run(mlir::ModuleOp module, llvm::StringRef name);
  llvm::ArrayRef<KernelPointer> pointers() const { return pointers_; }
  llvm::ArrayRef<KernelNumber> numbers() const { return numbers_; }
  /// Completes the code: `name(args, begin, end)`, whose `args` are the pointers and the numbers that vary. The others become
  /// constants.
  void finish(mlir::ModuleOp module, llvm::StringRef name, const llvm::BitVector &varying);

private:
  using Values = llvm::SmallVector<mlir::Value>;

  // Functions and pointers (KernelEmitter.cpp)
  void collectPointers();
  unsigned pointerIndex(const KernelPointer &pointer);
  static KernelPointer pointerOf(mlir::Operation *op);
  void fixNumbers(const llvm::BitVector &varying);
  void emitWrapper(mlir::ModuleOp module, llvm::StringRef name, const llvm::BitVector &varying);
  mlir::Value fromBits(mlir::Value bits, mlir::Type element);

  // Scalars (KernelEmitter.cpp)
  mlir::Value eval(unsigned node);
  mlir::Value compute(const KernelNode &node);
  mlir::Value compareWithIndex(const KernelNode &node, llvm::ArrayRef<mlir::Value> operands);
  mlir::Value throughMemory(mlir::Value number);
  mlir::Value load(mlir::Value pointer, mlir::Value index, mlir::Type element);
  void store(mlir::Value value, mlir::Value pointer, mlir::Value index, mlir::Type element);
  mlir::Value index(llvm::ArrayRef<int64_t> strides);
  mlir::Value index(const KernelWrite &write);
  mlir::Value i64(int64_t number);
  /// A number of the analysis or the plan that sizes decide. It is known by its address: equal numbers stay apart.
  mlir::Value size(const int64_t &number);
  mlir::Value number(const void *key, int64_t bits, mlir::Type element);
  mlir::Value allocate(int64_t elements, mlir::Type element);
  mlir::Type elementOf(unsigned node) const;
  void evaluateKept(unsigned stage);
  void write(bool full);

  // Loops (EmitLoops.cpp)
  mlir::Value emitFor(mlir::Value from, mlir::Value to, int64_t step, const std::function<void(mlir::Value)> &body);
  Values emitFor(mlir::Value from, mlir::Value to, int64_t step, const Values &carried,
                 const std::function<Values(mlir::Value, mlir::ValueRange)> &body);
  void setIndices(llvm::ArrayRef<PlannedLoop> loops, mlir::Value flat);
  mlir::Value setTask(mlir::Value flat);
  mlir::Value partEnd(mlir::Value from, const int64_t &limit);
  void emitMap();
  void emitTiledMap();
  void fillTile(unsigned node, mlir::Value rowBegin, mlir::Value rowEnd, mlir::Value columnBegin,
                mlir::Value columnEnd);
  void emitRows();
  void emitRow();
  void emitTask();
  void emitRowStage(unsigned stage);
  Values emitReducedLoops(unsigned level, llvm::ArrayRef<unsigned> reductions, bool writes);
  Values emitReducedBody(llvm::ArrayRef<unsigned> reductions, bool writes, mlir::ValueRange carried);
  bool fetchesAhead() const;
  bool isRowRead(const KernelNode &node) const;
  void fetchNextRow(mlir::Value from, mlir::Value to);
  void chooseCached();

  // Columns (EmitColumns.cpp)
  void emitColumns();
  void emitTile(mlir::Value from, mlir::Value to);
  void emitTileLoop(const std::function<void()> &body);
  void emitColumnStage(unsigned stage);
  void emitColumnReducedLoops(unsigned level, llvm::ArrayRef<unsigned> reductions, bool writes);
  void emitColumnBody(llvm::ArrayRef<unsigned> reductions, bool writes);
  mlir::Value tileIndex();

  llvm::SmallVector<unsigned> reductionsOfStage(unsigned stage) const;

  const KernelAnalysis &a_;
  const KernelPlan &plan_;
  mlir::OpBuilder b_;
  ScalarMath math_;
  mlir::Location loc_;
  llvm::SmallVector<KernelPointer> pointers_;
  llvm::SmallVector<KernelNumber> numbers_;
  llvm::DenseMap<const void *, unsigned> numberOf_; ///< by key
  mlir::func::FuncOp body_;
  mlir::Block *entry_ = nullptr;
  llvm::SmallVector<mlir::Value> args_; ///< parallel to the pointers
  mlir::Value begin_, end_;
  llvm::SmallVector<mlir::Value> ivs_; ///< for each domain dimension that a loop stands for
  int64_t keptExtent_ = 0;
  std::vector<llvm::DenseMap<unsigned, mlir::Value>> scopes_; ///< values known, innermost scope last
  llvm::DenseMap<unsigned, mlir::Value> buffers_; ///< Rows: kept between stages; Columns, Map: tiles
  llvm::DenseSet<unsigned> filled_; ///< nodes whose buffer holds them
  llvm::DenseSet<unsigned> filling_; ///< Rows: nodes that this pass stores
  llvm::DenseMap<unsigned, mlir::Value> partial_; ///< Columns: accumulators of one chunk
  mlir::Value tileBegin_, tileEnd_, tileColumn_;
  unsigned stage_ = 0; ///< Rows: the pass that is being written
  mlir::Value task_; ///< set in kernels of several tasks
  mlir::Value reducedBegin_, reducedEnd_; ///< of the outermost reduced loop
  bool ok_ = true;
};

} // namespace terra::passes
