// PyTorch as the host: extern ops through the dispatcher, memory from its allocator, its thread pool.
#pragma once

#include "runtime/Host.h"

#include <c10/core/Storage.h>

namespace terra::frontend {

runtime::Host &torchHost();

/// The runner's own storage object on a buffer's memory, or that of whoever has a SideRun. It owns nothing: the run holds the buffer.
c10::Storage hostStorage(runtime::Buffer &buffer);

} // namespace terra::frontend
