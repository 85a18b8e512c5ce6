// The compiler: the pipeline of passes/, then machine code for the kernels that are new, then the instruction list.
#include "codegen/CompilerEntry.h"
#include "codegen/cpu/CodePages.h"
#include "codegen/cpu/KernelCache.h"
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

using namespace mlir;

namespace terra::codegen {

namespace {

/// MLIR's context interns without bound and its threads are not wanted: one for the process, used by one compilation
/// at a time.
struct Shared {
  std::mutex mutex;
  MLIRContext context{MLIRContext::Threading::DISABLED};
  KernelCache kernels{4096};

  Shared() {
    context.loadDialect<ir::TerraDialect, func::FuncDialect, scf::SCFDialect, arith::ArithDialect, math::MathDialect,
                        cf::ControlFlowDialect, LLVM::LLVMDialect>();
    registerBuiltinDialectTranslation(context);
    registerLLVMDialectTranslation(context);
    giveBackCode();
  }

  static Shared &get() {
    static auto *shared = new Shared();
    return *shared;
  }
};

std::string print(Operation *op) {
  std::string text;
  llvm::raw_string_ostream os(text);
  op->print(os);
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

class Compilation {
public:
  Compilation(Shared &shared, const graph::Segment &segment, const graph::Deaths &deaths, const CompileOptions &options)
      : shared_(shared), segment_(segment), deaths_(deaths), options_(options) {}

  /// Null when some stage failed as a whole; why goes to `onStage` as "failed".
  std::shared_ptr<Executable> run() {
    std::shared_ptr<Executable> executable = runStages();
    if (!executable && options_.onStage)
      options_.onStage("failed", remarks_);
    return executable;
  }

private:
  std::shared_ptr<Executable> runStages() {
    ScopedDiagnosticHandler handler(&shared_.context, [&](Diagnostic &d) {
      remarks_ += "// " + d.str() + "\n";
      return success();
    });
    module_ = passes::importSegment(shared_.context, segment_, deaths_);
    giveBackCode();
    stage("imported");
    if (!runStage(passes::addFusionStage))
      return nullptr;
    stage("fused");
    if (!runStage(passes::addKernelStage) || !runStage(passes::addLoweringStage))
      return nullptr;
    stage("lowered");
    Groups groups = collectGroups();
    if (!resolveKernels(groups))
      return nullptr;
    auto executable = std::make_shared<Executable>();
    executable->code = std::make_shared<std::vector<std::shared_ptr<CodeModule>>>(std::move(code_));
    executable->instructions = schedule(segment_, deaths_, std::move(groups));
    return executable;
  }

  void stage(const char *name) {
    if (options_.onStage && !options_.failuresOnly)
      options_.onStage(name, remarks_ + printWithLines(*module_));
  }

  bool runStage(void (*add)(OpPassManager &)) {
    PassManager pm(&shared_.context);
    add(pm);
    bool done = succeeded(pm.run(*module_));
    giveBackCode();
    return done;
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
    for (Attribute attr : launch.getViews()) {
      auto view = cast<DictionaryAttr>(attr);
      auto get = [&](const char *name) { return view.getAs<IntegerAttr>(name); };
      KernelArg arg;
      if (IntegerAttr scalar = get("scalar")) {
        arg.kind = KernelArg::Kind::Scalar;
        arg.index = uint32_t(scalar.getInt());
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

  /// The kernel's code without its name: equal texts are equal kernels.
  std::string textOf(const std::string &name) {
    std::string text;
    for (const std::string &symbol : {name + "_body", name})
      text += print(module_->lookupSymbol(symbol));
    for (size_t at; (at = text.find("@" + name)) != std::string::npos;)
      text.replace(at, name.size() + 1, "@kernel");
    return text;
  }

  /// Finds or compiles the code of every kernel.
  bool resolveKernels(Groups &groups) {
    std::unordered_map<std::string, std::string> fresh; // text → the symbol that is compiled for it
    std::vector<std::string> symbols;
    std::vector<std::pair<KernelCall *, std::string>> pending;
    for (Instruction &instruction : groups)
      for (KernelCall &call : instruction.kernels) {
        std::string text = textOf(call.name);
        auto cached = shared_.kernels.find(text);
        bool isNew = !cached && fresh.try_emplace(text, call.name).second;
        if (isNew)
          symbols.push_back(call.name);
        else
          for (const std::string &symbol : {call.name, call.name + "_body"})
            module_->lookupSymbol(symbol)->erase();
        if (cached) {
          call.fn = cached->fn;
          code_.push_back(cached->code);
        } else {
          pending.emplace_back(&call, text);
        }
      }
    if (pending.empty())
      return true;
    std::shared_ptr<CodeModule> code = compileModule(symbols);
    if (!code)
      return false;
    for (auto &[call, text] : pending) {
      call->fn = code->find(fresh.at(text));
      shared_.kernels.insert(text, {call->fn, code});
    }
    code_.push_back(code);
    return true;
  }

  std::shared_ptr<CodeModule> compileModule(const std::vector<std::string> &symbols) {
    for (Operation &op : llvm::make_early_inc_range(*module_->getBody()))
      if (isa<ir::SegmentOp>(op))
        op.erase();
    if (!runStage(passes::addLlvmStage))
      return nullptr;
    std::string error;
    auto code = loadModule(*module_, symbols, options_.failuresOnly ? StageCallback() : options_.onStage, error);
    if (!code)
      remarks_ += "// " + error + "\n";
    return code;
  }

  Shared &shared_;
  const graph::Segment &segment_;
  const graph::Deaths &deaths_;
  const CompileOptions &options_;
  OwningOpRef<ModuleOp> module_;
  std::string remarks_;
  std::vector<std::shared_ptr<CodeModule>> code_;
};

void count(Executable &executable) {
  for (const Instruction &instruction : executable.instructions) {
    executable.externCount += instruction.kind == Instruction::Kind::Extern;
    executable.kernelCount += uint32_t(instruction.kernels.size());
  }
}

std::shared_ptr<Executable> compileWithLlvm(const graph::Segment &segment, const graph::Deaths &deaths,
                                            const CompileOptions &options) {
  Shared &shared = Shared::get();
  std::lock_guard lock(shared.mutex);
  std::shared_ptr<Executable> executable = Compilation(shared, segment, deaths, options).run();
  giveBackCode();
  if (!executable)
    return nullptr;
  if (std::string violation = verify(segment, deaths, executable->instructions); !violation.empty()) {
    if (options.onStage)
      options.onStage("failed", "the instruction list breaks its contract: " + violation);
    return nullptr;
  }
  count(*executable);
  executable->fast = true;
  return executable;
}

std::vector<std::string> lowered() {
  Shared &shared = Shared::get();
  std::lock_guard lock(shared.mutex);
  return ir::loweredAtenNames(shared.context);
}

} // namespace

} // namespace terra::codegen

extern "C" const terra::codegen::CompilerEntry *terraCompilerEntry() {
  using namespace terra::codegen;
  giveBackCode(); // what loading the library touched
  static const CompilerEntry entry{kAbiVersion, &compileWithLlvm, &lowered};
  return &entry;
}
