#include "frontend/torch/TorchHost.h"

#include "frontend/torch/Frontend.h"
#include "frontend/torch/HostCall.h"
#include "frontend/torch/Storage.h"
#include "runtime/Run.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/record_function.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/GradMode.h>

namespace terra::frontend {

using graph::Alias;
using graph::ArgKind;
using graph::kNever;
using runtime::Buffer;
using runtime::Memory;
using runtime::Run;

Memory hostAllocate(size_t bytes) {
  c10::DataPtr data = c10::GetDefaultCPUAllocator()->allocate(bytes);
  void *pointer = data.get();
  c10::DeleterFnPtr release = data.get_deleter();
  return {pointer, data.release_context(), release};
}

namespace {

/// The runner's own storage object on a buffer's memory. It owns nothing: the run holds the buffer.
c10::Storage hostStorage(Buffer &buffer) {
  if (!buffer.hostStorage) {
    auto storage = c10::make_intrusive<c10::StorageImpl>(
        c10::StorageImpl::use_byte_size_t(), c10::SymInt(int64_t(buffer.bytes())),
        c10::DataPtr(buffer.data(), c10::Device(c10::kCPU)), nullptr, /*resizable=*/false);
    buffer.hostStorage = storage.release();
    buffer.freeHostStorage = [](void *storage) {
      c10::intrusive_ptr<c10::StorageImpl>::reclaim(static_cast<c10::StorageImpl *>(storage));
    };
  }
  return c10::Storage(
      c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(static_cast<c10::StorageImpl *>(buffer.hostStorage)));
}

class ExternCall {
public:
  ExternCall(Run &run, uint32_t index)
      : run_(run), segmentEvent_(run.segment().events[index]), event_(*segmentEvent_.event),
        call_(*static_cast<HostCall *>(event_.host.get())) {}

  void operator()() {
    torch::jit::Stack stack;
    stack.reserve(call_.args.size() + 2);
    for (uint32_t i = 0; i < call_.args.size(); ++i)
      stack.push_back(argument(i));
    c10::AutoGradMode gradMode(gradModeOf(event_.context));
    call_.entry->handle.callBoxed(stack);
    takeResults(stack);
  }

private:
  at::Tensor operand(uint32_t index) {
    const graph::SlotRef &ref = segmentEvent_.inputs[index];
    if (ref.slot == kNever)
      return {};
    const TensorMeta &meta = event_.inputs[index].meta;
    int64_t offset = ref.offsetFeed == kNever ? meta.offset : run_.binding.offsets[ref.offsetFeed];
    return makeTensor(hostStorage(run_.buffer(ref.slot)), meta, offset);
  }

  c10::IValue argument(uint32_t index) {
    const graph::Arg &arg = event_.args[index];
    switch (arg.kind) {
    case ArgKind::Tensor:
      return operand(arg.first);
    case ArgKind::TensorList:
      return tensorList(index, arg);
    default:
      return arg.varies ? feed(arg, index) : call_.args[index];
    }
  }

  c10::IValue tensorList(uint32_t index, const graph::Arg &arg) {
    const c10::TypePtr &type = call_.entry->handle.schema().arguments()[index].type();
    bool optionals = type->castRaw<c10::ListType>() &&
                     type->castRaw<c10::ListType>()->getElementType()->kind() == c10::TypeKind::OptionalType;
    if (optionals) {
      c10::List<std::optional<at::Tensor>> list;
      for (uint32_t i = 0; i < arg.count; ++i) {
        at::Tensor tensor = operand(arg.first + i);
        list.push_back(tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt);
      }
      return list;
    }
    c10::List<at::Tensor> list;
    for (uint32_t i = 0; i < arg.count; ++i)
      list.push_back(operand(arg.first + i));
    return list;
  }

  static at::Tensor wrapped(const c10::Scalar &value) {
    at::Tensor tensor = at::scalar_tensor(value, at::TensorOptions().dtype(value.type()));
    tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
    return tensor;
  }

