#include "passes/Domain.h"
#include "passes/ExprBuilder.h"
#include "passes/KernelPlan.h"
#include "passes/Passes.h"

#include "mlir/IR/IRMapping.h"
#include "mlir/IR/OperationSupport.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;

namespace terra::passes {

#define GEN_PASS_DEF_SPLITREDUCTIONS
#include "passes/Passes.h.inc"

namespace {

constexpr int64_t kTaskWork = 32768;     // elements worth a task
constexpr int64_t kMaxTasks = 64;
constexpr int64_t kMaxTaskRows = 512;    // summed one after another: bounds the rounding error
constexpr int64_t kMinTaskRows = 8;      // below, the partial sums are as much work as the rows
constexpr int64_t kMaxColumns = 16384;   // partial sums that a task keeps in the near caches

/// A kernel with what decides whether it can be divided.
struct Candidate {
  explicit Candidate(ir::KernelOp op) : kernel(op), analysis(KernelAnalysis::run(op)) {
    if (failed(analysis))
      return;
    for (Operation &inner : op.getBody().front())
      if (isa<ir::Reduction>(inner))
        reductions.push_back(&inner);
    for (const KernelNode &node : analysis->nodes)
      oneStage &= node.stage <= 1;
    for (const KernelWrite &write : analysis->writes) {
      writesFull |= write.full;
      fullOfReduced |= write.full && analysis->nodes[write.node].stage > 0;
    }
  }

  bool reduces() const { return succeeded(analysis) && !reductions.empty() && oneStage && !analysis->tasks; }
  bool reads(Value slot) const { return touches<ir::ReadOp>(slot, 0); }
  bool writes(Value slot) const { return touches<ir::WriteOp>(slot, 1); }
  /// For kernels after it: the tasks of a divided kernel would have a part each.
  bool fillsScratch() const {
    return llvm::any_of(kernel.getBody().getOps<ir::WriteOp>(),
                        [](ir::WriteOp write) { return write.getSlot().getDefiningOp<ir::ScratchOp>() != nullptr; });
  }
  /// One of them writes what the other touches.
  bool conflicts(const Candidate &other) const {
    auto clobbers = [](const Candidate &a, const Candidate &b) {
      return llvm::any_of(a.kernel.getBody().getOps<ir::WriteOp>(),
                          [&](ir::WriteOp w) { return b.reads(w.getSlot()) || b.writes(w.getSlot()); });
    };
    return clobbers(*this, other) || clobbers(other, *this);
  }

  mutable ir::KernelOp kernel; // a handle; its accessors are not const
  FailureOr<KernelAnalysis> analysis;
  SmallVector<Operation *> reductions;
  bool oneStage = true, writesFull = false, fullOfReduced = false;

private:
  template <typename Op> bool touches(Value slot, unsigned operand) const {
    return llvm::any_of(kernel.getBody().template getOps<Op>(), [&](Op op) { return op->getOperand(operand) == slot; });
  }
};

/// Works on the kernels of one group.
class Splitter {
public:
  explicit Splitter(ir::GroupOp group) : group_(group), b_(group.getContext()) {
    for (auto scratch : group.getBody().getOps<ir::ScratchOp>()) { // FormKernels has some already
      scratch_ = scratch;
      bytes_ = int64_t(scratch.getBytes());
    }
  }

  void run() {
    for (ir::KernelOp kernel : llvm::to_vector(group_.getBody().getOps<ir::KernelOp>())) {
      Candidate candidate(kernel);
      if (!candidate.reduces())
        continue;
      if (shareRows(candidate))
        ++shared;
      else if (splitParts(candidate))
        ++split;
    }
    if (scratch_)
      scratch_.setBytes(bytes_);
  }

  int64_t shared = 0, split = 0;

private:
  //===- Column sums along with rows ------------------------------------------------------------------------------===//

  bool shareRows(Candidate &columns) {
    bool sums = llvm::all_of(columns.reductions, [](Operation *op) { return isa<ir::SumOp>(op); });
    if (!sums || columns.fullOfReduced)
      return false;
    for (ir::KernelOp kernel : llvm::to_vector(group_.getBody().getOps<ir::KernelOp>())) {
      Candidate rows(kernel);
      if (kernel == columns.kernel || !fits(rows, columns))
        continue;
      merge(rows, columns);
      return true;
    }
    return false;
  }

