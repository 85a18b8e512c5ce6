// compile() of a build without LLVM: every event runs through the host's kernels.
#include "codegen/Compiler.h"

namespace terra::codegen {

std::shared_ptr<const Executable> compile(const graph::Segment &segment, const graph::Deaths &,
                                          const CompileOptions &) {
  return interpretOnly(segment);
}

std::vector<std::string> loweredOps() { return {}; }

} // namespace terra::codegen
