#include "codegen/cpu/Stages.h"

#include "codegen/cpu/CodePages.h"
#include "codegen/cpu/Numbers.h"
#include "codegen/cpu/Target.h"
#include "graph/dialect/AtenForm.h"
#include "graph/dialect/Terra.h"
#include "passes/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlow.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "llvm/ADT/StringSet.h"

#include <unordered_set>

using namespace mlir;

namespace terra::codegen {

namespace {

/// A context interns without bound and keeps what it has: each compilation makes its own, in half a millisecond.
struct Context : MLIRContext {
  Context() : MLIRContext(Threading::DISABLED) {
    loadDialect<ir::TerraDialect, func::FuncDialect, scf::SCFDialect, arith::ArithDialect, math::MathDialect,
                cf::ControlFlowDialect, LLVM::LLVMDialect>();
    registerBuiltinDialectTranslation(*this);
    registerLLVMDialectTranslation(*this);
  }
};

std::string print(Operation *op) {
  std::string text;
  llvm::raw_string_ostream os(text);
  op->print(os, OpPrintingFlags().useLocalScope()); // else the whole module is numbered each time
  return text + "\n";
}

/// For people: every op with its line of the program.
std::string printWithLines(Operation *op) {
  std::string text;
  llvm::raw_string_ostream os(text);
  op->print(os, OpPrintingFlags().enableDebugInfo(/*enable=*/true, /*prettyForm=*/true));
  const std::string unknown = " [unknown]";
  for (size_t at = 0; (at = text.find(unknown, at)) != std::string::npos;)
    text.erase(at, unknown.size());
  return text + "\n";
}

} // namespace

class Stages::Impl {
public:
  Impl(const graph::Segment &segment, const graph::Deaths &deaths, NumberChoice numbers, StageCallback onStage,
       CompileCost &cost)
      : segment_(segment), deaths_(deaths), numbers_(numbers), onStage_(std::move(onStage)), cost_(cost) {}

  const std::string &remarks() const { return remarks_; }

  bool run(KeyedGroups &result, KernelStore &store, Kernels &kernels, std::vector<PendingKernel> &pending) {
    ScopedDiagnosticHandler handler(&context_, [&](Diagnostic &d) {
      remarks_ += "// " + d.str() + "\n";
      return success();
    });
    if (StageTimer timer(cost_, Stage::Import); true)
      module_ = passes::importSegment(context_, segment_, deaths_);
    stage("imported");
    if (!runStage(Stage::Fuse, passes::addFusionStage))
      return false;
    stage("fused");
    if (!runStage(Stage::Lower, passes::addKernelStage) || !lower())
      return false;
    stage("lowered");
    result.groups = collectGroups();
    std::vector<const KernelCall *> fresh = resolve(result, store, kernels);
    giveBackCode();
    bool made = fresh.empty() || translate(fresh, result, pending);
    giveBackCode();
    return made;
  }

private:
  void stage(const char *name) {
    if (onStage_)
      onStage_(name, remarks_ + printWithLines(*module_));
  }

  template <typename Add> bool runStage(Stage stage, const Add &add) {
    StageTimer timer(cost_, stage);
    PassManager pm(&context_);
    add(pm);
    return succeeded(pm.run(*module_));
  }

  bool lower() {
    std::unique_ptr<passes::SizeMemory> memory = numbersOf(segment_, numbers_);
    return runStage(Stage::Lower, [&](OpPassManager &pm) { passes::addLoweringStage(pm, memory.get()); });
  }

  Groups collectGroups() {
    Groups groups;
    module_->walk([&](ir::GroupOp group) {
      if (group->hasAttr("failed"))
        return;
      Instruction instruction;
      instruction.kind = Instruction::Kind::Kernel;
      instruction.events.assign(group.getEvents().begin(), group.getEvents().end());
      if (auto away = group.getFusedAway())
        instruction.fusedAway.assign(away->begin(), away->end());
      addOutputs(instruction);
      for (auto launch : group.getBody().getOps<ir::LaunchOp>())
        instruction.kernels.push_back(callOf(launch));
      groups.push_back(std::move(instruction));
    });
    return groups;
  }

  void addOutputs(Instruction &instruction) {
    for (uint32_t index : instruction.events) {
      const graph::SegmentEvent &e = segment_.events[index];
      for (size_t i = 0; i < e.results.size(); ++i) {
        uint32_t slot = e.results[i].slot;
        if (slot == graph::kNever || e.event->results[i].alias != graph::Alias::Fresh ||
            llvm::is_contained(instruction.fusedAway, slot) || llvm::is_contained(instruction.outputs, slot))
          continue;
        instruction.outputs.push_back(slot);
      }
    }
  }

