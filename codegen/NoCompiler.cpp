// A build without LLVM: every event runs through the host's kernels.
#include "codegen/CompilerEntry.h"

namespace terra::codegen {

const CompilerEntry *findCompiler(std::string &) { return nullptr; }

} // namespace terra::codegen
