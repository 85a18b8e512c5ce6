// A call as the hook sees it: pointers into the caller's stack, nothing copied.
#pragma once

#include "graph/Event.h"
#include "graph/StorageTag.h"

#include <cstdint>
#include <string_view>

namespace terra::tracer {

struct TensorView {
  graph::StorageTag *storage = nullptr; ///< null: an undefined tensor
  const int64_t *sizes = nullptr, *strides = nullptr;
  uint32_t rank = 0;
  DType dtype = DType::Undefined;
  bool conj = false, neg = false, requiresGrad = false;
  Device device;
  int64_t offset = 0;
};

struct ArgView {
  graph::ArgKind kind = graph::ArgKind::None;
  uint32_t first = 0, count = 0; ///< tensors: range of `CallView::tensors`; lists: length
  Scalar scalar{0};
  const int64_t *ints = nullptr;
  const double *doubles = nullptr;
  std::string_view string;
};

/// Compares opaque arguments (generators, devices, …) of a call with a recorded one.
using OpaqueEqual = bool (*)(const void *hostCall, const graph::Event &event, uint32_t arg);

struct CallView {
  const graph::Op *op = nullptr;
  const ArgView *args = nullptr;
  uint32_t numArgs = 0;
  const TensorView *tensors = nullptr;
  uint32_t numTensors = 0;
  graph::Context context = 0;
  graph::Whole whole = 0;
  const void *hostCall = nullptr;
  OpaqueEqual opaqueEqual = nullptr;
};

} // namespace terra::tracer
