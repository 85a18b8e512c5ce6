// The identity of a storage while one trace or one run of a segment is under way.
#pragma once

#include <cstdint>

namespace terra::graph {

/// Base of the runtime's Buffer. Whoever walks events (recorder or cursor) owns the tags of one epoch; a tag of another
/// epoch means "not seen yet". Epochs are never reused, so tags need no clearing.
struct StorageTag {
  uint64_t epoch = 0;
  uint32_t slot = 0;
};

} // namespace terra::graph
