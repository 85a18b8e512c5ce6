// What was compiled, kept for other processes and the next run.
#pragma once

#include "codegen/cache/Key.h"

#include "llvm/ADT/StringRef.h"

#include <atomic>
#include <optional>
#include <string>

namespace terra::codegen {

/// A folder with one file for each key. Any number of threads and processes may use it at the same time: files appear
/// whole or not at all. It never fails: what cannot be read, or is damaged, is not there; what cannot be written is not
/// kept. Least recently used files are deleted once the folder has grown over its bound.
class DiskCache {
public:
  struct Options {
    std::string directory;
    uint64_t maxBytes = uint64_t(256) << 20;
  };
  explicit DiskCache(Options options);

  /// The user's cache, or null when there is none. The environment decides, once a process: TERRA_CACHE=0 switches it
  /// off, TERRA_CACHE_DIR names the folder (else `terra` in XDG_CACHE_HOME or ~/.cache), TERRA_CACHE_SIZE is its bound in
  /// MiB.
  static DiskCache *shared();

  std::optional<std::string> find(const Key &key);
  void insert(const Key &key, llvm::StringRef content);
  /// Deletes what is over the bound. `insert` calls it now and then.
  void prune();

  const std::string &directory() const { return options_.directory; }
  std::string pathOf(const Key &key) const;

private:
  bool prepareDirectory();
  void countWritten(uint64_t bytes);

  Options options_;
  std::atomic<uint64_t> sincePrune_;
};

} // namespace terra::codegen
