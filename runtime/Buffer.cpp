#include "runtime/Buffer.h"

namespace terra::runtime {

Buffer::~Buffer() {
  if (hostStorage)
    freeHostStorage(hostStorage);
  if (memory_.release)
    memory_.release(memory_.owner);
}

} // namespace terra::runtime
