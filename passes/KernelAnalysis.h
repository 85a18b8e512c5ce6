// How the values of a kernel spread over its domain, and in which pass over the reduced dimensions each is known.
#pragma once

#include "graph/dialect/Terra.h"

#include <map>

namespace terra::passes {

/// Domain dimensions of one tensor dimension, outermost first; empty for a size of 1 (or a broadcast).
using DimList = llvm::SmallVector<unsigned, 2>;
using Alignment = llvm::SmallVector<DimList, 4>;

struct KernelNode {
  mlir::Value value;
  mlir::Operation *op = nullptr;
  llvm::SmallVector<unsigned, 4> operands; ///< nodes
  uint32_t varies = 0;                     ///< domain dimensions whose index changes the value
  unsigned stage = 0;                      ///< passes over the reduced dimensions that must be complete before
  llvm::SmallVector<int64_t, 4> strides;   ///< ReadOp, IotaOp: for each domain dimension
};

struct KernelWrite {
  mlir::Operation *op = nullptr;           ///< a WriteOp or an AccumulateOp
  unsigned node = 0;
  bool full = false;                       ///< one element for each index of the domain; otherwise of the kept part
  llvm::SmallVector<int64_t, 4> strides;
  int64_t perTask = 0;                     ///< elements of each task's part; 0: not a partial result

  bool accumulates() const { return mlir::isa<ir::AccumulateOp>(op); }
};

class KernelAnalysis {
public:
  /// Fails when some value does not fit the domain.
  static mlir::FailureOr<KernelAnalysis> run(ir::KernelOp kernel);

  llvm::SmallVector<int64_t> sizes;        ///< of the domain
  uint32_t reduced = 0;                    ///< domain dimensions
  int64_t tasks = 0;                       ///< 0: the kernel is not divided
  std::vector<KernelNode> nodes;           ///< operands before users
  std::vector<KernelWrite> writes;

  bool accumulates() const {
    return llvm::any_of(writes, [](const KernelWrite &w) { return w.accumulates(); });
  }
  bool isReduction(unsigned node) const { return mlir::isa<ir::Reduction>(nodes[node].op); }
  /// The same for all indices of the reduced dimensions.
  bool isKept(unsigned node) const { return (nodes[node].varies & reduced) == 0; }

private:
  mlir::FailureOr<unsigned> visit(mlir::Value value, const Alignment &alignment);
  mlir::LogicalResult visitOperands(KernelNode &node, const Alignment &alignment);
  mlir::FailureOr<Alignment> regroup(llvm::ArrayRef<unsigned> dims, llvm::ArrayRef<int64_t> shape) const;
  llvm::SmallVector<int64_t, 4> stridesOf(llvm::ArrayRef<int64_t> strides, const Alignment &alignment) const;
  mlir::LogicalResult addWrite(ir::WriteOp write);
  mlir::LogicalResult addAccumulate(ir::AccumulateOp accumulate);

  std::map<std::pair<void *, Alignment>, unsigned> seen_;
};

} // namespace terra::passes
