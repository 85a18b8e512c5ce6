// Whole segments by content: which groups, which kernels, called how. A hit skips everything but linking and scheduling.
#pragma once

#include "codegen/Executable.h"
#include "codegen/cache/DiskCache.h"
#include "codegen/cache/Lru.h"

namespace terra::codegen {

/// What the compiler made of a segment: groups, not scheduled yet, and the content of each of their kernel calls, in order.
struct KeyedGroups {
  Groups groups;
  std::vector<Key> kernels;
};

/// Everything of a segment that the compiler can see, and nothing else: no addresses, no trace-local numbers, no source
/// lines. `target`: what machine the code is for.
Key keyOf(const graph::Segment &segment, const graph::Deaths &deaths, const std::string &target);

/// The contents of an entry; nothing when `text` is not one.
std::string serialize(const KeyedGroups &groups);
std::optional<KeyedGroups> deserialize(const std::string &text);

/// Thread-safe.
class SegmentCache {
public:
  /// `disk` may be null.
  SegmentCache(size_t capacity, DiskCache *disk) : texts_(capacity), disk_(disk) {}

  std::optional<KeyedGroups> find(const Key &key);
  void insert(const Key &key, const KeyedGroups &groups);

private:
  Lru<std::string> texts_;
  DiskCache *disk_;
};

} // namespace terra::codegen
