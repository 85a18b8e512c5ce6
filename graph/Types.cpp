#include "graph/Types.h"

#include <array>

namespace terra {

namespace {
struct DTypeInfo {
  const char *name;
  size_t size;
};
constexpr std::array<DTypeInfo, 14> kDTypes = {{{"undefined", 0},
                                                {"i1", 1},
                                                {"ui8", 1},
                                                {"i8", 1},
                                                {"i16", 2},
                                                {"i32", 4},
                                                {"i64", 8},
                                                {"f16", 2},
                                                {"bf16", 2},
                                                {"f32", 4},
                                                {"f64", 8},
                                                {"c64", 8},
                                                {"c128", 16},
                                                {"other", 0}}};
} // namespace

size_t elementSize(DType dtype) { return kDTypes[size_t(dtype)].size; }
const char *name(DType dtype) { return kDTypes[size_t(dtype)].name; }

bool isFloatingPoint(DType dtype) { return dtype >= DType::Float16 && dtype <= DType::Float64; }
bool isComplex(DType dtype) { return dtype == DType::Complex64 || dtype == DType::Complex128; }
bool isIntegral(DType dtype) { return dtype >= DType::UInt8 && dtype <= DType::Int64; }

std::string toString(Device device) {
  std::string text = device.type == DeviceType::CPU ? "cpu" : device.type == DeviceType::CUDA ? "cuda" : "other";
  return device.index < 0 ? text : text + ":" + std::to_string(device.index);
}

int64_t TensorMeta::numel() const {
  int64_t n = 1;
  for (int64_t size : sizes())
    n *= size;
  return n;
}

bool TensorMeta::isContiguous() const {
  int64_t expected = 1;
  for (size_t i = rank(); i-- > 0;) {
    if (sizes()[i] == 0)
      return true;
    if (sizes()[i] != 1 && strides()[i] != expected)
      return false;
    expected *= sizes()[i];
  }
  return true;
}

int64_t TensorMeta::span() const {
  int64_t last = 0;
  for (size_t i = 0; i < rank(); ++i) {
    if (sizes()[i] == 0)
      return 0;
    last += (sizes()[i] - 1) * strides()[i];
  }
  return last + 1;
}

std::string toString(const TensorMeta &meta) {
  std::string text = name(meta.dtype);
  text += '[';
  for (size_t i = 0; i < meta.rank(); ++i)
    text += (i ? "x" : "") + std::to_string(meta.sizes()[i]);
  text += ']';
  if (!meta.isContiguous()) {
    text += " strides [";
    for (size_t i = 0; i < meta.rank(); ++i)
      text += (i ? "," : "") + std::to_string(meta.strides()[i]);
    text += ']';
  }
  if (meta.offset != 0)
    text += " +" + std::to_string(meta.offset);
  if (meta.device.type != DeviceType::CPU)
    text += " " + toString(meta.device);
  return text;
}

} // namespace terra
