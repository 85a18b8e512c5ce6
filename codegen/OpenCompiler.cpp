// The compiler's library lies beside the core's.
#include "codegen/CompilerEntry.h"

#include <dlfcn.h>

namespace terra::codegen {

namespace {

struct Opened {
  const CompilerEntry *entry = nullptr;
  std::string error;

  Opened() {
    std::string path = folder() + "libterra_compiler.so";
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL); // stays open: its code may be in use until the end
    if (!library) {
      error = std::string("the compiler cannot be opened: ") + dlerror();
      return;
    }
    auto get = reinterpret_cast<decltype(&terraCompilerEntry)>(dlsym(library, "terraCompilerEntry"));
    const CompilerEntry *found = get ? get() : nullptr;
    if (found && found->version == kAbiVersion)
      entry = found;
    else
      error = path + " belongs to another build of Terra; please install Terra again";
  }

  static std::string folder() {
    Dl_info info;
    static const char here = 0;
    if (!dladdr(&here, &info) || !info.dli_fname)
      return "";
    std::string path = info.dli_fname;
    size_t slash = path.rfind('/');
    return slash == std::string::npos ? "" : path.substr(0, slash + 1);
  }
};

} // namespace

const CompilerEntry *findCompiler(std::string &error) {
  static const Opened opened;
  error = opened.error;
  return opened.entry;
}

} // namespace terra::codegen
