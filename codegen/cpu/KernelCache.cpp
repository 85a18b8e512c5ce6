#include "codegen/cpu/KernelCache.h"

namespace terra::codegen {

std::optional<CachedKernel> KernelCache::find(const std::string &text) {
  std::lock_guard lock(mutex_);
  auto it = index_.find(text);
  if (it == index_.end())
    return std::nullopt;
  entries_.splice(entries_.begin(), entries_, it->second);
  return it->second->second;
}

void KernelCache::insert(const std::string &text, CachedKernel kernel) {
  std::lock_guard lock(mutex_);
  if (index_.count(text))
    return;
  entries_.emplace_front(text, std::move(kernel));
  index_[entries_.front().first] = entries_.begin();
  if (entries_.size() > capacity_) {
    index_.erase(entries_.back().first);
    entries_.pop_back();
  }
}

size_t KernelCache::size() {
  std::lock_guard lock(mutex_);
  return entries_.size();
}

} // namespace terra::codegen
