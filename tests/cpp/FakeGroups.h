// Random legal groups of a segment, as an executable whose kernels are closures.
#pragma once

#include "codegen/Executable.h"
#include "graph/Segment.h"

#include <atomic>
#include <functional>
#include <memory>
#include <random>

namespace terra::fake {

/// The body of a kernel. `KernelFn` is a plain function pointer, so bodies live in a table with one function an entry.
using KernelBody = std::function<void(void *const *args, int64_t begin, int64_t end)>;

/// Kernels that ran, in this process.
inline std::atomic<uint64_t> kernelCalls{0};

/// Owns table entries; the executable keeps it alive as its `code`.
class KernelTable {
public:
  KernelTable() = default;
  KernelTable(const KernelTable &) = delete;
  KernelTable &operator=(const KernelTable &) = delete;
  ~KernelTable();
  /// Null when the table is full.
  codegen::KernelFn add(KernelBody body);

private:
  std::vector<size_t> entries_;
};

/// Groups events at random and fuses away what may be; the rest becomes externs. `deaths` need not be true: what
/// survives is found when the program runs. Ops that draw or may fail stay externs, as in the compiler. Null when there is nothing to group.
std::shared_ptr<const codegen::Executable> randomExecutable(std::mt19937_64 &random, const graph::Segment &segment,
                                                            const graph::Deaths &deaths);

/// Deaths as learned, some of them moved or invented.
graph::Deaths disturb(std::mt19937_64 &random, const graph::Segment &segment, graph::Deaths deaths);

} // namespace terra::fake
