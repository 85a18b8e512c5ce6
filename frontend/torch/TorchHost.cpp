#include "frontend/torch/TorchHost.h"

#include "frontend/torch/Arguments.h"
#include "frontend/torch/Bernoulli.h"
#include "frontend/torch/Convolve.h"
#include "frontend/torch/Frontend.h"
#include "frontend/torch/HostCall.h"
#include "frontend/torch/MatrixProduct.h"
#include "frontend/torch/RunnerAllocator.h"
#include "frontend/torch/Storage.h"
#include "runtime/Run.h"
#include "tracer/Dynamic.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/record_function.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/GradMode.h>

namespace terra::frontend {

using graph::Alias;
using graph::kNever;
using runtime::Buffer;
using runtime::Memory;
using runtime::Run;

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

Memory hostAllocate(size_t bytes) {
  c10::DataPtr data = c10::GetCPUAllocator()->allocate(bytes);
  void *pointer = data.get();
  c10::DeleterFnPtr release = data.get_deleter();
  return {pointer, data.release_context(), release};
}

namespace {

class ExternCall {
public:
  ExternCall(Run &run, uint32_t index)
      : run_(run), segmentEvent_(run.segment().events[index]), event_(*segmentEvent_.event),
        call_(*static_cast<HostCall *>(event_.host.get())) {}

  void operator()() {
    torch::jit::Stack stack = makeArguments(
        call_, event_, [this](uint32_t index) { return operand(index); },
        [this](uint32_t arg) { return run_.binding.scalars.data() + segmentEvent_.scalarFeeds[arg]; });
    c10::AutoGradMode gradMode(gradModeOf(event_.context));
    AutocastScope autocast(event_.context);
    bool done =
        drawBernoulli(event_, stack) || (run_.executable->fast && (multiply(event_, stack) || convolve(event_, stack)));
    if (!done)
      call_.entry->handle.callBoxed(stack);
    takeResults(stack);
  }

private:
  at::Tensor operand(uint32_t index) {
    if (call_.firstSame.empty())
      return makeOperand(index);
    made_.resize(call_.firstSame.size());
    uint32_t first = call_.firstSame[index];
    bool same = first < index && segmentEvent_.inputs[first].slot == segmentEvent_.inputs[index].slot &&
                offsetOf(first) == offsetOf(index);
    return made_[index] = same ? made_[first] : makeOperand(index);
  }

  int64_t offsetOf(uint32_t index) const {
    uint32_t feed = segmentEvent_.inputs[index].offsetFeed;
    return feed == kNever ? event_.inputs[index].meta.offset : run_.binding.offsets[feed];
  }

  at::Tensor makeOperand(uint32_t index) {
    const graph::SlotRef &ref = segmentEvent_.inputs[index];
    if (ref.slot == kNever)
      return {};
    return makeTensor(hostStorage(run_.buffer(ref.slot)), event_.inputs[index].meta, offsetOf(index));
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
    Buffer &buffer = run_.made(segmentEvent_.results[index].slot);
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
    if (!tensor.defined() || !equal(tensor.sizes(), result.meta.sizes())) {
      tracer::markDynamic(*event_.op);
      TORCH_CHECK(false, "terra: ", event_.name(), " returned another shape than for an equal call before",
                  event_.location.empty() ? "" : " (at ", event_.location, event_.location.empty() ? "" : ")",
                  ". Its sizes depend on data. This call cannot be finished; the next ones run the operation at once");
    }
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
  std::vector<at::Tensor> made_; ///< operands, where some are the same object
};

class TorchHost final : public runtime::Host {
public:
  TorchHost() { installRunnerAllocator(); }

  void runExtern(Run &run, uint32_t index) override {
    at::AutoDispatchBelowADInplaceOrView guard;
    ExternCall(run, index)();
  }

  Memory allocate(size_t bytes, Device) override { return hostAllocate(bytes); }

  void parallelFor(int64_t extent, int64_t grain, const std::function<void(int64_t, int64_t)> &body) override {
    at::parallel_for(0, extent, grain, body);
  }

  void enterRun(Run &run) override {
    useBlockCacheOnThisThread();
    if (run.segment().events.empty())
      return;
    graph::Context context = run.segment().events[0].event->context;
    useDenormalsOf(context);
    int threads = threadsOf(context);
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
