#include "passes/Domain.h"
#include "passes/ExprBuilder.h"
#include "passes/KernelAnalysis.h"
#include "passes/Passes.h"
#include "passes/Slice.h"

#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;

namespace terra::passes {

#define GEN_PASS_DEF_FORMKERNELS
#include "passes/Passes.h.inc"

namespace {

/// A kernel being collected.
struct Kernel {
  llvm::SetVector<Operation *> ops;
  Reduced reduced;
  int64_t numel = 1;

  bool accepts(const Slice &slice) const {
    if (numel != slice.numel || !sharesReads(slice))
      return false;
    return slice.reduced.empty() || reduced.empty() || slice.reduced.front() == reduced;
  }
  /// Loops over unrelated memory are better apart.
  bool sharesReads(const Slice &slice) const {
    bool reads = false;
    for (Operation *op : slice.ops)
      if (isa<ir::ReadOp>(op)) {
        if (ops.contains(op))
          return true;
        reads = true;
      }
    return !reads;
  }
  void add(const Slice &slice) {
    ops.insert(slice.ops.begin(), slice.ops.end());
    numel = slice.numel;
    if (!slice.reduced.empty())
      reduced = slice.reduced.front();
  }
  bool reads(Value slot) const {
    return llvm::any_of(ops, [&](Operation *op) { return isa<ir::ReadOp>(op) && op->getOperand(0) == slot; });
  }
  bool writes(Value slot) const {
    return llvm::any_of(ops, [&](Operation *op) { return isa<ir::WriteOp>(op) && op->getOperand(1) == slot; });
  }
  /// It would overwrite what `other` reads, or reads what `other` leaves in scratch memory.
  bool comesAfter(const Kernel &other) const {
    return llvm::any_of(ops, [&](Operation *op) {
      if (auto read = dyn_cast<ir::ReadOp>(op))
        return isScratch(read.getSlot()) && other.fills(read);
      auto write = dyn_cast<ir::WriteOp>(op);
      return write && !isScratch(write.getSlot()) && other.reads(write.getSlot());
    });
  }
  bool fills(ir::ReadOp read) const {
    return llvm::any_of(ops, [&](Operation *op) {
      auto write = dyn_cast<ir::WriteOp>(op);
      return write && write.getSlot() == read.getSlot() && write.getOffset() == read.getOffset() &&
             write.getValue().getType() == read.getType();
    });
  }
  static bool isScratch(Value slot) { return slot.getDefiningOp<ir::ScratchOp>() != nullptr; }
};

/// The domain: as few dimensions as all spanning values and the reduction allow.
FailureOr<Cuts> cutsFor(const Kernel &kernel) {
  Cuts cuts;
  auto join = [&](const Cuts &more) {
    auto united = unite(cuts, more, kernel.numel);
    if (united)
      cuts = *united;
    return united.has_value();
  };
  for (Operation *op : kernel.ops)
    for (Value value : op->getOperands())
      if (auto type = dyn_cast<RankedTensorType>(value.getType()))
        if (type.getNumElements() == kernel.numel && !join(cutsOf(type.getShape())))
          return failure();
  return cuts;
}

/// Splits one group.
class Former {
public:
  explicit Former(ir::GroupOp group) : group_(group) {}

  bool run() {
    std::vector<Kernel> kernels;
    if (group_->hasAttr("failed") || !collect(kernels) || !order(kernels))
      return false;
    for (const Kernel &kernel : kernels) {
      FailureOr<ir::KernelOp> op = build(kernel);
      if (failed(op) || failed(KernelAnalysis::run(*op)))
        return false;
    }
    for (Operation &op : llvm::make_early_inc_range(llvm::reverse(group_.getBody().front())))
      if (!isa<ir::KernelOp, ir::ScratchOp>(op))
        op.erase();
    return true;
  }

private:
  bool collect(std::vector<Kernel> &kernels) {
    for (auto write : group_.getBody().getOps<ir::WriteOp>()) {
      Slice slice = Slice::of(write);
      if (slice.reduced.size() > 1)
        return false;
      auto it =
          llvm::find_if(kernels, [&](const Kernel &k) { return k.accepts(slice) && staysOrdered(kernels, k, slice); });
      if (it == kernels.end())
        it = kernels.insert(kernels.end(), Kernel());
      it->add(slice);
    }
    return true;
  }

