// Where the core meets the compiler. LLVM is large: the compiler is a library of its own, which most programs open late
// and some (numerics="exact") never.
#pragma once

#include "codegen/Compiler.h"

namespace terra::codegen {

struct CompilerEntry {
  uint32_t version; ///< kAbiVersion of the compiler's build
  /// As `codegen::compile`.
  std::shared_ptr<Executable> (*compile)(const graph::Segment &segment, const graph::Deaths &deaths,
                                         const CompileOptions &options);
  std::vector<std::string> (*loweredOps)();
};

/// Opens the compiler on first use. Null, with a reason in `error`, where there is none. Thread-safe.
/// OpenCompiler.cpp finds the library, LinkedCompiler.cpp is for programs that contain the compiler, NoCompiler.cpp for
/// builds without LLVM.
const CompilerEntry *findCompiler(std::string &error);

} // namespace terra::codegen

/// The compiler library's only symbol.
extern "C" __attribute__((visibility("default"))) const terra::codegen::CompilerEntry *terraCompilerEntry();
