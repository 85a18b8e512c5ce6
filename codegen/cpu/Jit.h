// Object code of kernels → functions of this process.
#pragma once

#include "codegen/Abi.h"

#include "llvm/ADT/StringRef.h"

#include <memory>
#include <string>

namespace terra::codegen {

/// Machine code of one kernel; unloaded when the last reference goes.
class KernelCode {
public:
  virtual ~KernelCode() = default;
  KernelFn fn() const { return fn_; }

protected:
  KernelFn fn_ = nullptr;
};

/// Links `object`, which defines `kKernelSymbol`, into the process. Null with a reason in `error` when that fails.
std::shared_ptr<KernelCode> loadKernel(llvm::StringRef object, std::string &error);

} // namespace terra::codegen
