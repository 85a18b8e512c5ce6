#include "frontend/torch/HostCall.h"

#include <ATen/CPUGeneratorImpl.h>

namespace terra::frontend {

std::shared_ptr<HostCall> makeHostCall(const OpEntry &entry, const c10::IValue *args, const graph::Event &event) {
  auto call = std::make_shared<HostCall>();
  call->entry = &entry;
  call->args.reserve(entry.numArgs);
  for (uint32_t i = 0; i < entry.numArgs; ++i) {
    bool bound = event.args[i].kind == graph::ArgKind::Tensor || event.args[i].kind == graph::ArgKind::TensorList;
    // Lists were made by the dispatcher for this call: nobody changes them.
    call->args.push_back(bound ? c10::IValue() : args[i]);
  }
  return call;
}

bool isDefaultGenerator(const c10::IValue &value) {
  return value.isGenerator() && value.toGenerator() == at::detail::getDefaultCPUGenerator();
}

namespace {
bool same(const c10::IValue &a, const c10::IValue &b) {
  if (a.isDevice() && b.isDevice())
    return a.toDevice() == b.toDevice();
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
