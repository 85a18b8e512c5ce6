// A program that contains the compiler: tests and tools.
#include "codegen/CompilerEntry.h"

namespace terra::codegen {

const CompilerEntry *findCompiler(std::string &) { return terraCompilerEntry(); }

} // namespace terra::codegen
