// codegen::compile: hands the segment to the compiler if there is one; what it does not take runs as externs.
#include "codegen/CompilerEntry.h"

#include <chrono>

namespace terra::codegen {

std::shared_ptr<const Executable> compile(const graph::Segment &segment, const graph::Deaths &deaths,
                                          const CompileOptions &options) {
  if (options.numerics == Numerics::Exact)
    return interpretOnly(segment);
  auto start = std::chrono::steady_clock::now();
  std::string error;
  const CompilerEntry *compiler = findCompiler(error);
  if (!compiler && !error.empty() && options.onStage)
    options.onStage("failed", error);
  std::shared_ptr<Executable> executable = compiler ? compiler->compile(segment, deaths, options) : nullptr;
  if (!executable)
    return interpretOnly(segment);
  executable->compileSeconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return executable;
}

std::vector<std::string> loweredOps() {
  std::string error;
  const CompilerEntry *compiler = findCompiler(error);
  return compiler ? compiler->loweredOps() : std::vector<std::string>();
}

} // namespace terra::codegen