  /// With the slice in it, `kernel` and the others do not wait for each other.
  static bool staysOrdered(const std::vector<Kernel> &kernels, const Kernel &kernel, const Slice &slice) {
    bool passes = llvm::any_of(slice.ops, [](Operation *op) {
      return llvm::any_of(op->getOperands(), [](Value value) { return Kernel::isScratch(value); });
    });
    if (!passes)
      return true;
    std::vector<Kernel> copy(kernels);
    copy[size_t(&kernel - kernels.data())].add(slice);
    return order(copy);
  }

  /// Kernels that overwrite what others read, or read what others leave in scratch memory, come after them.
  static bool order(std::vector<Kernel> &kernels) {
    if (!anyOrdered(kernels))
      return true;
    for (size_t i = 0; i < kernels.size(); ++i) {
      auto next = std::find_if(kernels.begin() + ptrdiff_t(i), kernels.end(), [&](const Kernel &k) {
        return std::none_of(kernels.begin() + ptrdiff_t(i), kernels.end(),
                            [&](const Kernel &other) { return &other != &k && k.comesAfter(other); });
      });
      if (next == kernels.end())
        return false;
      std::rotate(kernels.begin() + ptrdiff_t(i), next, next + 1);
    }
    return true;
  }

  /// Some kernel overwrites what another reads, or fills what it reads.
  static bool anyOrdered(const std::vector<Kernel> &kernels) {
    llvm::DenseMap<Value, const Kernel *> reader; // null: several
    for (const Kernel &kernel : kernels)
      for (Operation *op : kernel.ops)
        if (isa<ir::ReadOp>(op))
          if (auto [it, isNew] = reader.try_emplace(op->getOperand(0), &kernel); !isNew && it->second != &kernel)
            it->second = nullptr;
    return llvm::any_of(kernels, [&](const Kernel &kernel) {
      return llvm::any_of(kernel.ops, [&](Operation *op) {
        auto it = isa<ir::WriteOp>(op) ? reader.find(op->getOperand(1)) : reader.end();
        return it != reader.end() && it->second != &kernel;
      });
    });
  }

  FailureOr<ir::KernelOp> build(const Kernel &kernel) {
    FailureOr<Cuts> cuts = cutsFor(kernel);
    if (failed(cuts))
      return failure();
    SmallVector<int64_t> domain = sizesOf(*cuts, kernel.numel), reduced;
    int64_t product = 1;
    for (int64_t d = int64_t(domain.size()) - 1; d >= 0; --d) {
      for (auto [inner, outer] : kernel.reduced)
        if (product >= inner && product < outer && domain[d] > 1)
          reduced.insert(reduced.begin(), d);
      product *= domain[d];
    }
    OpBuilder b(group_.getContext());
    b.setInsertionPointToEnd(&group_.getBody().front());
    auto op = ir::KernelOp::create(b, group_.getLoc(), b.getDenseI64ArrayAttr(domain), b.getDenseI64ArrayAttr(reduced),
                                   IntegerAttr());
    b.setInsertionPointToEnd(&op.getBody().emplaceBlock());
    IRMapping map;
    // Writes last, in the group's order.
    for (Operation &inner : group_.getBody().front())
      if (kernel.ops.contains(&inner))
        b.clone(inner, map);
    return op;
  }

  ir::GroupOp group_;
};

struct FormKernelsPass : impl::FormKernelsBase<FormKernelsPass> {
  void runOnOperation() override {
    for (auto group : getOperation().getBody().getOps<ir::GroupOp>())
      if (!Former(group).run()) {
        ++numFailed;
        group.emitRemark("has no loop nest; its events run as externs");
        group->setAttr("failed", UnitAttr::get(&getContext()));
      }
  }
};

} // namespace
} // namespace terra::passes
