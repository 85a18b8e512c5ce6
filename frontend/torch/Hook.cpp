// The way of one op call.
//
//   no region on this thread   settle the operands (wait for queued work on their storages), run
//   Immediate                  the same, inside a region: not an event
//   Record                     settle, run, record
//   Gate                       settle, run; the graph knows that it comes
//   Recognised                 return promises; the GraphRunner computes
#include "frontend/torch/Hook.h"

#include "frontend/torch/Above.h"
#include "frontend/torch/CallBuilder.h"
#include "frontend/torch/FetchBeside.h"
#include "frontend/torch/Frontend.h"
#include "frontend/torch/HostCall.h"
#include "frontend/torch/Promise.h"
#include "frontend/torch/Record.h"
#include "frontend/torch/Replay.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

namespace terra::frontend {

using runtime::Session;
using torch::jit::Stack;

namespace {

thread_local Session *session = nullptr;
/// Real work is under way on this thread: calls and reads inside it are not the program's.
thread_local int realDepth = 0;
std::function<std::string()> locationSource;

void settleValue(const c10::IValue &value, bool written) {
  if (value.isTensor()) {
    if (const at::Tensor &tensor = value.toTensor(); tensor.defined())
      settle(runtimeInstance(), *tensor.unsafeGetTensorImpl(), written);
  } else if (value.isList()) {
    for (const c10::IValue &element : value.toListRef())
      if (element.isTensor())
        settleValue(element, written);
  }
}

bool hasOwnGenerator(const OpEntry &entry, const c10::IValue *values) {
  for (uint32_t i = 0; i < entry.numArgs; ++i)
    if (entry.generatorArgs[i] && values[i].isGenerator() && !isDefaultGenerator(values[i]))
      return true;
  return false;
}

/// Queued work on anything that the call touches is finished before the call runs for real.
void settleCall(const OpEntry &entry, const Stack &stack) {
  const c10::IValue *values = stack.data() + (stack.size() - entry.numArgs);
  for (uint32_t i = 0; i < entry.numArgs; ++i)
    if (values[i].isTensor() || values[i].isList())
      settleValue(values[i], entry.op.params[i].written);
  if (entry.op.has(graph::kOpRandom) && !hasOwnGenerator(entry, values))
    runtimeInstance().settleRandom();
}

} // namespace

void runForReal(const c10::OperatorHandle &op, c10::DispatchKeySet keys, Stack *stack) {
  c10::impl::ExcludeDispatchKeyGuard guard(kBelowAutograd);
  RealScope real;
  op.redispatchBoxed(below(keys), stack);
}

std::string programLocation() { return locationSource ? locationSource() : ""; }

void markTouched(const CallBuilder &builder) {
  for (uint32_t i = 0; i < builder.numOperands(); ++i)
    if (auto *buffer = static_cast<runtime::Buffer *>(builder.view().tensors[i].storage)) {
      buffer->region = session->region();
      if (builder.written(i))
        buffer->graphBorn = true;
    }
}

namespace {

/// An op outside the graph looks at storages of the region: the graph has to know that, or it would be flushed each time.
void announceReads(const OpEntry &entry, const Stack &stack) {
  const c10::IValue *values = stack.data() + (stack.size() - entry.numArgs);
  auto touched = [](const c10::IValue &value) -> runtime::Buffer * {
    if (!value.isTensor() || !value.toTensor().defined() || !value.toTensor().unsafeGetTensorImpl()->has_storage())
      return nullptr;
    runtime::Buffer *buffer =
        bufferOf(*value.toTensor().unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl());
    return buffer && buffer->region == session->region() ? buffer : nullptr;
  };
  for (uint32_t i = 0; i < entry.numArgs; ++i) {
    const c10::IValue *tensor = touched(values[i]) ? &values[i] : nullptr;
    if (values[i].isList())
      for (const c10::IValue &element : values[i].toListRef())
        if (touched(element))
          tensor = &element;
    if (!tensor)
      continue;
    const at::Tensor &value = tensor->toTensor();
    tracer::TensorView view = viewOf(*value.unsafeGetTensorImpl());
    view.storage = touched(*tensor);
    std::lock_guard lock(runtimeInstance().lock());
    session->onRead(&view);
    return;
  }
}

bool hasMask(const tracer::CallView &call) {
  for (uint32_t i = 1; i < call.numTensors; ++i)
    if (call.tensors[i].dtype == DType::Bool || call.tensors[i].dtype == DType::UInt8)
      return true;
  return false;
}

/// True when the event's results cannot be promised: it runs on the Python thread every time.
bool isGate(const OpEntry &entry, const CallBuilder &builder, CallBuilder::Kind kind) {
  return kind == CallBuilder::Kind::Gate || entry.op.has(graph::kOpGate) ||
         (entry.indexesByMask && hasMask(builder.view())) ||
         (session->options().preciseErrors && entry.op.has(graph::kOpMayFailOnData));
}

void inRegion(const c10::OperatorHandle &op, c10::DispatchKeySet keys, Stack *stack, OpEntry &entry) {
  BuilderScope builder;
  CallBuilder::Kind kind = builder->build(entry, *stack, currentContext());
  if (kind == CallBuilder::Kind::Immediate || entry.route == Route::Immediate) {
    if (builder->writes())
      noteWriteAtOnce();
    announceReads(entry, *stack);
    settleCall(entry, *stack);
    runForReal(op, keys, stack);
    if (entry.makesScalarsOnly && builder->numOperands() == 0)
      noteConstant(stack->back());
    return;
  }
  Session::Action action;
  {
    std::lock_guard lock(runtimeInstance().lock());
    action = session->onCall(builder->view());
    if (action == Session::Action::Recognised) {
      markTouched(*builder);
      promiseResults(*session, *builder, stack);
      session->advance();
      return;
    }
  }
  std::optional<runtime::SideRun> beside;
  if (action == Session::Action::Gate) {
    markTouched(*builder);
    if (entry.op.has(graph::kOpFetch))
      beside = fetchBeside(*session, *stack);
  }
  settleCall(entry, *stack);
  if (action == Session::Action::Record) {
    markTouched(*builder);
    return Recording(*session, entry, *builder, isGate(entry, *builder, kind)).run(op, keys, stack);
  }
  size_t base = stack->size() - entry.numArgs;
  TORCH_CHECK(action != Session::Action::Gate || !session->failsGate(), "terra: injected failure");
  runForReal(op, keys, stack);
  if (action == Session::Action::Gate && session) {
    std::vector<int32_t> counts;
    std::vector<tracer::ResultView> results;
    viewResults(*stack, base, {}, counts, results);
    markResults(results, session->region());
  }
}

void hook(const c10::OperatorHandle &op, c10::DispatchKeySet keys, Stack *stack) {
  OpEntry &entry = opEntry(op);
  if (Replay *replay = Replay::current())
    return replay->answer(entry, op, keys, stack);
  if (entry.route == Route::Ignore) {
    runForReal(op, keys, stack);
    if (entry.makesUninitialised && session && realDepth == 0)
      noteUninitialised(stack->back());
    return;
  }
  if (session && realDepth == 0)
    return inRegion(op, keys, stack, entry);
  settleCall(entry, *stack);
  runForReal(op, keys, stack);
}

} // namespace

Session *currentSession() { return session; }
void setCurrentSession(Session *value) { session = value; }
bool insideReal() { return realDepth > 0; }
void setLocationSource(std::function<std::string()> source) { locationSource = std::move(source); }

void readTensor(const at::Tensor &tensor, bool exposes) {
  if (!tensor.defined() || !tensor.unsafeGetTensorImpl()->has_storage())
    return;
  c10::TensorImpl &impl = *tensor.unsafeGetTensorImpl();
  c10::StorageImpl *storage = impl.unsafe_storage().unsafeGetStorageImpl();
  runtime::Buffer *buffer = storage ? exposes ? adopt(*storage) : bufferOf(*storage) : nullptr;
  if (!buffer)
    return;
  if (session && realDepth == 0 && buffer->region == session->region()) {
    tracer::TensorView view = viewOf(impl);
    view.storage = buffer;
    std::lock_guard lock(runtimeInstance().lock());
    session->onRead(&view);
  }
  settle(runtimeInstance(), impl, /*write=*/exposes);
  if (exposes)
    buffer->exposed = true;
}

void beginReal() { ++realDepth; }
void endReal() { --realDepth; }

void barrier() {
  if (session && realDepth == 0) {
    std::lock_guard lock(runtimeInstance().lock());
    session->onRead(nullptr);
  }
  runtimeInstance().drain();
}

void readGenerator() {
  if (session && realDepth == 0) {
    std::lock_guard lock(runtimeInstance().lock());
    session->onRead(nullptr);
  }
  runtimeInstance().settleRandom();
}

TORCH_LIBRARY_IMPL(_, Fake, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&hook>()); }

} // namespace terra::frontend
