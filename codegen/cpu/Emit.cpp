#include "codegen/cpu/Emit.h"

#include "codegen/cpu/Target.h"

#include "llvm/IR/LegacyPassManager.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Transforms/Utils/Cloning.h"

namespace terra::codegen {

namespace {

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

void runPasses(llvm::Module &module, llvm::TargetMachine &machine) {
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

std::string assembly(const llvm::Module &module, llvm::TargetMachine &machine) {
  llvm::SmallString<0> text;
  llvm::raw_svector_ostream os(text);
  llvm::legacy::PassManager passes;
  auto copy = llvm::CloneModule(module);
  if (machine.addPassesToEmitFile(passes, os, nullptr, llvm::CodeGenFileType::AssemblyFile))
    return "the target cannot print assembly\n";
  passes.run(*copy);
  return std::string(text);
}

} // namespace

bool optimise(llvm::Module &module, const StageCallback &onStage, CompileCost &cost, std::string &error) {
  BorrowedMachine machine;
  if (!machine.get()) {
    error = "LLVM does not know this machine";
    return false;
  }
  {
    StageTimer timer(cost, Stage::Optimise);
    prepare(module, *machine.get());
    runPasses(module, *machine.get());
  }
  if (onStage) {
    onStage("llvm", irText(module));
    onStage("asm", assembly(module, *machine.get()));
  }
  return true;
}

std::string emitObject(llvm::Module &module, CompileCost &cost, std::string &error) {
  BorrowedMachine machine;
  StageTimer timer(cost, Stage::Emit);
  llvm::SmallString<0> object;
  llvm::raw_svector_ostream os(object);
  llvm::legacy::PassManager passes;
  llvm::MCContext *context;
  if (!machine.get() || machine.get()->addPassesToEmitMC(passes, context, os)) {
    error = "the target cannot emit object code";
    return {};
  }
  passes.run(module);
  return std::string(object);
}

} // namespace terra::codegen
