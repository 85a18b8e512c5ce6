// Writes the loops of one kernel: what the three loop shapes share. EmitLoops.cpp has the shapes.
#pragma once

#include "passes/KernelPlan.h"
#include "passes/ScalarMath.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
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

class KernelEmitter {
public:
  KernelEmitter(const KernelAnalysis &analysis, const KernelPlan &plan, mlir::Location loc, mlir::MLIRContext *context);

  /// Adds the kernel's functions to `module`: `name(args, begin, end)` and its body. False when an op has no lowering.
  bool run(mlir::ModuleOp module, llvm::StringRef name);

  llvm::ArrayRef<KernelPointer> pointers() const { return pointers_; }

private:
  using Values = llvm::SmallVector<mlir::Value>;

  // Functions and pointers (KernelEmitter.cpp)
  void collectPointers();
  unsigned pointerIndex(const KernelPointer &pointer);
  static KernelPointer pointerOf(mlir::Operation *op);
  void emitWrapper(mlir::ModuleOp module, llvm::StringRef name, mlir::func::FuncOp body);

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
  mlir::Value partEnd(mlir::Value from, int64_t size);
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
  mlir::Block *entry_ = nullptr;
  mlir::ValueRange args_;
  mlir::Value begin_, end_;
  llvm::SmallVector<mlir::Value> ivs_; ///< for each domain dimension that a loop stands for
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
