// LLVM has a local cache of its own (llvm/Support/Caching.h). It is not used: it ends the process when the disk is full,
// installs signal handlers (which belong to Python here), and trusts what it reads. Its pruning is used.
#include "codegen/cache/DiskCache.h"

#include "llvm/Support/CachePruning.h"
#include "llvm/Support/Chrono.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"

#include <chrono>
#include <cstdlib>
#include <unistd.h>

namespace fs = llvm::sys::fs;
using llvm::StringRef;

namespace terra::codegen {

namespace {

/// A file: magic, length of the content, checksum of the content, content.
constexpr StringRef kMagic("terra\0\0\1", 8);
constexpr size_t kHeader = 8 + 8 + 32;

std::string header(StringRef content) {
  std::string text = kMagic.str();
  char size[8];
  llvm::support::endian::write64le(size, content.size());
  text.append(size, sizeof size);
  auto sum = llvm::BLAKE3::hash(llvm::arrayRefFromStringRef(content));
  return text.append(reinterpret_cast<const char *>(sum.data()), sum.size());
}

/// Code is loaded from here: nobody else may have written it, wherever the folder is.
bool isTrusted(const fs::file_status &status) {
  bool ours = status.getUser() == geteuid() || status.getUser() == 0;
  return ours && (status.permissions() & (fs::others_write | fs::group_write)) == fs::no_perms;
}

std::string environment(const char *name) {
  const char *value = std::getenv(name);
  return value ? value : "";
}

std::string userDirectory() {
  if (std::string chosen = environment("TERRA_CACHE_DIR"); !chosen.empty())
    return chosen;
  llvm::SmallString<128> path;
  if (!llvm::sys::path::cache_directory(path))
    return {};
  llvm::sys::path::append(path, "terra");
  return std::string(path);
}

} // namespace

DiskCache *DiskCache::shared() {
  static DiskCache *cache = [] {
    Options options;
    options.directory = environment("TERRA_CACHE") == "0" ? "" : userDirectory();
    if (uint64_t mebibytes; !StringRef(environment("TERRA_CACHE_SIZE")).getAsInteger(10, mebibytes))
      options.maxBytes = mebibytes << 20;
    return options.directory.empty() || !options.maxBytes ? nullptr : new DiskCache(std::move(options));
  }();
  return cache;
}

/// The first insertion prunes: other processes may have filled the folder.
DiskCache::DiskCache(Options options) : options_(std::move(options)), sincePrune_(options_.maxBytes) {}

std::string DiskCache::pathOf(const Key &key) const {
  llvm::SmallString<128> path(options_.directory);
  llvm::sys::path::append(path, "llvmcache-" + key.hex()); // the prefix that llvm::pruneCache looks for
  return std::string(path);
}

std::optional<std::string> DiskCache::find(const Key &key) {
  std::string path = pathOf(key);
  auto file = fs::openNativeFileForRead(path);
  if (!file) {
    llvm::consumeError(file.takeError());
    return std::nullopt;
  }
  std::optional<std::string> found;
  fs::file_status status;
  if (!fs::status(*file, status) && fs::is_regular_file(status) && isTrusted(status)) {
    // These flags together keep it from being mapped: somebody might truncate the file.
    auto buffer = llvm::MemoryBuffer::getOpenFile(*file, path, status.getSize(), /*RequiresNullTerminator=*/true,
                                                  /*IsVolatile=*/true);
    StringRef text = buffer ? (*buffer)->getBuffer() : StringRef();
    if (text.size() >= kHeader && text.take_front(kHeader) == header(text.drop_front(kHeader))) {
      found = text.drop_front(kHeader).str();
      (void)fs::setLastAccessAndModificationTime(*file, std::chrono::system_clock::now(),
                                                 status.getLastModificationTime()); // systems update it once a day
    }
  }
  fs::closeFile(*file);
  if (!found)
    (void)fs::remove(path); // damaged
  return found;
}

bool DiskCache::prepareDirectory() {
  return !fs::create_directories(options_.directory, /*IgnoreExisting=*/true, fs::owner_all);
}

void DiskCache::insert(const Key &key, StringRef content) {
  if (content.size() + kHeader > options_.maxBytes / 4 || !prepareDirectory())
    return;
  llvm::SmallString<128> model(options_.directory), temporary;
  // With LLVM's prefix, so that what a killed process leaves behind is pruned too.
  llvm::sys::path::append(model, "llvmcache-temporary-%%%%%%%%%%%%");
  int file;
  if (fs::createUniqueFile(model, file, temporary, fs::OF_None, fs::owner_read | fs::owner_write))
    return;
  llvm::raw_fd_ostream os(file, /*shouldClose=*/true);
  os << header(content) << content;
  os.close();
  bool written = !os.has_error();
  os.clear_error();
  if (written && !fs::rename(temporary, pathOf(key)))
    countWritten(content.size() + kHeader);
  else
    (void)fs::remove(temporary);
}

void DiskCache::countWritten(uint64_t bytes) {
  uint64_t before = sincePrune_.fetch_add(bytes);
  if (before + bytes <= options_.maxBytes / 8 || !sincePrune_.compare_exchange_strong(before += bytes, 0))
    return;
  prune();
}

void DiskCache::prune() {
  if (!fs::disk_space(options_.directory)) // llvm::pruneCache would end the process
    return;
  llvm::CachePruningPolicy policy;
  policy.Interval = std::chrono::seconds(0);
  policy.Expiration = std::chrono::hours(24 * 30);
  policy.MaxSizeBytes = options_.maxBytes;
  llvm::pruneCache(options_.directory, policy);
}

} // namespace terra::codegen
