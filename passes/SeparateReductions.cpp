#include "passes/ExprBuilder.h"
#include "passes/Passes.h"
#include "passes/Slice.h"

using namespace mlir;

namespace terra::passes {

#define GEN_PASS_DEF_SEPARATEREDUCTIONS
#include "passes/Passes.h.inc"

namespace {

/// Works on one group.
class MinorReductions {
public:
  explicit MinorReductions(ir::GroupOp group) : group_(group), body_(group.getBody().front()), b_(group.getContext()) {}

  /// How many values go through scratch memory afterwards.
  int64_t separate() {
    int64_t numel = largestNumel(body_);
    SmallVector<Operation *> minor;
    for (Operation &op : body_)
      if (isa<ir::Reduction>(op) && isMinor(&op, numel))
        minor.push_back(&op);
    for (Operation *op : minor)
      if (isMajor(Slice::of(op->getOperand(0).getDefiningOp()), numel))
        pass(op->getOperand(0), [&](OpOperand &use) { return use.getOwner() == op; });
    for (Operation *op : minor) {
      llvm::SetVector<Operation *> major;
      for (auto write : body_.getOps<ir::WriteOp>())
        if (Slice slice = Slice::of(write); slice.ops.contains(op) && isMajor(slice, numel))
          major.insert(slice.ops.begin(), slice.ops.end());
      pass(op->getResult(0), [&](OpOperand &use) { return major.contains(use.getOwner()); });
    }
    if (scratch_)
      scratch_.setBytes(bytes_);
    return passed_;
  }

private:
  /// It works on what the group works on.
  static bool isMajor(const Slice &slice, int64_t numel) {
    return llvm::any_of(slice.ops, [&](Operation *op) { return isa<ir::Reduction>(op) && !isMinor(op, numel); }) ||
           slice.numel == numel;
  }

  /// Uses of the value for which `goes` holds read it from scratch memory.
  void pass(Value value, llvm::function_ref<bool(OpOperand &)> goes) {
    if (llvm::none_of(value.getUses(), goes))
      return;
    RankedTensorType type = tensorType(value);
    if (!scratch_) {
      b_.setInsertionPointToStart(&body_);
      scratch_ = ir::ScratchOp::create(b_, group_.getLoc(), b_.getI64IntegerAttr(0));
    }
    int64_t size = std::max<int64_t>(1, type.getElementTypeBitWidth() / 8);
    SmallVector<int64_t> strides = rowMajor(type.getShape());
    b_.setInsertionPointAfterValue(value);
    Location loc = value.getLoc();
    auto read = ir::ReadOp::create(b_, loc, type, scratch_, b_.getI64IntegerAttr(bytes_ / size),
                                   b_.getDenseI64ArrayAttr(strides), IntegerAttr());
    value.replaceUsesWithIf(read, goes);
    b_.setInsertionPointToEnd(&body_);
    ir::WriteOp::create(b_, loc, value, scratch_, b_.getI64IntegerAttr(bytes_ / size), b_.getDenseI64ArrayAttr(strides),
                        IntegerAttr());
    bytes_ += (type.getNumElements() * size + 63) / 64 * 64;
    ++passed_;
  }

  ir::GroupOp group_;
  Block &body_;
  OpBuilder b_;
  ir::ScratchOp scratch_;
  int64_t bytes_ = 0, passed_ = 0;
};

struct SeparateReductionsPass : impl::SeparateReductionsBase<SeparateReductionsPass> {
  void runOnOperation() override {
    for (auto group : getOperation().getBody().getOps<ir::GroupOp>())
      if (!group->hasAttr("failed"))
        numPassed += MinorReductions(group).separate();
  }
};

} // namespace
} // namespace terra::passes
