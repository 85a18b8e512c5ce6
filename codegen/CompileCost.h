// What a compilation cost: processor time by stage, and where its kernels came from.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <ctime>

namespace terra::codegen {

enum class Stage : uint8_t {
  Import,    ///< segment → terra dialect
  Fuse,      ///< groups, and SSA inside of them
  Lower,     ///< loop nests, and loops
  Translate, ///< loops → LLVM IR
  Optimise,  ///< LLVM's passes over its IR
  Emit,      ///< instruction selection to object code
  Load,      ///< linking object code into the process
  Cache,     ///< keys, reading and writing of the caches
  Schedule   ///< the order of instructions, and its verification
};
inline constexpr size_t kStages = 9;
inline constexpr std::array<const char *, kStages> kStageNames = {"import", "fuse", "lower", "translate", "optimise",
                                                                  "emit",   "load", "cache", "schedule"};

struct CompileCost {
  std::array<double, kStages> seconds{}; ///< processor time of all threads that took part
  /// Different kernels by where their code came from. `left`: not compiled, because the budget was spent.
  uint32_t compiled = 0, fromMemory = 0, fromDisk = 0, left = 0;
  uint32_t wholeSegments = 0; ///< found finished in a cache: none of the stages before Load ran

  double total() const {
    double sum = 0;
    for (double s : seconds)
      sum += s;
    return sum;
  }
  CompileCost &operator+=(const CompileCost &other) {
    for (size_t i = 0; i < kStages; ++i)
      seconds[i] += other.seconds[i];
    compiled += other.compiled;
    fromMemory += other.fromMemory;
    fromDisk += other.fromDisk;
    left += other.left;
    wholeSegments += other.wholeSegments;
    return *this;
  }
};

/// Processor time of the calling thread: on a busy machine the clock says nothing about the work.
inline double threadSeconds() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return double(time.tv_sec) + double(time.tv_nsec) * 1e-9;
}

/// Adds the calling thread's time until the end of the scope to a stage.
class StageTimer {
public:
  StageTimer(CompileCost &cost, Stage stage) : seconds_(cost.seconds[size_t(stage)]), start_(threadSeconds()) {}
  ~StageTimer() { seconds_ += threadSeconds() - start_; }
  StageTimer(const StageTimer &) = delete;

private:
  double &seconds_;
  double start_;
};

} // namespace terra::codegen
