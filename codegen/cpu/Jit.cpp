#include "codegen/cpu/Jit.h"

#include "codegen/cpu/CodePages.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/ExecutionEngine/Orc/CompileUtils.h"
#include "llvm/ExecutionEngine/Orc/ExecutionUtils.h"
#include "llvm/ExecutionEngine/Orc/JITTargetMachineBuilder.h"
#include "llvm/ExecutionEngine/Orc/LLJIT.h"
#include "llvm/ExecutionEngine/Orc/ThreadSafeModule.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Transforms/Utils/Cloning.h"

#include <atomic>
#include <map>

namespace terra::codegen {

namespace {

/// The process's JIT. Made on first use and never destroyed: code may run until the process ends.
class Engine {
public:
  static Engine &get() {
    static auto *engine = new Engine();
    return *engine;
  }

  std::string error;
  std::unique_ptr<llvm::orc::LLJIT> jit;
  std::unique_ptr<llvm::TargetMachine> machine;

private:
  Engine() {
    llvm::InitializeNativeTarget();
    llvm::InitializeNativeTargetAsmPrinter();
    if (llvm::Error e = init())
      error = llvm::toString(std::move(e));
  }

  llvm::Error init() {
    auto builder = llvm::orc::JITTargetMachineBuilder::detectHost();
    if (!builder)
      return builder.takeError();
    builder->setCodeGenOptLevel(llvm::CodeGenOptLevel::Aggressive);
    auto target = builder->createTargetMachine();
    if (!target)
      return target.takeError();
    machine = std::move(*target);
    auto made = llvm::orc::LLJITBuilder().setJITTargetMachineBuilder(std::move(*builder)).create();
    if (!made)
      return made.takeError();
    jit = std::move(*made);
    // libm's functions come from the process.
    auto generator =
        llvm::orc::DynamicLibrarySearchGenerator::GetForCurrentProcess(jit->getDataLayout().getGlobalPrefix());
    if (!generator)
      return generator.takeError();
    jit->getMainJITDylib().addGenerator(std::move(*generator));
    return llvm::Error::success();
  }
};

class LoadedModule : public CodeModule {
public:
  explicit LoadedModule(llvm::orc::ResourceTrackerSP tracker) : tracker_(std::move(tracker)) {}
  ~LoadedModule() override { llvm::consumeError(tracker_->remove()); }

