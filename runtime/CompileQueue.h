// Compiles segments on a background thread; a step never waits for it.
#pragma once

#include "codegen/Compiler.h"
#include "runtime/Program.h"

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

namespace terra::runtime {

/// What a session wants to know of its compilations.
struct CompileStats {
  std::atomic<uint32_t> pending{0}, segments{0}, kernels{0};
  std::atomic<uint64_t> nanos{0}; ///< processor time
  std::atomic<double> budgetSeconds{60}; ///< processor time for all compilations; what is left after it stays extern

  void add(const codegen::Executable &executable);
  codegen::CompileCost cost() const;

private:
  mutable std::mutex mutex_;
  codegen::CompileCost cost_;
};

class CompileQueue {
public:
  ~CompileQueue() { shutdown(); }

  /// Compiles with the deaths known now, and gives the segment its new executable.
  void submit(std::shared_ptr<CompiledSegment> segment, codegen::CompileOptions options,
              std::shared_ptr<CompileStats> stats);
  /// Blocks until nothing of `stats` is pending.
  void waitFor(const CompileStats &stats);
  /// Drops what has not begun, waits for what has, and ends the thread. Idempotent.
  void shutdown();
  /// In a child after fork: the thread does not exist there.
  void forget();

private:
  struct Job {
    std::shared_ptr<CompiledSegment> segment;
    codegen::CompileOptions options;
    std::shared_ptr<CompileStats> stats;
  };
  void loop();

  std::mutex mutex_;
  std::condition_variable work_, done_;
  std::deque<Job> jobs_;
  bool stop_ = false;
  std::thread thread_; ///< started by the first job
};

} // namespace terra::runtime
