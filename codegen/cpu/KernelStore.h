// Kernels by the content of their code: those of this process, then those on disk.
#pragma once

#include "codegen/CompileCost.h"
#include "codegen/cache/DiskCache.h"
#include "codegen/cache/Lru.h"
#include "codegen/cpu/Jit.h"

namespace terra::codegen {

/// Thread-safe.
class KernelStore {
public:
  /// `disk` may be null.
  KernelStore(size_t capacity, DiskCache *disk) : loaded_(capacity), disk_(disk) {}

  /// Null when the kernel has to be compiled.
  std::shared_ptr<KernelCode> find(const Key &key, CompileCost &cost);
  /// Loads a newly compiled kernel and keeps it. Null, with a reason in `error`, when it cannot be loaded.
  std::shared_ptr<KernelCode> insert(const Key &key, llvm::StringRef object, CompileCost &cost, std::string &error);

private:
  Lru<std::shared_ptr<KernelCode>> loaded_;
  DiskCache *disk_;
};

} // namespace terra::codegen
