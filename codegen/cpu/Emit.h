// One kernel: LLVM IR → object code.
#pragma once

#include "codegen/CompileCost.h"

#include "llvm/IR/Module.h"

#include <functional>
#include <string>

namespace terra::codegen {

/// The only symbol of an object that is looked up.
inline constexpr const char *kKernelSymbol = "terra_kernel";

/// Called with ("llvm" | "asm", text); costs time, so null unless somebody looks.
using StageCallback = std::function<void(const std::string &, const std::string &)>;

/// Optimises `module` for this machine. False, with a reason in `error`, when LLVM does not know it.
bool optimise(llvm::Module &module, const StageCallback &onStage, CompileCost &cost, std::string &error);

/// The object file of an optimised module, which is used up; empty, with a reason in `error`, when LLVM refuses.
std::string emitObject(llvm::Module &module, CompileCost &cost, std::string &error);

} // namespace terra::codegen
