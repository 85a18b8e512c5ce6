// codegen::compile: hands the segment to the compiler if there is one; what it does not take runs as externs.
#include "codegen/CompilerEntry.h"

namespace terra::codegen {

std::shared_ptr<const Executable> compile(const graph::Segment &segment, const graph::Deaths &deaths,
                                          const CompileOptions &options) {
  if (options.numerics == Numerics::Exact)
    return interpretOnly(segment);
  std::string error;
  const CompilerEntry *compiler = findCompiler(error);
  if (!compiler && !error.empty() && options.onStage)
    options.onStage("failed", error);
  std::shared_ptr<Executable> executable = compiler ? compiler->compile(segment, deaths, options) : nullptr;
  if (!executable)
    return interpretOnly(segment);
  return executable;
}

std::vector<std::string> loweredOps() {
  std::string error;
  const CompilerEntry *compiler = findCompiler(error);
  return compiler ? compiler->loweredOps() : std::vector<std::string>();
}

} // namespace terra::codegen