  bool fits(Candidate &rows, Candidate &columns) {
    if (failed(rows.analysis) || rows.reductions.empty() || rows.kernel.getDomain() != columns.kernel.getDomain() ||
        (rows.analysis->tasks && !rows.analysis->accumulates()) || (!rows.analysis->tasks && rows.fillsScratch()))
      return false;
    for (auto [d, size] : llvm::enumerate(rows.analysis->sizes))
      if (size > 1 && !((rows.analysis->reduced ^ columns.analysis->reduced) >> d & 1))
        return false;
    KernelPlan plan(*rows.analysis);
    return plan.shape == Shape::Rows && plan.keptExtent() >= 4 * kMinTaskRows &&
           plan.reducedNumel() * int64_t(columns.reductions.size()) <= kMaxColumns && shareRead(rows, columns) &&
           canMeet(rows, columns);
  }

  static bool shareRead(const Candidate &a, const Candidate &b) {
    auto same = [&](ir::ReadOp x, ir::ReadOp y) {
      return x.getSlot() == y.getSlot() && x->getAttrDictionary() == y->getAttrDictionary() &&
             numElements(tensorType(x).getShape()) == numElements(a.analysis->sizes);
    };
    return llvm::any_of(a.kernel.getBody().getOps<ir::ReadOp>(), [&](ir::ReadOp x) {
      return llvm::any_of(b.kernel.getBody().getOps<ir::ReadOp>(), [&](ir::ReadOp y) { return same(x, y); });
    });
  }

  /// `columns` could as well stand beside `rows`.
  bool canMeet(const Candidate &rows, const Candidate &columns) {
    Operation *first = rows.kernel, *last = columns.kernel;
    if (!first->isBeforeInBlock(last))
      std::swap(first, last);
    for (Operation *op = first->getNextNode(); op != last; op = op->getNextNode())
      if (auto kernel = dyn_cast<ir::KernelOp>(op); kernel && Candidate(kernel).conflicts(columns))
        return false;
    return true;
  }

  void merge(Candidate &rows, Candidate &columns) {
    int64_t count = KernelPlan(*rows.analysis).keptExtent(), numel = numElements(rows.analysis->sizes);
    int64_t tasks = rows.analysis->tasks;
    if (!tasks) {
      tasks = std::max((count + kMaxTaskRows - 1) / kMaxTaskRows, std::clamp<int64_t>(numel / kTaskWork, 2, kMaxTasks));
      tasks = std::min(tasks, count / kMinTaskRows);
      rows.kernel.setTasks(tasks);
    }
    Block &body = rows.kernel.getBody().front();
    IRMapping map;
    auto writes = body.getOps<ir::WriteOp>();
    Operation *end = writes.empty() ? nullptr : (*writes.begin()).getOperation();
    SmallVector<int64_t> offsets;
    for (Operation *reduction : columns.reductions) {
      Value value = copyInto(body, end, reduction->getOperand(0), map);
      offsets.push_back(take(reduction, tasks));
      b_.setInsertionPointToEnd(&body);
      ir::AccumulateOp::create(b_, reduction->getLoc(), value, scratch_, offsets.back());
    }
    for (const KernelWrite &write : columns.analysis->writes)
      if (write.full) {
        copyInto(body, end, write.op->getOperand(0), map);
        b_.setInsertionPointToEnd(&body);
        b_.clone(*write.op, map);
      }
    if (rows.kernel->isBeforeInBlock(columns.kernel))
      b_.setInsertionPoint(columns.kernel);
    else
      b_.setInsertionPointAfter(rows.kernel);
    finish(columns, tasks, offsets);
    columns.kernel.erase();
  }

  /// Copies a value with what it depends on in front of `end`; what is there already is used.
  Value copyInto(Block &body, Operation *end, Value value, IRMapping &map) {
    Operation *op = value.getDefiningOp();
    if (map.contains(value) || op->getParentOp() == body.getParentOp() || isa<ir::SlotOp, ir::ScratchOp>(op))
      return map.lookupOrDefault(value);
    for (Value operand : op->getOperands())
      copyInto(body, end, operand, map);
    b_.setInsertionPoint(&body, end ? end->getIterator() : body.end());
    Operation *copy = b_.clone(*op, map);
    for (Operation &other : body)
      if (&other != copy &&
          OperationEquivalence::isEquivalentTo(&other, copy, OperationEquivalence::Flags::IgnoreLocations)) {
        map.map(op->getResults(), other.getResults());
        copy->erase();
        break;
      }
    return map.lookup(value);
  }

  //===- Few results ----------------------------------------------------------------------------------------------===//

