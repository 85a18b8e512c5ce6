// Segment → terra.segment.
#include "passes/ImportCall.h"
#include "passes/Passes.h"

#include "llvm/ADT/SetVector.h"

using namespace mlir;
using terra::graph::Alias;
using terra::graph::kNever;

namespace terra::passes {

namespace {

class Importer {
public:
  Importer(MLIRContext &context, const graph::Segment &segment, const graph::Deaths &deaths)
      : context_(context), b_(&context), segment_(segment), deaths_(deaths) {}

  OwningOpRef<ModuleOp> run() {
    OwningOpRef<ModuleOp> module(ModuleOp::create(b_, b_.getUnknownLoc()));
    b_.setInsertionPointToEnd(module->getBody());
    auto segment = ir::SegmentOp::create(b_, b_.getUnknownLoc());
    b_.setInsertionPointToEnd(&segment.getBody().emplaceBlock());
    makeSlots();
    for (size_t i = 0; i < segment_.events.size(); ++i)
      if (!importGroup(i))
        importExtern(i);
    return module;
  }

private:
  void makeSlots() {
    for (size_t i = 0; i < segment_.slots.size(); ++i) {
      bool dies = !deaths_.empty() && deaths_[i] != kNever;
      slots_.push_back(ir::SlotOp::create(b_, b_.getUnknownLoc(), ir::StorageType::get(&context_),
                                          b_.getI64IntegerAttr(int64_t(i)),
                                          segment_.slots[i].external ? b_.getUnitAttr() : UnitAttr(),
                                          dies ? b_.getI64IntegerAttr(deaths_[i]) : IntegerAttr()));
    }
  }

  Location location(const graph::Event &event) {
    std::string name = event.location.empty() ? event.name() : event.location;
    return NameLoc::get(b_.getStringAttr(name));
  }

  /// Every operand and result has an element type that the dialect knows (complex numbers have none).
  static bool hasTypes(MLIRContext *context, const graph::Event &event) {
    auto known = [&](const TensorMeta &meta) {
      return meta.dtype == DType::Undefined || elementType(context, meta.dtype);
    };
    return llvm::all_of(event.inputs, [&](const graph::Operand &o) { return known(o.meta); }) &&
           llvm::all_of(event.results, [&](const graph::Result &r) { return known(r.meta); });
  }

  bool importGroup(size_t index) {
    if (!hasTypes(b_.getContext(), *segment_.events[index].event))
      return false;
    const graph::SegmentEvent &e = segment_.events[index];
    if (e.event->onlyMakesViews())
      return false;
    ImportCall call(b_, location(*e.event), e, slots_);
    return call.isPlain() && llvm::any_of(ir::formsOf(context_, e.event->name()), [&](const ir::AtenForm &form) {
             return llvm::all_of(form.guards, [&](const ir::Guard &g) { return call.holds(g); }) &&
                    importByForm(index, call, form);
           });
  }

  /// A group, or one for each element of a call on lists: FuseGroups puts those of one event together again.
  bool importByForm(size_t index, ImportCall &call, const ir::AtenForm &form) {
    SmallVector<ir::GroupOp> groups;
    for (unsigned element = 0; element < std::max(1u, call.numElements()); ++element) {
      OpBuilder::InsertionGuard guard(b_);
      groups.push_back(
          ir::GroupOp::create(b_, call.loc, b_.getDenseI64ArrayAttr({int64_t(index)}), DenseI64ArrayAttr()));
      b_.setInsertionPointToEnd(&groups.back().getBody().emplaceBlock());
      call.selectElement(element);
      if (importForm(call, form)) {
        readNumbers(index, call, groups.back());
        continue;
      }
      for (ir::GroupOp group : groups)
        group.erase();
      return false;
    }
    return true;
  }

  /// A number that the event does not look at (`ones_like(loss)`) has to be there all the same: nobody may fuse it away from its event.
  void readNumbers(size_t index, ImportCall &call, ir::GroupOp group) {
    const graph::SegmentEvent &e = segment_.events[index];
    for (unsigned n = 0; n < call.numArgs(); ++n) {
      if (!call.isTensor(n) || call.operand(n).meta.numel() != 1)
        continue;
      Value slot = slots_[e.inputs[call.arg(n).first].slot];
      if (llvm::none_of(slot.getUsers(), [&](Operation *user) { return group->isProperAncestor(user); }))
        call.value(n);
    }
  }

  bool importForm(ImportCall &call, const ir::AtenForm &form) {
    auto info = RegisteredOperationName::lookup(form.op, &context_);
    if (form.hasExpr || info->hasInterface<ir::Elementwise>())
      return importElementwise(call, form);
    return importStructured(call, form);
  }

  void importExtern(size_t index) {
    const graph::SegmentEvent &e = segment_.events[index];
    llvm::SetVector<Value> reads, writes;
    for (size_t i = 0; i < e.inputs.size(); ++i)
      if (e.inputs[i].slot != kNever)
        (e.event->inputs[i].written ? writes : reads).insert(slots_[e.inputs[i].slot]);
    for (size_t i = 0; i < e.results.size(); ++i)
      if (e.results[i].slot != kNever && e.event->results[i].alias == Alias::Fresh)
        writes.insert(slots_[e.results[i].slot]);
    bool random = e.event->op && e.event->op->has(graph::kOpRandom);
    ir::ExternOp::create(b_, location(*e.event), b_.getStringAttr(e.event->name()),
                         b_.getI64IntegerAttr(int64_t(index)),
                         e.event->onlyMakesViews() ? b_.getUnitAttr() : UnitAttr(),
                         random ? b_.getUnitAttr() : UnitAttr(), reads.getArrayRef(), writes.getArrayRef());
  }

  MLIRContext &context_;
  OpBuilder b_;
  const graph::Segment &segment_;
  const graph::Deaths &deaths_;
  SmallVector<Value> slots_;
};

} // namespace

OwningOpRef<ModuleOp> importSegment(MLIRContext &context, const graph::Segment &segment, const graph::Deaths &deaths) {
  return Importer(context, segment, deaths).run();
}

} // namespace terra::passes
