// Small blocks of memory for one thread's results, which any thread may free.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace terra::runtime {

/// What the GraphRunner allocates, the program's thread often frees, and the other way round: through malloc, the two wait for the
/// lock of an arena again and again. Here a freed block is pushed on a list of its size class without a lock, and the owner
/// takes whole lists. Size classes are four to a doubling; the memory is a reserved range of addresses, pages of which are
/// touched when they are first needed and then kept: never more than `kRange`.
class SmallBlocks {
public:
  /// Larger requests are not served.
  static constexpr size_t kMost = size_t(32) << 10;
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kRange = size_t(48) << 20;

  SmallBlocks();
  ~SmallBlocks();
  SmallBlocks(const SmallBlocks &) = delete;
  SmallBlocks &operator=(const SmallBlocks &) = delete;

  /// The process's; never destroyed, because memory may be freed until the process ends.
  static SmallBlocks &get();

  /// By the owner's thread only (one at a time). At least `bytes` (1 to `kMost`), aligned; null when the range is full.
  void *allocate(size_t bytes);
  /// By any thread. False for memory from elsewhere.
  bool release(void *block);

private:
  static constexpr size_t kPage = 4096;
  static constexpr size_t kClasses = 32;
  struct Link {
    Link *next;
  };
  struct Class {
    alignas(64) std::atomic<Link *> freed{nullptr};
    alignas(64) Link *taken = nullptr; ///< the owner's
    char *fresh = nullptr, *end = nullptr; ///< the part of a run of pages that was never handed out
  };

  /// Units of `kAlignment`: 1, 2, 3, 4, then four classes to a doubling (5, 6, 7, 8, 10, 12, 14, 16, 20, …).
  static constexpr size_t classOf(size_t bytes) {
    size_t units = (bytes + kAlignment - 1) / kAlignment;
    if (units <= 4)
      return units - 1;
    size_t shift = size_t(std::bit_width(units - 1)) - 3;
    return 4 * shift + ((units - 1) >> shift);
  }
  static constexpr size_t sizeOf(size_t index) {
    return (index < 4 ? index + 1 : (index % 4 + 5) << (index / 4 - 1)) * kAlignment;
  }
  bool startRun(Class &of, size_t index);

  char *base_, *next_, *end_;
  std::array<Class, kClasses> classes_;
  std::array<std::atomic<uint8_t>, kRange / kPage> classOfPage_{};
};

} // namespace terra::runtime