  static KernelCall callOf(ir::LaunchOp launch) {
    KernelCall call;
    call.name = launch.getCallee().str();
    call.extent = int64_t(launch.getExtent());
    call.grain = int64_t(launch.getGrain());
    call.serial = launch.getSerial();
    call.scratchBytes = int64_t(launch.getScratch().value_or(0));
    for (Attribute attr : launch.getViews()) {
      auto view = cast<DictionaryAttr>(attr);
      auto get = [&](const char *name) { return view.getAs<IntegerAttr>(name); };
      KernelArg arg;
      if (IntegerAttr scalar = get("scalar")) {
        arg.kind = KernelArg::Kind::Scalar;
        arg.index = uint32_t(scalar.getInt());
      } else if (IntegerAttr scratch = get("scratch")) {
        arg.kind = KernelArg::Kind::Scratch;
        arg.byteOffset = scratch.getInt();
      } else if (IntegerAttr number = get("number")) {
        arg.kind = KernelArg::Kind::Number;
        arg.byteOffset = number.getInt();
      } else {
        arg.slot = uint32_t(get("slot").getInt());
        arg.byteOffset = get("offset").getInt();
        arg.elementSize = uint32_t(get("size").getInt());
        if (IntegerAttr feed = get("feed"))
          arg.offsetFeed = uint32_t(feed.getInt());
      }
      call.args.push_back(arg);
    }
    return call;
  }

  /// The content of a kernel: its code without its name.
  Key keyOf(const std::string &name) {
    std::string text;
    for (const std::string &symbol : {name + "_body", name})
      text += print(module_->lookupSymbol(symbol));
    for (size_t at; (at = text.find("@" + name)) != std::string::npos;)
      text.replace(at, name.size() + 1, "@kernel");
    Hasher hasher("kernel");
    hasher.add(hostDescription());
    hasher.add(text);
    return hasher.finish();
  }

  /// Fills the keys, and the kernels that the caches have. Returns one call of each other kernel.
  std::vector<const KernelCall *> resolve(KeyedGroups &result, KernelStore &store, Kernels &kernels) {
    std::vector<const KernelCall *> fresh;
    std::unordered_set<Key> seen;
    for (const Instruction &instruction : result.groups)
      for (const KernelCall &call : instruction.kernels) {
        if (StageTimer timer(cost_, Stage::Cache); true)
          result.kernels.push_back(keyOf(call.name));
        const Key &key = result.kernels.back();
        if (!seen.insert(key).second || kernels.count(key))
          continue;
        std::shared_ptr<KernelCode> code = onStage_ ? nullptr : store.find(key, cost_); // LLVM's stages are to be seen
        if (code)
          kernels[key] = std::move(code);
        else
          fresh.push_back(&call);
      }
    return fresh;
  }

  bool translate(const std::vector<const KernelCall *> &fresh, const KeyedGroups &keyed,
                 std::vector<PendingKernel> &pending) {
    llvm::StringSet<> wanted;
    for (const KernelCall *call : fresh) {
      wanted.insert(call->name);
      wanted.insert(call->name + "_body");
    }
    for (Operation &op : llvm::make_early_inc_range(*module_->getBody()))
      if (auto symbol = dyn_cast<SymbolOpInterface>(op); !symbol || !wanted.contains(symbol.getName()))
        op.erase();
    if (!runStage(Stage::Translate, passes::addLlvmStage))
      return false;
    StageTimer timer(cost_, Stage::Translate);
    std::unordered_map<Key, size_t> events; // that it computes, in all calls
    auto key = keyed.kernels.begin();
    for (const Instruction &instruction : keyed.groups)
      for (const KernelCall &call : instruction.kernels) {
        if (wanted.contains(call.name)) {
          pending.push_back(translate(call.name, *key));
          if (!pending.back().module)
            return false;
        }
        events[*key++] += instruction.events.size();
      }
    for (PendingKernel &kernel : pending)
      kernel.worth = events[kernel.key];
    return true;
  }

  /// Moves one kernel, and a copy of every declaration, into a module of LLVM IR.
  PendingKernel translate(const std::string &name, const Key &key) {
    OwningOpRef<ModuleOp> part(ModuleOp::create(UnknownLoc::get(&context_)));
    for (LLVM::LLVMFuncOp function : llvm::make_early_inc_range(module_->getOps<LLVM::LLVMFuncOp>())) {
      if (function.isExternal())
        part->push_back(function.clone());
      else if (function.getName() == name || function.getName() == name + "_body")
        function->moveBefore(part->getBody(), part->getBody()->end());
    }
    PendingKernel pending{key, std::make_unique<llvm::LLVMContext>(), nullptr, 0};
    pending.module = translateModuleToLLVMIR(*part, *pending.context, "terra");
    if (!pending.module)
      return pending;
    for (llvm::Function &f : *pending.module)
      if (!f.isDeclaration())
        f.setName(f.getName() == name ? kKernelSymbol : "body");
    return pending;
  }

  Context context_;
  const graph::Segment &segment_;
  const graph::Deaths &deaths_;
  NumberChoice numbers_;
  StageCallback onStage_;
  CompileCost &cost_;
  OwningOpRef<ModuleOp> module_;
  std::string remarks_;
};

Stages::Stages(const graph::Segment &segment, const graph::Deaths &deaths, NumberChoice numbers, StageCallback onStage,
               CompileCost &cost)
    : impl_(std::make_unique<Impl>(segment, deaths, numbers, std::move(onStage), cost)) {}
Stages::~Stages() = default;

bool Stages::run(KeyedGroups &result, KernelStore &store, Kernels &kernels, std::vector<PendingKernel> &pending) {
  return impl_->run(result, store, kernels, pending);
}

const std::string &Stages::remarks() const { return impl_->remarks(); }

std::vector<std::string> loweredByStages() {
  Context context;
  return ir::loweredAtenNames(context);
}

} // namespace terra::codegen
