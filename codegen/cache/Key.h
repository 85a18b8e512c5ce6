// Content addresses: what a thing is made of, as 256 bits.
#pragma once

#include "llvm/Support/BLAKE3.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

namespace terra::codegen {

struct Key {
  std::array<uint8_t, 32> bytes{};

  std::string hex() const;
  bool operator==(const Key &) const = default;
};

/// Collects content. Every piece goes in with its length, so that different contents never read alike.
class Hasher {
public:
  /// `kind` keeps keys of different things apart. The version of the compiler is part of every key.
  explicit Hasher(std::string_view kind);

  void add(std::string_view text) {
    addRaw(uint64_t(text.size()));
    hash_.update(llvm::StringRef(text));
  }
  template <typename T>
    requires(std::is_arithmetic_v<T> || std::is_enum_v<T>)
  void add(T value) {
    addRaw(value);
  }
  template <typename Range>
    requires(std::is_arithmetic_v<typename Range::value_type>)
  void add(const Range &values) {
    addRaw(uint64_t(values.size()));
    for (auto value : values)
      addRaw(value);
  }
  Key finish() { return {hash_.final()}; }

private:
  template <typename T> void addRaw(T value) {
    std::array<uint8_t, sizeof(T)> bytes;
    std::memcpy(bytes.data(), &value, sizeof(T));
    hash_.update(bytes);
  }

  llvm::BLAKE3 hash_;
};

} // namespace terra::codegen

template <> struct std::hash<terra::codegen::Key> {
  size_t operator()(const terra::codegen::Key &key) const {
    size_t value;
    std::memcpy(&value, key.bytes.data(), sizeof(value));
    return value;
  }
};
