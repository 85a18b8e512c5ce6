// Hashes for tables in memory. Keys of what is stored are codegen/cache's.
#pragma once

#include <cstdint>

namespace terra::graph {

inline uint64_t mix(uint64_t hash, uint64_t value) { return (hash ^ value) * 0x9e3779b97f4a7c15ull + (hash >> 29); }

} // namespace terra::graph
