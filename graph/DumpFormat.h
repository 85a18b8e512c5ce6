// What the writer and the reader of dump files share: versions, names of enumerators, the checksum.
#pragma once

#include "graph/Event.h"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace terra::graph::format {

/// To be raised whenever an older reader would misread the file.
inline constexpr int64_t kVersion = 1;

inline constexpr std::array<const char *, 14> kArgKinds = {
    "none",          "tensor",      "tensors", "int",     "double", "bool",   "number_int",
    "number_double", "number_bool", "ints",    "doubles", "bools",  "string", "opaque"};
static_assert(kArgKinds.size() == size_t(ArgKind::Opaque) + 1);
inline constexpr std::array<const char *, 4> kAliases = {"undefined", "fresh", "view", "same"};
static_assert(kAliases.size() == size_t(Alias::Same) + 1);
inline constexpr std::array<const char *, 3> kEventKinds = {"call", "read", "end"};
static_assert(kEventKinds.size() == size_t(EventKind::End) + 1);
inline constexpr std::array<const char *, 3> kDeviceTypes = {"cpu", "cuda", "other"};
static_assert(kDeviceTypes.size() == size_t(DeviceType::Other) + 1);

/// FNV-1a over the payload's compact text: finds what was cut off, flipped or edited.
inline std::string checksum(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char c : text)
    hash = (hash ^ c) * 0x100000001b3u;
  std::string hex(16, '0');
  for (size_t i = 16; i-- > 0; hash >>= 4)
    hex[i] = "0123456789abcdef"[hash & 15];
  return hex;
}

} // namespace terra::graph::format
