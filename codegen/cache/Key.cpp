#include "codegen/cache/Key.h"

#include "codegen/Abi.h"
#include "codegen/CompilerVersion.h" // made by the build from the compiler's sources

#include "llvm/ADT/StringExtras.h"
#include "llvm/Config/llvm-config.h"

namespace terra::codegen {

std::string Key::hex() const { return llvm::toHex(bytes, /*LowerCase=*/true); }

Hasher::Hasher(std::string_view kind) {
  add(kind);
  add(std::string_view(kCompilerVersion));
  add(std::string_view(LLVM_VERSION_STRING));
  add(kAbiVersion);
}

} // namespace terra::codegen
