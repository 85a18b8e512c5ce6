// Element types, devices and tensor metadata as every folder of Terra sees them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace terra {

/// Element type of a tensor. `Other` covers every type that Terra never computes on itself (quantized, float8, …).
enum class DType : uint8_t {
  Undefined,
  Bool,
  UInt8,
  Int8,
  Int16,
  Int32,
  Int64,
  Float16,
  BFloat16,
  Float32,
  Float64,
  Complex64,
  Complex128,
  Other
};

enum class DeviceType : uint8_t { CPU, CUDA, Other };

struct Device {
  DeviceType type = DeviceType::CPU;
  int8_t index = -1;
  bool operator==(const Device &) const = default;
};

/// Size of one element in bytes; 0 for `Undefined` and `Other`.
size_t elementSize(DType dtype);
bool isFloatingPoint(DType dtype);
bool isComplex(DType dtype);
bool isIntegral(DType dtype); // integers, without Bool
/// "f32", "bf16", "i64", "i1", …
const char *name(DType dtype);
std::string toString(Device device);

/// What is known of a tensor without its data: shape in elements, strides in elements, storage offset in elements.
struct TensorMeta {
  DType dtype = DType::Undefined;
  Device device;
  bool conj = false, neg = false, requiresGrad = false;
  int64_t offset = 0;
  /// Sizes followed by strides, `2 * rank()` numbers.
  std::vector<int64_t> dims;

  size_t rank() const { return dims.size() / 2; }
  std::span<const int64_t> sizes() const { return {dims.data(), rank()}; }
  std::span<const int64_t> strides() const { return {dims.data() + rank(), rank()}; }
  int64_t numel() const;
  /// Row-major without gaps.
  bool isContiguous() const;
  /// Elements from `offset` to the end of the last element read; 0 when empty.
  int64_t span() const;
  bool operator==(const TensorMeta &) const = default;
};

/// "f32[2x3]" and, where they are not row-major, "f32[2x3] strides [1,2] +off".
std::string toString(const TensorMeta &meta);

/// A scalar handed to compiled code or to an extern op at run time.
union Scalar {
  int64_t i;
  double d;
};

} // namespace terra
