// Segment in, Executable out: the only entry of the runtime into passes and codegen.
#pragma once

#include "codegen/Executable.h"
#include "graph/Segment.h"

#include <functional>
#include <limits>
#include <memory>
#include <string>

namespace terra::codegen {

enum class Numerics : uint8_t { Fast, Exact /* the host's own kernels only */ };

/// What becomes of the numbers in kernels that follow from sizes.
enum class NumberChoice : uint8_t {
  Remembered, ///< constants, until segments that are alike have been compiled for other sizes: then what differed are arguments
  Constants,
  Arguments
};

struct CompileOptions {
  Numerics numerics = Numerics::Fast;
  /// Called, when set, with ("imported" | "fused" | "lowered" | "llvm" | "asm", text) as the stages finish, and with
  /// ("failed", reason) when the whole segment has to run as externs.
  std::function<void(const std::string &stage, const std::string &text)> onStage;
  /// Only "failed" is reported: printing the stages costs more than half of the compile time.
  bool failuresOnly = false;
  NumberChoice numbers = NumberChoice::Remembered;
  /// Processor seconds that may be spent. Groups whose kernels are not compiled by then run as externs; how many kernels
  /// that were is in `Executable::cost.left`.
  double budgetSeconds = std::numeric_limits<double>::infinity();
  /// Threads that compile kernels at the same time, the calling one included; 0: some of the machine's cores.
  uint32_t threads = 0;
};

/// Compiles `segment` with MLIR/LLVM for the machine's CPU. `deaths` tells which storages are not outputs. Events without a
/// lowering, and groups that fail to compile, become externs: this function never fails because of the program.
/// Thread-safe. Instructions are scheduled and verified.
std::shared_ptr<const Executable> compile(const graph::Segment &segment, const graph::Deaths &deaths,
                                          const CompileOptions &options);

/// The executable without any compiled code: one extern an event. Takes microseconds.
std::shared_ptr<const Executable> interpretOnly(const graph::Segment &segment);

/// ATen overloads that the compiler can lower (in some variants), sorted; empty in builds without it.
std::vector<std::string> loweredOps();

} // namespace terra::codegen
