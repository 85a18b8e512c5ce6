// The machine that kernels are compiled for: the one that runs this process.
#pragma once

#include "llvm/Support/Error.h"
#include "llvm/Target/TargetMachine.h"

#include <memory>
#include <string>

namespace llvm::orc {
class JITTargetMachineBuilder;
}

namespace terra::codegen {

/// Asked once a process; an error when LLVM does not know this machine.
llvm::Expected<const llvm::orc::JITTargetMachineBuilder &> hostTarget();

/// Triple, processor and features: kernels compiled for one text must not run where it is another.
const std::string &hostDescription();

/// A target machine that the caller has to itself for a while: making one costs as much as compiling a small kernel.
class BorrowedMachine {
public:
  BorrowedMachine();
  ~BorrowedMachine();
  BorrowedMachine(const BorrowedMachine &) = delete;

  /// Null when LLVM does not know this machine.
  llvm::TargetMachine *get() const { return machine_.get(); }

private:
  std::unique_ptr<llvm::TargetMachine> machine_;
};

} // namespace terra::codegen
