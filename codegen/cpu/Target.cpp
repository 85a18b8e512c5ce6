#include "codegen/cpu/Target.h"

#include "llvm/ExecutionEngine/Orc/JITTargetMachineBuilder.h"
#include "llvm/Support/TargetSelect.h"

#include <mutex>
#include <vector>

namespace terra::codegen {

namespace {

struct Host {
  std::unique_ptr<llvm::orc::JITTargetMachineBuilder> builder;
  std::string description, error;

  Host() {
    llvm::InitializeNativeTarget();
    llvm::InitializeNativeTargetAsmPrinter();
    auto detected = llvm::orc::JITTargetMachineBuilder::detectHost();
    if (!detected) {
      error = llvm::toString(detected.takeError());
      return;
    }
    builder = std::make_unique<llvm::orc::JITTargetMachineBuilder>(std::move(*detected));
    builder->setCodeGenOptLevel(llvm::CodeGenOptLevel::Aggressive);
    description = builder->getTargetTriple().str() + " " + builder->getCPU() + " " + builder->getFeatures().getString();
  }

  static const Host &get() {
    static const auto *host = new Host();
    return *host;
  }
};

/// Machines that nobody uses now. Never destroyed: threads may compile until the process ends.
struct Idle {
  std::mutex mutex;
  std::vector<std::unique_ptr<llvm::TargetMachine>> machines;

  static Idle &get() {
    static auto *idle = new Idle();
    return *idle;
  }
};

} // namespace

llvm::Expected<const llvm::orc::JITTargetMachineBuilder &> hostTarget() {
  const Host &host = Host::get();
  if (!host.builder)
    return llvm::createStringError(host.error);
  return *host.builder;
}

const std::string &hostDescription() { return Host::get().description; }

BorrowedMachine::BorrowedMachine() {
  Idle &idle = Idle::get();
  {
    std::lock_guard lock(idle.mutex);
    if (!idle.machines.empty()) {
      machine_ = std::move(idle.machines.back());
      idle.machines.pop_back();
      return;
    }
  }
  auto builder = hostTarget();
  if (!builder) {
    llvm::consumeError(builder.takeError());
    return;
  }
  llvm::orc::JITTargetMachineBuilder own = *builder;
  auto made = own.createTargetMachine();
  if (made)
    machine_ = std::move(*made);
  else
    llvm::consumeError(made.takeError());
}

BorrowedMachine::~BorrowedMachine() {
  if (!machine_)
    return;
  Idle &idle = Idle::get();
  std::lock_guard lock(idle.mutex);
  idle.machines.push_back(std::move(machine_));
}

} // namespace terra::codegen