  bool splitParts(Candidate &whole) {
    int64_t numel = numElements(whole.analysis->sizes);
    KernelPlan plan(*whole.analysis);
    if (whole.writesFull || numel < 4 * kTaskWork || plan.extent / plan.grain >= 4)
      return false;
    int64_t tasks = std::min({plan.reduced.front().size, numel / kTaskWork, kMaxTasks});
    if (tasks < 2)
      return false;
    b_.setInsertionPoint(whole.kernel);
    auto partial = ir::KernelOp::create(b_, whole.kernel.getLoc(), whole.kernel.getDomainAttr(),
                                        whole.kernel.getReducedAttr(), b_.getI64IntegerAttr(tasks));
    Block &body = partial.getBody().emplaceBlock();
    IRMapping map;
    SmallVector<int64_t> offsets;
    for (Operation *reduction : whole.reductions) {
      Value value = copyInto(body, nullptr, reduction->getResult(0), map);
      offsets.push_back(take(reduction, tasks));
      b_.setInsertionPointToEnd(&body);
      ir::WriteOp::create(b_, reduction->getLoc(), value, scratch_, b_.getI64IntegerAttr(offsets.back()),
                          b_.getDenseI64ArrayAttr(rowMajor(tensorType(value).getShape())), IntegerAttr());
    }
    b_.setInsertionPoint(whole.kernel);
    finish(whole, tasks, offsets);
    whole.kernel.erase();
    return true;
  }

  //===- Both -----------------------------------------------------------------------------------------------------===//

  /// Scratch memory for a partial result of each task; its offset in elements.
  int64_t take(Operation *reduction, int64_t tasks) {
    if (!scratch_) {
      b_.setInsertionPointToStart(&group_.getBody().front());
      scratch_ = ir::ScratchOp::create(b_, group_.getLoc(), b_.getI64IntegerAttr(0));
    }
    RankedTensorType type = tensorType(reduction->getResult(0));
    int64_t size = std::max<int64_t>(1, type.getElementTypeBitWidth() / 8), at = bytes_;
    bytes_ += (tasks * type.getNumElements() * size + 63) / 64 * 64;
    return at / size;
  }

  /// A kernel that reduces the partial results and does the rest of what `whole` did.
  void finish(Candidate &whole, int64_t tasks, ArrayRef<int64_t> offsets) {
    SmallVector<int64_t> domain{tasks};
    for (auto [d, size] : llvm::enumerate(whole.analysis->sizes))
      if (!(whole.analysis->reduced >> d & 1))
        domain.push_back(size);
    auto kernel = ir::KernelOp::create(b_, whole.kernel.getLoc(), b_.getDenseI64ArrayAttr(domain),
                                       b_.getDenseI64ArrayAttr({0}), IntegerAttr());
    Block &body = kernel.getBody().emplaceBlock();
    IRMapping map;
    for (auto [reduction, offset] : llvm::zip(whole.reductions, offsets))
      map.map(reduction->getResult(0), total(body, reduction, tasks, offset));
    for (const KernelWrite &write : whole.analysis->writes)
      if (!write.full) {
        copyInto(body, nullptr, write.op->getOperand(0), map);
        b_.setInsertionPointToEnd(&body);
        b_.clone(*write.op, map);
      }
  }

  Value total(Block &body, Operation *reduction, int64_t tasks, int64_t offset) {
    Location loc = reduction->getLoc();
    RankedTensorType type = tensorType(reduction->getResult(0));
    SmallVector<int64_t> shape(type.getShape()), strides = rowMajor(type.getShape());
    shape.insert(shape.begin(), tasks);
    strides.insert(strides.begin(), type.getNumElements());
    b_.setInsertionPointToEnd(&body);
    Value parts = ir::ReadOp::create(b_, loc, type.clone(shape), scratch_, b_.getI64IntegerAttr(offset),
                                     b_.getDenseI64ArrayAttr(strides), IntegerAttr());
    shape.front() = 1;
    OperationState state(loc, reduction->getName(), parts, type.clone(shape),
                         {b_.getNamedAttr("dims", b_.getDenseI64ArrayAttr({0}))});
    return ir::ReshapeOp::create(b_, loc, type, b_.create(state)->getResult(0));
  }

  ir::GroupOp group_;
  OpBuilder b_;
  ir::ScratchOp scratch_;
  int64_t bytes_ = 0;
};

struct SplitReductionsPass : impl::SplitReductionsBase<SplitReductionsPass> {
  void runOnOperation() override {
    for (auto group : getOperation().getBody().getOps<ir::GroupOp>()) {
      if (group->hasAttr("failed"))
        continue;
      Splitter splitter(group);
      splitter.run();
      numShared += splitter.shared;
      numSplit += splitter.split;
    }
  }
};

} // namespace
} // namespace terra::passes