  void add(const std::string &symbol, KernelFn fn) { symbols_[symbol] = fn; }
  KernelFn find(const std::string &symbol) const override {
    auto it = symbols_.find(symbol);
    return it == symbols_.end() ? nullptr : it->second;
  }

private:
  llvm::orc::ResourceTrackerSP tracker_;
  std::map<std::string, KernelFn> symbols_;
};

void prepare(llvm::Module &module, const llvm::TargetMachine &machine) {
  module.setTargetTriple(machine.getTargetTriple());
  module.setDataLayout(machine.createDataLayout());
  for (llvm::Function &f : module) {
    if (f.isDeclaration())
      continue;
    f.addFnAttr("target-cpu", machine.getTargetCPU());
    f.addFnAttr("target-features", machine.getTargetFeatureString());
    f.addFnAttr("prefer-vector-width", "512");
    f.addFnAttr(llvm::Attribute::NoUnwind);
  }
}

void optimise(llvm::Module &module, llvm::TargetMachine &machine) {
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager graph;
  llvm::ModuleAnalysisManager modules;
  llvm::PassBuilder builder(&machine);
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(graph);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, graph, modules);
  builder.buildPerModuleDefaultPipeline(llvm::OptimizationLevel::O3).run(module, modules);
}

std::string irText(const llvm::Module &module) {
  std::string text;
  llvm::raw_string_ostream os(text);
  module.print(os, nullptr);
  return text;
}

std::string assembly(llvm::Module &module, llvm::TargetMachine &machine) {
  llvm::SmallString<0> text;
  llvm::raw_svector_ostream os(text);
  llvm::legacy::PassManager passes;
  auto copy = llvm::CloneModule(module);
  if (machine.addPassesToEmitFile(passes, os, nullptr, llvm::CodeGenFileType::AssemblyFile))
    return "the target cannot print assembly\n";
  passes.run(*copy);
  return std::string(text);
}

/// Symbols of different modules share one table: each module gets a prefix of its own.
std::string makeUnique(llvm::Module &module) {
  static std::atomic<uint64_t> count{0};
  std::string prefix = "terra" + std::to_string(count++) + "_";
  for (llvm::Function &f : module)
    if (!f.isDeclaration())
      f.setName(prefix + f.getName());
  return prefix;
}

/// LLVM's memory grows with the module: this many kernels are compiled at a time.
constexpr size_t kKernelsAtATime = 4;

/// Takes `kernels` and their bodies out of `module`, with copies of everything else that they may refer to.
mlir::OwningOpRef<mlir::ModuleOp> takeOut(mlir::ModuleOp module, llvm::ArrayRef<std::string> kernels,
                                          const llvm::StringSet<> &all) {
  mlir::OwningOpRef<mlir::ModuleOp> part = mlir::ModuleOp::create(module.getLoc());
  (*part)->setAttrs(module->getAttrDictionary());
  for (mlir::Operation &op : llvm::make_early_inc_range(*module.getBody())) {
    auto function = llvm::dyn_cast<mlir::LLVM::LLVMFuncOp>(op);
    llvm::StringRef name = function ? function.getName() : "";
    name.consume_back("_body");
    if (!all.contains(name))
      part->push_back(op.clone());
    else if (llvm::is_contained(kernels, name))
      op.moveBefore(part->getBody(), part->getBody()->end());
  }
  return part;
}

/// Compiles `module` and adds its `symbols` to `loaded`.
llvm::Error loadPart(Engine &engine, mlir::ModuleOp module, llvm::ArrayRef<std::string> symbols,
                     const StageCallback &onStage, llvm::orc::ResourceTrackerSP tracker, LoadedModule &loaded) {
  auto context = std::make_unique<llvm::LLVMContext>();
  std::unique_ptr<llvm::Module> ir = mlir::translateModuleToLLVMIR(module, *context, "terra");
  if (!ir)
    return llvm::createStringError("MLIR could not be translated to LLVM IR");
  prepare(*ir, *engine.machine);
  giveBackCode();
  optimise(*ir, *engine.machine);
  giveBackCode();
  if (onStage) {
    onStage("llvm", irText(*ir));
    onStage("asm", assembly(*ir, *engine.machine));
  }
  std::string prefix = makeUnique(*ir);
  if (auto e = engine.jit->addIRModule(tracker, llvm::orc::ThreadSafeModule(std::move(ir), std::move(context))))
    return e;
  for (const std::string &symbol : symbols) {
    auto address = engine.jit->lookup(prefix + symbol);
    if (!address)
      return address.takeError();
    loaded.add(symbol, address->toPtr<KernelFn>());
  }
  giveBackCode();
  return llvm::Error::success();
}

} // namespace

std::shared_ptr<CodeModule> loadModule(mlir::ModuleOp module, const std::vector<std::string> &symbols,
                                       const StageCallback &onStage, std::string &error) {
  Engine &engine = Engine::get();
  error = engine.error;
  if (!error.empty())
    return nullptr;
  giveBackCode();
  llvm::StringSet<> all;
  all.insert(symbols.begin(), symbols.end());
  auto tracker = engine.jit->getMainJITDylib().createResourceTracker();
  auto loaded = std::make_shared<LoadedModule>(tracker);
  for (llvm::ArrayRef<std::string> rest = symbols; !rest.empty();) {
    auto now = rest.take_front(kKernelsAtATime);
    rest = rest.drop_front(now.size());
    if (auto e = loadPart(engine, *takeOut(module, now, all), now, onStage, tracker, *loaded)) {
      error = llvm::toString(std::move(e));
      return nullptr;
    }
  }
  return loaded;
}

} // namespace terra::codegen
