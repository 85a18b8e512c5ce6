// Calls of the fake framework on their way through a Session, as the PyTorch hook takes them.
#pragma once

#include "FakeFrontend.h"
#include "runtime/Session.h"

#include <functional>
#include <optional>

namespace terra::fake {

class SpanLearner;

/// The way through a session: see frontend/torch/Hook.cpp, whose steps these are, and Above.cpp for the composites.
class Hooked : public Frontend {
public:
  Hooked(runtime::Runtime &runtime, Generator &generator) : Frontend(generator), runtime_(runtime) {}

  std::vector<Tensor> call(const Call &call) override;
  int64_t item(const Tensor &tensor) override;
  int64_t read(const Tensor &tensor) override;
  void callImmediately(const Call &call) override;
  uint64_t readGenerator() override;
  void barrier() override;
  Tensor uninitialised(const TensorMeta &meta) override;

  /// The region under way, or null.
  runtime::Session *session = nullptr;
  /// Whether the next call may be recognised, or learned, as a span.
  std::function<bool()> above = [] { return true; };

protected:
  std::vector<Tensor> event(const Call &call) override;
  runtime::Runtime *owner() override { return &runtime_; }

private:
  std::vector<Tensor> learn(const Call &call);
  bool recognise(const Call &call, const tracer::CallView &view, std::vector<Tensor> &results);
  std::vector<Tensor> inRegion(const Call &call, const std::function<std::vector<Tensor>()> &real);
  std::vector<Tensor> promise(const Call &call, const tracer::CallView &view);
  std::vector<Tensor> record(const Call &call, const tracer::CallView &view,
                             const std::function<std::vector<Tensor>()> &real);
  void settle(const Call &call);
  /// See frontend/torch/FetchBeside.h.
  std::optional<runtime::SideRun> fetchBeside(const Tensor &tensor);
  void announce(const Tensor &tensor);
  void markTouched(const Call &call);

  runtime::Runtime &runtime_;
  SpanLearner *learner_ = nullptr;
  const Tensor *fetched_ = nullptr; ///< computed beside the queue, in place of what is fetched
  bool inside_ = false; ///< of a call that is not recognised as a whole
};

} // namespace terra::fake
