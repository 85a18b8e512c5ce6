#include "tracer/Compare.h"

#include "graph/Hash.h"

#include <algorithm>
#include <cstring>

namespace terra::tracer {

using graph::ArgKind;
using graph::mix;

namespace {

bool sameBits(double a, double b) { return std::memcmp(&a, &b, sizeof a) == 0; }

bool sameScalar(ArgKind kind, Scalar a, Scalar b) {
  return kind == ArgKind::Double || kind == ArgKind::NumberDouble ? sameBits(a.d, b.d) : a.i == b.i;
}

uint64_t mixSizes(uint64_t hash, std::span<const int64_t> sizes) {
  hash = mix(hash, sizes.size());
  for (int64_t size : sizes)
    hash = mix(hash, uint64_t(size));
  return hash;
}
} // namespace

uint64_t callKey(const CallView &call) {
  uint64_t hash = mix(reinterpret_cast<uintptr_t>(call.op), call.numTensors);
  for (uint32_t i = 0; i < call.numTensors; ++i)
    hash = mixSizes(hash, {call.tensors[i].sizes, call.tensors[i].rank});
  return hash;
}

uint64_t callKey(const graph::Event &event) {
  uint64_t hash = mix(reinterpret_cast<uintptr_t>(event.op), event.inputs.size());
  for (const graph::Operand &operand : event.inputs)
    hash = mixSizes(hash, operand.meta.sizes());
  return hash;
}

bool sameArg(const graph::Event &event, const CallView &call, uint32_t index) {
  const graph::Arg &arg = event.args[index];
  const ArgView &view = call.args[index];
  if (arg.kind != view.kind)
    return false;
  switch (arg.kind) {
  case ArgKind::None:
    return true;
  case ArgKind::Tensor:
  case ArgKind::TensorList:
    return arg.first == view.first && arg.count == view.count;
  case ArgKind::Int:
  case ArgKind::Double:
  case ArgKind::Bool:
  case ArgKind::NumberInt:
  case ArgKind::NumberDouble:
  case ArgKind::NumberBool:
    return arg.varies || sameScalar(arg.kind, arg.scalar, view.scalar);
  case ArgKind::IntList:
  case ArgKind::BoolList:
    return sameInts<int64_t>(arg.ints, {view.ints, view.count});
  case ArgKind::DoubleList:
    return arg.doubles.size() == view.count &&
           (arg.varies || std::equal(arg.doubles.begin(), arg.doubles.end(), view.doubles, sameBits));
  case ArgKind::String:
    return arg.string == view.string;
  case ArgKind::Opaque:
    return call.opaqueEqual(call.hostCall, event, index);
  }
  return false;
}

bool sameMeta(const TensorMeta &meta, const TensorView &view) {
  size_t rank = meta.rank();
  return meta.dtype == view.dtype && rank == view.rank && meta.device == view.device && meta.conj == view.conj &&
         meta.neg == view.neg && meta.requiresGrad == view.requiresGrad &&
         sameInts<int64_t>({view.sizes, rank}, meta.sizes()) && sameInts<int64_t>({view.strides, rank}, meta.strides());
}

} // namespace terra::tracer
