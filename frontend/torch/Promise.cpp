#include "frontend/torch/Promise.h"

#include "tracer/Rules.h"

#include <ATen/ATen.h>

namespace terra::frontend {

using graph::Alias;
using graph::kNever;
using runtime::Buffer;

namespace {

class Promiser {
public:
  Promiser(runtime::Session &session, const CallBuilder &builder)
      : session_(session), builder_(builder), expected_(session.expected()), event_(*expected_.event),
        call_(*static_cast<HostCall *>(event_.host.get())) {}

  at::Tensor make(uint32_t index) {
    const graph::Result &result = event_.results[index];
    switch (result.alias) {
    case Alias::Undefined:
      return {};
    case Alias::Same:
      return at::Tensor(
          c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>::reclaim_copy(builder_.impl(result.aliasOf)));
    case Alias::View:
      return makeTensor(c10::Storage(builder_.impl(result.aliasOf)->unsafe_storage()), result.meta,
                        tracer::resultOffset(event_, builder_.view(), index));
    case Alias::Fresh:
      break;
    }
    at::Tensor tensor = makeTensor(storageOf(expected_.results[index].slot, result), result.meta, result.meta.offset);
    for (auto [at, version] : call_.resultVersions)
      if (at == index && tensor.unsafeGetTensorImpl()->version_counter().enabled())
        tensor.unsafeGetTensorImpl()->set_version_counter(c10::VariableVersion(version));
    return tensor;
  }

  void bumpOperands() {
    for (auto [index, steps] : call_.operandVersions)
      for (uint32_t i = 0; i < steps; ++i)
        builder_.impl(index)->bump_version();
  }

private:
  /// Several results of one event may share a storage.
  c10::Storage storageOf(uint32_t slot, const graph::Result &result) {
    for (auto &[known, storage] : storages_)
      if (known == slot)
        return c10::Storage(storage);
    auto *buffer = new Buffer(size_t(session_.run().segment().slots[slot].bytes), result.meta.device);
    buffer->region = session_.region();
    c10::intrusive_ptr<c10::StorageImpl> storage = makePromisedStorage(buffer);
    session_.promise(slot, buffer);
    if (event_.results.size() > 1)
      storages_.emplace_back(slot, storage);
    return c10::Storage(std::move(storage));
  }

  runtime::Session &session_;
  const CallBuilder &builder_;
  const graph::SegmentEvent &expected_;
  const graph::Event &event_;
  const HostCall &call_;
  std::vector<std::pair<uint32_t, c10::intrusive_ptr<c10::StorageImpl>>> storages_;
};

} // namespace

void promiseResults(runtime::Session &session, const CallBuilder &builder, torch::jit::Stack *stack) {
  const graph::Event &event = *session.expected().event;
  Promiser promiser(session, builder);
  promiser.bumpOperands();
  if (event.resultCounts.size() == 1 && event.resultCounts[0] < 0) {
    at::Tensor result = promiser.make(0);
    torch::jit::drop(*stack, builder.view().numArgs);
    stack->emplace_back(std::move(result));
    return;
  }
  std::vector<c10::IValue> results;
  uint32_t index = 0;
  for (int32_t count : event.resultCounts) {
    if (count < 0) {
      results.emplace_back(promiser.make(index++));
      continue;
    }
    c10::List<at::Tensor> list;
    for (int32_t i = 0; i < count; ++i)
      list.push_back(promiser.make(index++));
    results.emplace_back(std::move(list));
  }
  torch::jit::drop(*stack, builder.view().numArgs);
  for (c10::IValue &result : results)
    stack->push_back(std::move(result));
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
