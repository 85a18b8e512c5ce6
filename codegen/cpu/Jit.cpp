#include "codegen/cpu/Jit.h"

#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Export.h"
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
  LoadedModule(llvm::orc::ResourceTrackerSP tracker, std::map<std::string, KernelFn> symbols)
      : tracker_(std::move(tracker)), symbols_(std::move(symbols)) {}
  ~LoadedModule() override { llvm::consumeError(tracker_->remove()); }

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

} // namespace

std::shared_ptr<CodeModule> loadModule(mlir::ModuleOp module, const std::vector<std::string> &symbols,
                                       const StageCallback &onStage, std::string &error) {
  Engine &engine = Engine::get();
  error = engine.error;
  if (!error.empty())
    return nullptr;
  auto context = std::make_unique<llvm::LLVMContext>();
  std::unique_ptr<llvm::Module> ir = mlir::translateModuleToLLVMIR(module, *context, "terra");
  if (!ir) {
    error = "MLIR could not be translated to LLVM IR";
    return nullptr;
  }
  prepare(*ir, *engine.machine);
  optimise(*ir, *engine.machine);
  if (onStage) {
    onStage("llvm", irText(*ir));
    onStage("asm", assembly(*ir, *engine.machine));
  }
  std::string prefix = makeUnique(*ir);
  auto tracker = engine.jit->getMainJITDylib().createResourceTracker();
  if (auto e = engine.jit->addIRModule(tracker, llvm::orc::ThreadSafeModule(std::move(ir), std::move(context)))) {
    error = llvm::toString(std::move(e));
    return nullptr;
  }
  std::map<std::string, KernelFn> addresses;
  for (const std::string &symbol : symbols) {
    auto address = engine.jit->lookup(prefix + symbol);
    if (!address) {
      error = llvm::toString(address.takeError());
      llvm::consumeError(tracker->remove());
      return nullptr;
    }
    addresses[symbol] = address->toPtr<KernelFn>();
  }
  return std::make_shared<LoadedModule>(std::move(tracker), std::move(addresses));
}

} // namespace terra::codegen
