// LLVM dialect → machine code in this process.
#pragma once

#include "codegen/Abi.h"

#include "mlir/IR/BuiltinOps.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace terra::codegen {

/// Machine code of one module; unloaded when the last reference goes.
class CodeModule {
public:
  virtual ~CodeModule() = default;
  virtual KernelFn find(const std::string &symbol) const = 0;
};

/// Called with ("llvm" | "asm", text); costs time, so null unless somebody looks.
using StageCallback = std::function<void(const std::string &, const std::string &)>;

/// Compiles `module` (LLVM dialect) for this machine at O3 and loads it. `symbols` are the functions that
/// will be asked for. Null with a reason in `error` when LLVM refuses.
std::shared_ptr<CodeModule> loadModule(mlir::ModuleOp module, const std::vector<std::string> &symbols,
                                       const StageCallback &onStage, std::string &error);

} // namespace terra::codegen
