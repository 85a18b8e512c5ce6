#include "passes/KernelEmitter.h"
#include "passes/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;

namespace terra::passes {

#define GEN_PASS_DEF_LOWERKERNELS
#include "passes/Passes.h.inc"

namespace {

/// Where a kernel is in its segment and what it is made of, without numbers.
std::string placeOf(StringRef name, const KernelAnalysis &analysis, const KernelPlan &plan) {
  llvm::hash_code code = llvm::hash_combine(uint8_t(plan.shape), plan.kept.size(), plan.reduced.size());
  for (const KernelNode &node : analysis.nodes)
    code = llvm::hash_combine(code, node.op->getName().getStringRef(), node.operands.size(), node.varies, node.stage);
  return (name + "#" + Twine(size_t(code))).str();
}

struct LowerKernelsPass : impl::LowerKernelsBase<LowerKernelsPass> {
  LowerKernelsPass() = default;
  explicit LowerKernelsPass(SizeMemory &memory) : memory(&memory) {}

  void runOnOperation() override {
    SmallVector<ir::GroupOp> groups;
    getOperation().walk([&](ir::GroupOp group) {
      if (!group->hasAttr("failed"))
        groups.push_back(group);
    });
    for (ir::GroupOp group : groups)
      if (!lower(group)) {
        group.emitRemark("has an op without a lowering for its type; its events run as externs");
        group->setAttr("failed", UnitAttr::get(&getContext()));
      }
  }

private:
  bool lower(ir::GroupOp group) {
    SmallVector<ir::KernelOp> kernels(group.getBody().getOps<ir::KernelOp>());
    SmallVector<std::string> names;
    for (auto [i, kernel] : llvm::enumerate(kernels)) {
      names.push_back("event" + std::to_string(group.getEvents().back()) + "_" + std::to_string(i));
      if (lower(kernel, names.back()))
        continue;
      for (const std::string &name : names)
        for (const std::string &symbol : {name, name + "_body"})
          if (Operation *function = getOperation().lookupSymbol(symbol))
            function->erase();
      return false;
    }
    for (ir::KernelOp kernel : kernels)
      kernel.erase();
    for (auto scratch : llvm::make_early_inc_range(group.getBody().getOps<ir::ScratchOp>()))
      scratch.erase();
    return true;
  }

  bool lower(ir::KernelOp kernel, StringRef name) {
    FailureOr<KernelAnalysis> analysis = KernelAnalysis::run(kernel);
    if (failed(analysis))
      return false;
    KernelPlan plan(*analysis);
    KernelEmitter emitter(*analysis, plan, kernel.getLoc(), &getContext());
    if (!emitter.run(getOperation(), name))
      return false;
    llvm::BitVector varying = whichVary(placeOf(name, *analysis, plan), emitter.numbers());
    emitter.finish(getOperation(), name, varying);
    addLaunch(kernel, plan, emitter, name, varying);
    return true;
  }

  llvm::BitVector whichVary(StringRef place, ArrayRef<KernelNumber> numbers) {
    if (!memory)
      return llvm::BitVector(unsigned(numbers.size()));
    SmallVector<int64_t> bits;
    for (const KernelNumber &number : numbers)
      bits.push_back(number.bits);
    return memory->whichVary(place, bits);
  }

  void addLaunch(ir::KernelOp kernel, const KernelPlan &plan, const KernelEmitter &emitter, StringRef name,
                 const llvm::BitVector &varying) {
    OpBuilder b(kernel);
    b.setInsertionPointToEnd(kernel->getBlock());
    SmallVector<Attribute> views;
    SmallVector<Value> slots;
    IntegerAttr scratch;
    for (const KernelPointer &p : emitter.pointers()) {
      NamedAttrList view;
      int64_t bytes = ScalarMath::memoryType(p.element).getIntOrFloatBitWidth() / 8;
      if (!p.slot) {
        view.append("scalar", b.getI64IntegerAttr(p.offset));
      } else if (auto memory = p.slot.getDefiningOp<ir::ScratchOp>()) {
        view.append("scratch", b.getI64IntegerAttr(p.offset * bytes));
        scratch = memory.getBytesAttr();
      } else {
        view.append("slot", b.getI64IntegerAttr(p.slot.getDefiningOp<ir::SlotOp>().getIndex()));
        view.append("offset", b.getI64IntegerAttr(p.offset * bytes));
        view.append("size", b.getI64IntegerAttr(bytes));
        if (p.feed >= 0)
          view.append("feed", b.getI64IntegerAttr(p.feed));
        slots.push_back(p.slot);
      }
      views.push_back(view.getDictionary(b.getContext()));
    }
    for (unsigned i : varying.set_bits())
      views.push_back(b.getDictionaryAttr(b.getNamedAttr("number", b.getI64IntegerAttr(emitter.numbers()[i].bits))));
    ir::LaunchOp::create(b, kernel.getLoc(), FlatSymbolRefAttr::get(b.getContext(), name),
                         b.getI64IntegerAttr(plan.extent), b.getI64IntegerAttr(plan.grain),
                         plan.extent == 1 ? b.getUnitAttr() : UnitAttr(), scratch, b.getArrayAttr(views), slots);
  }

  SizeMemory *memory = nullptr;
};

} // namespace

std::unique_ptr<Pass> createLowerKernels(SizeMemory &memory) { return std::make_unique<LowerKernelsPass>(memory); }

} // namespace terra::passes
