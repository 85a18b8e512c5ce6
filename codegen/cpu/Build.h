// Compiles kernels that no cache has.
#pragma once

#include "codegen/cpu/Emit.h"
#include "codegen/cpu/KernelStore.h"

#include <memory>
#include <unordered_map>
#include <vector>

namespace terra::codegen {

/// One kernel as LLVM IR, in a context of its own: several can be compiled at the same time.
struct PendingKernel {
  Key key;
  std::unique_ptr<llvm::LLVMContext> context;
  std::unique_ptr<llvm::Module> module;
  size_t worth = 0; ///< events that it computes
};

struct BuildOptions {
  uint32_t threads = 1;
  double budgetSeconds = 0; ///< for `cost` as a whole; no kernel is begun after it
  StageCallback onStage;    ///< with it, one thread works
};

using Kernels = std::unordered_map<Key, std::shared_ptr<KernelCode>>;

/// Compiles `pending`, what is worth most first, as far as the budget goes, into `kernels`. Threads inherit the caller's
/// priority.
void buildKernels(std::vector<PendingKernel> pending, const BuildOptions &options, KernelStore &store, Kernels &kernels,
                  CompileCost &cost, std::string &error);

} // namespace terra::codegen
