#include "codegen/cpu/Jit.h"

#include "codegen/cpu/Emit.h"
#include "codegen/cpu/Target.h"

#include "llvm/ExecutionEngine/Orc/ExecutionUtils.h"
#include "llvm/ExecutionEngine/Orc/JITTargetMachineBuilder.h"
#include "llvm/ExecutionEngine/Orc/LLJIT.h"

#include <atomic>

namespace terra::codegen {

namespace {

using llvm::orc::JITDylib;

/// The process's linker. Made on first use and never destroyed: code may run until the process ends.
class Engine {
public:
  static Engine &get() {
    static auto *engine = new Engine();
    return *engine;
  }

  std::string error;
  std::unique_ptr<llvm::orc::LLJIT> jit;

private:
  Engine() {
    if (llvm::Error e = init())
      error = llvm::toString(std::move(e));
  }

  llvm::Error init() {
    auto target = hostTarget();
    if (!target)
      return target.takeError();
    auto made = llvm::orc::LLJITBuilder().setJITTargetMachineBuilder(*target).create();
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

/// All kernels have one symbol name: each has a library of its own.
class LoadedKernel : public KernelCode {
public:
  explicit LoadedKernel(llvm::orc::LLJIT &jit) : jit_(jit) {
    static std::atomic<uint64_t> count{0};
    library_ = &jit.getExecutionSession().createBareJITDylib("terra" + std::to_string(count++));
    library_->addToLinkOrder(jit.getMainJITDylib());
  }
  ~LoadedKernel() override { llvm::consumeError(jit_.getExecutionSession().removeJITDylib(*library_)); }

  llvm::Error load(llvm::StringRef object) {
    if (auto e = jit_.addObjectFile(*library_, llvm::MemoryBuffer::getMemBufferCopy(object, "kernel")))
      return e;
    auto address = jit_.lookup(*library_, kKernelSymbol);
    if (!address)
      return address.takeError();
    fn_ = address->toPtr<KernelFn>();
    return llvm::Error::success();
  }

private:
  llvm::orc::LLJIT &jit_;
  JITDylib *library_;
};

} // namespace

std::shared_ptr<KernelCode> loadKernel(llvm::StringRef object, std::string &error) {
  Engine &engine = Engine::get();
  error = engine.error;
  if (!error.empty())
    return nullptr;
  auto kernel = std::make_shared<LoadedKernel>(*engine.jit);
  if (llvm::Error e = kernel->load(object)) {
    error = llvm::toString(std::move(e));
    return nullptr;
  }
  return kernel;
}

} // namespace terra::codegen
