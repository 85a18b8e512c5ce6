#include "FakeHook.h"

#include "FakeCall.h"
#include "FakeHost.h"
#include "FakeSpans.h"

#include "tracer/Rules.h"

#include <map>

namespace terra::fake {

using graph::Alias;
using runtime::Buffer;
using runtime::Session;

void Hooked::settle(const Call &call) {
  for (const Tensor &tensor : call.tensors)
    runtime_.settle(tensor.storage->buffer(), call.op->op.params[0].written);
  if (call.op->op.has(graph::kOpRandom))
    runtime_.settleRandom();
}

std::optional<runtime::SideRun> Hooked::fetchBeside(const Tensor &tensor) {
  std::optional<runtime::SideRun> side;
  {
    std::lock_guard lock(runtime_.lock());
    side = session->sideRunFor(tensor.storage->buffer());
  }
  Generator nobodys; // a slice draws nothing
  if (side)
    for (uint32_t event : side->slice->events)
      FakeHost::compute(*side->run, event, nobodys);
  std::atomic_thread_fence(std::memory_order_acquire);
  if (side && runtime_.runner().completedTicket() >= side->source->ticket)
    return std::nullopt;
  return side;
}

void Hooked::markTouched(const Call &call) {
  for (const Tensor &tensor : call.tensors)
    tensor.storage->buffer().region = session->region();
}

std::vector<Tensor> Hooked::promise(const Call &call, const tracer::CallView &view) {
  const graph::SegmentEvent &expected = session->expected();
  std::map<uint32_t, std::shared_ptr<Storage>> storages; // results may share one
  std::vector<Tensor> results;
  for (uint32_t i = 0; i < expected.results.size(); ++i) {
    const graph::Result &result = expected.event->results[i];
    Tensor &tensor = results.emplace_back(Tensor{nullptr, result.meta});
    if (result.alias == Alias::Same) {
      tensor = call.tensors[result.aliasOf];
    } else if (result.alias == Alias::View) {
      tensor.storage = call.tensors[result.aliasOf].storage;
      tensor.meta.offset = tracer::resultOffset(*expected.event, view, i);
    } else {
      uint32_t slot = expected.results[i].slot;
      std::shared_ptr<Storage> &storage = storages[slot];
      if (!storage) {
        auto *buffer = new Buffer(size_t(session->run().segment().slots[slot].bytes), Device{});
        buffer->region = session->region();
        storage = std::make_shared<Storage>(buffer, &runtime_);
        session->promise(slot, buffer);
      }
      tensor.storage = storage;
    }
  }
  return results;
}

std::vector<Tensor> Hooked::record(const Call &call, const tracer::CallView &view,
                                   const std::function<std::vector<Tensor>()> &real) {
  std::vector<Tensor> results = recordCall(session->recorder(), call, view, real);
  for (const Tensor &tensor : results)
    tensor.storage->buffer().region = session->region();
  return results;
}

std::vector<Tensor> Hooked::inRegion(const Call &call, const std::function<std::vector<Tensor>()> &real) {
  BuiltCall built(call, context);
  Session::Action action;
  {
    std::lock_guard lock(runtime_.lock());
    action = session->onCall(built.view);
    if (action == Session::Action::Recognised) {
      markTouched(call);
      std::vector<Tensor> results = promise(call, built.view);
      session->advance();
      return results;
    }
  }
  if (action == Session::Action::Gate) {
    markTouched(call);
    if (session->failsGate())
      throw std::runtime_error("terra: injected failure");
  }
  if (action == Session::Action::Gate && call.op->op.has(graph::kOpFetch))
    if (std::optional<runtime::SideRun> side = fetchBeside(call.tensors[0])) {
      Buffer *made = &side->run->buffer(side->slot);
      made->retain();
      Tensor beside{std::make_shared<Storage>(made, &runtime_), call.tensors[0].meta};
      fetched_ = &beside;
      real();
      fetched_ = nullptr;
      return {};
    }
  settle(call);
  if (action == Session::Action::Record) {
    markTouched(call);
    return record(call, built.view, real);
  }
  std::vector<Tensor> results = real();
  if (action == Session::Action::Gate)
    for (const Tensor &result : results)
      result.storage->buffer().region = session->region();
  return results;
}

bool Hooked::recognise(const Call &call, const tracer::CallView &view, std::vector<Tensor> &results) {
  std::vector<runtime::SpanCandidate> candidates;
  session->spansNext(view, candidates);
  for (const runtime::SpanCandidate &candidate : candidates) {
    if (!session->enterSpan(candidate, view))
      continue;
    markTouched(call);
    results = promiseSpan(*session, runtime_, *candidate.span);
    session->leaveSpan(*candidate.span);
    return true;
  }
  return false;
}

/// The long way, watched.
std::vector<Tensor> Hooked::learn(const Call &call) {
  BuiltCall built(call, context);
  std::vector<Tensor> results;
  std::unique_ptr<SpanLearner> learner;
  {
    std::lock_guard lock(runtime_.lock());
    if (recognise(call, built.view, results))
      return results;
    if (session->mayLearnSpan())
      learner = std::make_unique<SpanLearner>(*session, built.view, call.tensors);
  }
  struct Scope {
    Hooked &hooked;
    ~Scope() {
      hooked.inside_ = false;
      hooked.learner_ = nullptr;
    }
  } scope{*this};
  inside_ = true;
  learner_ = learner.get();
  results = Frontend::call(call);
  if (learner)
    learner->finish(results);
  return results;
}

std::vector<Tensor> Hooked::call(const Call &call) {
  if (!session || inside_ || !mayBeSpan(*call.op) || !session->coExecuting() || !above())
    return Frontend::call(call);
  return learn(call);
}

Tensor Hooked::uninitialised(const TensorMeta &meta) {
  Tensor tensor = Frontend::uninitialised(meta);
  if (learner_)
    learner_->addUninitialised(tensor);
  return tensor;
}

std::vector<Tensor> Hooked::event(const Call &call) {
  if (session)
    return inRegion(call, [&] { return compute(call); });
  settle(call);
  return compute(call);
}

int64_t Hooked::item(const Tensor &tensor) {
  int64_t value = 0;
  Call call(ops().item, {tensor});
  auto real = [&]() -> std::vector<Tensor> {
    value = digest(fetched_ ? *fetched_ : tensor);
    return {};
  };
  if (session) {
    inRegion(call, real);
  } else {
    settle(call);
    real();
  }
  return value;
}

void Hooked::announce(const Tensor &tensor) {
  if (!session || tensor.storage->buffer().region != session->region())
    return;
  tracer::TensorView view = viewOf(tensor);
  std::lock_guard lock(runtime_.lock());
  session->onRead(&view);
}

int64_t Hooked::read(const Tensor &tensor) {
  announce(tensor);
  runtime_.settle(tensor.storage->buffer(), /*write=*/false);
  return digest(tensor);
}

void Hooked::callImmediately(const Call &call) {
  for (const Tensor &tensor : call.tensors)
    if (session && tensor.storage->buffer().region == session->region()) {
      announce(tensor);
      break;
    }
  settle(call);
  compute(call);
}

uint64_t Hooked::readGenerator() {
  if (session) {
    std::lock_guard lock(runtime_.lock());
    session->onRead(nullptr);
  }
  runtime_.settleRandom();
  return Frontend::readGenerator();
}

void Hooked::barrier() {
  if (session) {
    std::lock_guard lock(runtime_.lock());
    session->onRead(nullptr);
  }
  runtime_.drain();
}

} // namespace terra::fake
