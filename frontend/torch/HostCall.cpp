#include "frontend/torch/HostCall.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <bit>

namespace terra::frontend {

namespace {

/// The tensor objects among the arguments, in the order of the event's operands.
void appendOperands(const c10::IValue &value, std::vector<const c10::TensorImpl *> &operands) {
  if (value.isTensor())
    operands.push_back(value.toTensor().unsafeGetTensorImpl());
  else if (value.isList())
    for (const c10::IValue &element : value.toListRef())
      operands.push_back(element.isTensor() ? element.toTensor().unsafeGetTensorImpl() : nullptr);
}

std::vector<uint32_t> firstSameOf(const std::vector<const c10::TensorImpl *> &operands) {
  std::vector<uint32_t> first;
  bool repeated = false;
  for (const c10::TensorImpl *impl : operands) {
    auto at = std::find(operands.begin(), operands.begin() + ptrdiff_t(first.size()), impl);
    repeated |= impl && size_t(at - operands.begin()) != first.size();
    first.push_back(uint32_t(at - operands.begin()));
  }
  return repeated ? first : std::vector<uint32_t>();
}

} // namespace

std::shared_ptr<HostCall> makeHostCall(const OpEntry &entry, const c10::IValue *args, const graph::Event &event) {
  auto call = std::make_shared<HostCall>();
  call->entry = &entry;
  call->args.reserve(entry.numArgs);
  std::vector<const c10::TensorImpl *> operands;
  for (uint32_t i = 0; i < entry.numArgs; ++i) {
    bool bound = event.args[i].kind == graph::ArgKind::Tensor || event.args[i].kind == graph::ArgKind::TensorList;
    if (bound)
      appendOperands(args[i], operands);
    // Lists were made by the dispatcher for this call: nobody changes them.
    call->args.push_back(bound ? c10::IValue() : args[i]);
  }
  call->firstSame = firstSameOf(operands);
  return call;
}

bool isDefaultGenerator(const c10::IValue &value) {
  return value.isGenerator() && value.toGenerator() == at::detail::getDefaultCPUGenerator();
}

namespace {
bool sameBits(double a, double b) { return std::bit_cast<uint64_t>(a) == std::bit_cast<uint64_t>(b); }

/// Objects are compared by identity; what is boxed anew in every call, by value.
bool same(const c10::IValue &a, const c10::IValue &b) {
  if (a.isDevice() && b.isDevice())
    return a.toDevice() == b.toDevice();
  if (a.isComplexDouble() && b.isComplexDouble()) {
    c10::complex<double> x = a.toComplexDouble(), y = b.toComplexDouble();
    return sameBits(x.real(), y.real()) && sameBits(x.imag(), y.imag());
  }
  if (a.isDouble() && b.isDouble())
    return sameBits(a.toDouble(), b.toDouble());
  if (a.isList() && b.isList()) {
    c10::ArrayRef<c10::IValue> x = a.toListRef(), y = b.toListRef();
    return std::equal(x.begin(), x.end(), y.begin(), y.end(), same);
  }
  return a.is(b);
}
} // namespace

bool opaqueEqual(const void *hostCall, const graph::Event &event, uint32_t arg) {
  auto *call = static_cast<const HostCall *>(event.host.get());
  return call && same(call->args[arg], static_cast<const c10::IValue *>(hostCall)[arg]);
}

bool recordedOpaqueEqual(const graph::Event &a, const graph::Event &b, uint32_t arg) {
  auto *x = static_cast<const HostCall *>(a.host.get());
  auto *y = static_cast<const HostCall *>(b.host.get());
  return x && y && same(x->args[arg], y->args[arg]);
}

} // namespace terra::frontend
