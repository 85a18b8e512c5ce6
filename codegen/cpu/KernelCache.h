// Kernels already compiled in this process, by the text of their code.
#pragma once

#include "codegen/cpu/Jit.h"

#include <list>
#include <mutex>
#include <optional>
#include <unordered_map>

namespace terra::codegen {

struct CachedKernel {
  KernelFn fn = nullptr;
  std::shared_ptr<CodeModule> code; ///< keeps `fn` valid
};

/// Bounded, least recently used out first. Thread-safe.
class KernelCache {
public:
  explicit KernelCache(size_t capacity) : capacity_(capacity) {}

  std::optional<CachedKernel> find(const std::string &text);
  void insert(const std::string &text, CachedKernel kernel);
  size_t size();

private:
  using Entry = std::pair<std::string, CachedKernel>;
  size_t capacity_;
  std::mutex mutex_;
  std::list<Entry> entries_; ///< most recently used first
  std::unordered_map<std::string_view, std::list<Entry>::iterator> index_;
};

} // namespace terra::codegen
