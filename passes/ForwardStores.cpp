#include "passes/ExprBuilder.h"
#include "passes/Passes.h"
#include "passes/View.h"

using namespace mlir;

namespace terra::passes {

#define GEN_PASS_DEF_FORWARDSTORES
#include "passes/Passes.h.inc"

namespace {

class Forwarder {
public:
  explicit Forwarder(ir::GroupOp group) : group_(group) {}

  /// False when the group's accesses to some slot cannot be put in SSA form.
  bool run() {
    for (Operation &op : llvm::make_early_inc_range(group_.getBody().front())) {
      if (auto read = dyn_cast<ir::ReadOp>(op); read && !forward(read))
        return false;
      if (auto write = dyn_cast<ir::WriteOp>(op); write && !record(write))
        return false;
    }
    Block &body = group_.getBody().front();
    for (Written &w : writes_) {
      if (isFusedAway(w.view.slot))
        w.op.erase();
      else
        w.op->moveBefore(&body, body.end());
    }
    return true;
  }

private:
  struct Written {
    View view;
    ir::WriteOp op;
  };

  bool forward(ir::ReadOp read) {
    View view = View::of(read);
    for (Written &w : llvm::reverse(writes_)) {
      if (disjoint(w.view, view))
        continue;
      auto shape = forwardedShape(w.view, view);
      if (!shape)
        return false;
      replace(read, w.op.getValue(), *shape);
      return true;
    }
    if (isFusedAway(view.slot))
      return false;
    // read(view); read(view) => one read: nothing the group wrote lies between them in memory
    for (ir::ReadOp earlier : reads_)
      if (earlier.getType() == read.getType() && sameView(View::of(earlier), view)) {
        read.replaceAllUsesWith(earlier.getResult());
        read.erase();
        return true;
      }
    reads_.push_back(read);
    return true;
  }

  void replace(ir::ReadOp read, Value value, ArrayRef<int64_t> shape) {
    OpBuilder b(read);
    RankedTensorType type = tensorType(value);
    if (type.getShape() != shape)
      value = ir::ReshapeOp::create(b, read.getLoc(), type.clone(shape), value);
    if (value.getType() != read.getType())
      value = ir::CastOp::create(b, read.getLoc(), read.getType(), value);
    read.replaceAllUsesWith(value);
    read.erase();
  }

  bool record(ir::WriteOp write) {
    View view = View::of(write);
    for (ir::ReadOp read : reads_)
      if (!disjoint(View::of(read), view) && !sameView(View::of(read), view))
        return false;
    for (auto it = writes_.begin(); it != writes_.end(); ++it) {
      if (disjoint(it->view, view))
        continue;
      if (!sameView(it->view, view))
        return false;
      it->op.erase(); // overwritten
      writes_.erase(it);
      break;
    }
    writes_.push_back({std::move(view), write});
    return true;
  }

  bool isFusedAway(Value slot) {
    auto away = group_.getFusedAway();
    return away && llvm::is_contained(*away, int64_t(slot.getDefiningOp<ir::SlotOp>().getIndex()));
  }

  ir::GroupOp group_;
  SmallVector<ir::ReadOp> reads_;
  SmallVector<Written> writes_;
};

struct ForwardStoresPass : impl::ForwardStoresBase<ForwardStoresPass> {
  void runOnOperation() override {
    for (auto group : getOperation().getBody().getOps<ir::GroupOp>())
      if (!group->hasAttr("failed") && !Forwarder(group).run()) {
        group.emitRemark("views of one slot overlap; its events run as externs");
        group->setAttr("failed", UnitAttr::get(&getContext()));
      }
  }
};

} // namespace
} // namespace terra::passes