  c10::IValue feed(const graph::Arg &arg, uint32_t index) {
    const Scalar *value = run_.binding.scalars.data() + segmentEvent_.scalarFeeds[index];
    switch (arg.kind) {
    case ArgKind::NumberDouble:
      return wrapped(value->d);
    case ArgKind::NumberInt:
      return wrapped(value->i);
    case ArgKind::Double:
      return value->d;
    case ArgKind::DoubleList: {
      c10::List<c10::IValue> list = call_.args[index].deepcopy().toList();
      for (uint32_t i = 0; i < arg.count; ++i)
        list.set(i, value[i].d);
      return list;
    }
    default:
      return value->i;
    }
  }

  void takeResults(torch::jit::Stack &stack) {
    uint32_t index = 0;
    for (c10::IValue &value : stack) {
      if (value.isTensor()) {
        take(index++, value.toTensor());
      } else if (value.isTensorList()) {
        for (const c10::IValue &element : value.toListRef())
          take(index++, element.toTensor());
      }
    }
  }

  void take(uint32_t index, const at::Tensor &tensor) {
    const graph::Result &result = event_.results[index];
    if (result.alias != Alias::Fresh)
      return;
    Buffer &buffer = run_.buffer(segmentEvent_.results[index].slot);
    if (buffer.state() != Buffer::State::Pending)
      return; // a second result on the same storage
    at::Tensor expected = asPromised(tensor, result, buffer);
    buffer.fulfil(
        memoryOf(c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(expected.storage().unsafeGetStorageImpl())));
  }

  /// The promise fixed sizes, strides and storage; a kernel that chose others is copied.
  at::Tensor asPromised(const at::Tensor &tensor, const graph::Result &result, const Buffer &buffer) {
    auto equal = [](c10::IntArrayRef a, std::span<const int64_t> b) {
      return std::equal(a.begin(), a.end(), b.begin(), b.end());
    };
    TORCH_CHECK(tensor.defined() && equal(tensor.sizes(), result.meta.sizes()), "terra: ", event_.name(),
                " returned another shape than when it was recorded; please report this op",
                event_.location.empty() ? "" : " (at ", event_.location, event_.location.empty() ? "" : ")");
    bool fits = equal(tensor.strides(), result.meta.strides()) && tensor.storage_offset() == result.meta.offset &&
                tensor.storage().nbytes() >= buffer.bytes() && !sharesOperand(tensor);
    if (fits)
      return tensor;
    at::Tensor copy = at::detail::make_tensor<c10::TensorImpl>(
        c10::Storage(c10::Storage::use_byte_size_t(), int64_t(buffer.bytes()), c10::GetDefaultCPUAllocator(), false),
        c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
    copy.unsafeGetTensorImpl()->set_sizes_and_strides(
        tensor.sizes(), c10::IntArrayRef(result.meta.strides().data(), result.meta.rank()), result.meta.offset);
    copy.copy_(tensor);
    return copy;
  }

  bool sharesOperand(const at::Tensor &tensor) const {
    for (const graph::SlotRef &ref : segmentEvent_.inputs)
      if (ref.slot != kNever && run_.buffer(ref.slot).hostStorage == tensor.storage().unsafeGetStorageImpl())
        return true;
    return false;
  }

  Run &run_;
  const graph::SegmentEvent &segmentEvent_;
  const graph::Event &event_;
  const HostCall &call_;
};

class TorchHost final : public runtime::Host {
public:
  void runExtern(Run &run, uint32_t index) override {
    at::AutoDispatchBelowADInplaceOrView guard;
    ExternCall(run, index)();
  }

  Memory allocate(size_t bytes, Device) override { return hostAllocate(bytes); }

  void parallelFor(int64_t extent, int64_t grain, const std::function<void(int64_t, int64_t)> &body) override {
    at::parallel_for(0, extent, grain, body);
  }

  void enterRun(Run &run) override {
    if (run.segment().events.empty())
      return;
    int threads = threadsOf(run.segment().events[0].event->context);
    if (threads > 0 && threads != at::get_num_threads())
      at::set_num_threads(threads);
  }
};

} // namespace

runtime::Host &torchHost() {
  static TorchHost &host = *new TorchHost();
  return host;
}

} // namespace terra::frontend
