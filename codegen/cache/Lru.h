// A bounded map in memory.
#pragma once

#include "codegen/cache/Key.h"

#include <list>
#include <mutex>
#include <optional>
#include <unordered_map>

namespace terra::codegen {

/// Least recently used out first. Thread-safe.
template <typename Value> class Lru {
public:
  explicit Lru(size_t capacity) : capacity_(capacity) {}

  std::optional<Value> find(const Key &key) {
    std::lock_guard lock(mutex_);
    auto it = index_.find(key);
    if (it == index_.end())
      return std::nullopt;
    entries_.splice(entries_.begin(), entries_, it->second);
    return it->second->second;
  }

  /// Keeps what is there already under the same key.
  void insert(const Key &key, Value value) {
    std::optional<Value> dropped; // destroyed without the lock
    std::lock_guard lock(mutex_);
    if (index_.count(key))
      return;
    entries_.emplace_front(key, std::move(value));
    index_[key] = entries_.begin();
    if (entries_.size() <= capacity_)
      return;
    dropped = std::move(entries_.back().second);
    index_.erase(entries_.back().first);
    entries_.pop_back();
  }

  size_t size() {
    std::lock_guard lock(mutex_);
    return entries_.size();
  }

private:
  using Entry = std::pair<Key, Value>;
  size_t capacity_;
  std::mutex mutex_;
  std::list<Entry> entries_; ///< most recently used first
  std::unordered_map<Key, typename std::list<Entry>::iterator> index_;
};

} // namespace terra::codegen
