#include "frontend/torch/Promise.h"

#include "frontend/torch/Frontend.h"
#include "tracer/Rules.h"

#include <ATen/ATen.h>

namespace terra::frontend {

using graph::Alias;
using graph::kNever;
using runtime::Buffer;

Promiser::Promiser(runtime::Session &session, const graph::SegmentEvent &expected, const HostCall &call,
                   const CallBuilder &builder)
    : session_(session), builder_(builder), expected_(expected), event_(*expected.event), call_(call) {}

at::Tensor Promiser::make(uint32_t index) {
  const graph::Result &result = event_.results[index];
  switch (result.alias) {
  case Alias::Undefined:
    return {};
  case Alias::Same:
    return at::Tensor(
        c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>::reclaim_copy(builder_.impl(result.aliasOf)));
  case Alias::View:
    return makeView(*builder_.impl(result.aliasOf), result.meta, tracer::resultOffset(event_, builder_.view(), index));
  case Alias::Fresh:
    break;
  }
  at::Tensor tensor = makeTensor(storageOf(expected_.results[index].slot), result.meta, result.meta.offset);
  for (auto [at, version] : call_.resultVersions)
    if (at == index && tensor.unsafeGetTensorImpl()->version_counter().enabled())
      tensor.unsafeGetTensorImpl()->set_version_counter(c10::VariableVersion(version));
  return tensor;
}

void Promiser::bumpOperands() {
  // Operands may share a counter: it moves once.
  c10::SmallVector<uint32_t, 4> targets;
  for (auto [index, steps] : call_.operandVersions)
    targets.push_back(versionOf(*builder_.impl(index)) + steps);
  for (size_t i = 0; i < targets.size(); ++i)
    for (c10::TensorImpl *impl = builder_.impl(call_.operandVersions[i].first); versionOf(*impl) < targets[i];)
      impl->bump_version();
}

c10::Storage Promiser::storageOf(uint32_t slot) {
  for (auto &[known, storage] : storages_)
    if (known == slot)
      return storage;
  const graph::Slot &info = session_.run().segment().slots[slot];
  auto *buffer = new Buffer(size_t(info.bytes), info.device);
  buffer->region = session_.region();
  c10::Storage storage(makePromisedStorage(buffer));
  session_.promise(slot, buffer);
  if (sharing_)
    storages_.emplace_back(slot, storage);
  return storage;
}

c10::Storage Promiser::lend(uint32_t slot, size_t bytes) {
  c10::Storage storage(makePromisedStorage(new Buffer(hostAllocate(bytes), bytes, Device{})));
  Buffer *buffer = bufferOf(*storage.unsafeGetStorageImpl());
  buffer->region = session_.region();
  session_.lend(slot, buffer);
  storages_.emplace_back(slot, storage);
  return storage;
}

void Promiser::lend(const std::vector<std::pair<uint32_t, size_t>> &memory) {
  for (auto [slot, bytes] : memory)
    if (slot != kNever)
      lend(slot, bytes);
}

void pushResults(const graph::Event &event, c10::ArrayRef<at::Tensor> tensors, uint32_t numArgs,
                 torch::jit::Stack *stack) {
  torch::jit::drop(*stack, numArgs);
  uint32_t index = 0;
  for (int32_t count : event.resultCounts) {
    if (count < 0) {
      stack->emplace_back(tensors[index++]);
      continue;
    }
    c10::List<at::Tensor> list;
    for (int32_t i = 0; i < count; ++i)
      list.push_back(tensors[index++]);
    stack->emplace_back(std::move(list));
  }
}

void promiseResults(runtime::Session &session, const CallBuilder &builder, torch::jit::Stack *stack) {
  const graph::SegmentEvent &expected = session.expected();
  const graph::Event &event = *expected.event;
  Promiser promiser(session, expected, *static_cast<const HostCall *>(event.host.get()), builder);
  promiser.bumpOperands();
  c10::SmallVector<at::Tensor, 4> tensors;
  if (event.results.size() > 1)
    promiser.share();
  for (uint32_t i = 0; i < event.results.size(); ++i)
    tensors.push_back(promiser.make(i));
  pushResults(event, tensors, builder.view().numArgs, stack);
}

namespace {

bool viewResult(const at::Tensor &tensor, c10::ArrayRef<c10::intrusive_ptr<c10::TensorImpl>> operands,
                tracer::ResultView &view) {
  if (!tensor.defined())
    return true;
  c10::TensorImpl &impl = *tensor.unsafeGetTensorImpl();
  if (!isPlain(impl) || impl.is_wrapped_number())
    return false;
  c10::StorageImpl *storage = impl.unsafe_storage().unsafeGetStorageImpl();
  view.tensor = viewOf(impl);
  view.tensor.storage = adopt(*storage);
  view.storageBytes = int64_t(storage->nbytes());
  for (size_t i = 0; i < operands.size(); ++i)
    if (operands[i].get() == &impl) {
      view.sameAs = int32_t(i);
      break;
    }
  return view.tensor.storage != nullptr;
}

} // namespace

bool viewResults(const torch::jit::Stack &stack, size_t base,
                 c10::ArrayRef<c10::intrusive_ptr<c10::TensorImpl>> operands, std::vector<int32_t> &counts,
                 std::vector<tracer::ResultView> &results) {
  bool ok = true;
  auto add = [&](const c10::IValue &value) {
    tracer::ResultView &view = results.emplace_back();
    if (!value.isTensor() || !viewResult(value.toTensor(), operands, view)) {
      view = {};
      ok = false;
    }
  };
  for (size_t i = base; i < stack.size(); ++i) {
    if (stack[i].isTensorList()) {
      c10::ArrayRef<c10::IValue> elements = stack[i].toListRef();
      counts.push_back(int32_t(elements.size()));
      for (const c10::IValue &element : elements)
        add(element);
    } else {
      counts.push_back(-1);
      add(stack[i]);
    }
  }
  return ok;
}

void noteResultVersions(const torch::jit::Stack &stack, size_t base, HostCall &call) {
  uint32_t index = 0;
  auto note = [&](const c10::IValue &value) {
    if (const at::Tensor &tensor = value.toTensor(); tensor.defined())
      if (uint32_t version = versionOf(*tensor.unsafeGetTensorImpl()))
        call.resultVersions.emplace_back(index, version);
    ++index;
  };
  for (size_t i = base; i < stack.size(); ++i) {
    if (stack[i].isTensor())
      note(stack[i]);
    else
      for (const c10::IValue &element : stack[i].toListRef())
        note(element);
  }
}

void markResults(const std::vector<tracer::ResultView> &results, uint64_t region) {
  for (const tracer::ResultView &result : results)
    if (auto *buffer = static_cast<Buffer *>(result.tensor.storage)) {
      buffer->graphBorn = true;
      buffer->region = region;
    }
}

} // namespace terra::frontend
