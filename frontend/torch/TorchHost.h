// PyTorch as the host: extern ops through the dispatcher, memory from its allocator, its thread pool.
#pragma once

#include "runtime/Host.h"

namespace terra::frontend {

runtime::Host &torchHost();

} // namespace terra::frontend
