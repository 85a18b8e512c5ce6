// The user's own cache is no place for tests: codegen::compile runs without one here.
#include <cstdlib>

namespace {
const int off = setenv("TERRA_CACHE", "0", /*overwrite=*/1);
} // namespace
