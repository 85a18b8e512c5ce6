// Calls as the hook builds and records them.
#pragma once

#include "FakeFrontend.h"
#include "tracer/Recorder.h"

#include <functional>
#include <vector>

namespace terra::fake {

tracer::TensorView viewOf(const Tensor &tensor);

/// A CallView with what it points to.
struct BuiltCall {
  Call call;
  std::vector<tracer::TensorView> tensors;
  std::vector<tracer::ArgView> args;
  tracer::CallView view;

  BuiltCall(Call what, graph::Context context);
  BuiltCall(const BuiltCall &) = delete;
  BuiltCall &operator=(const BuiltCall &) = delete;
};

/// Records `call` around `real`, which runs it.
std::vector<Tensor> recordCall(tracer::Recorder &recorder, const Call &call, const tracer::CallView &view,
                               const std::function<std::vector<Tensor>()> &real);

/// A plain frontend that records all calls: traces for the tests of graph and tracer.
class Recording : public Frontend {
public:
  explicit Recording(uint64_t epoch = 1000) : Frontend(generator_), epoch_(epoch) { recorder_.start(epoch); }

  int64_t item(const Tensor &tensor) override;
  int64_t read(const Tensor &tensor) override;
  void end() { recorder_.end(); }
  /// Forgets the trace, as a session does that has merged it.
  void clear() { recorder_.clear(); }
  /// Begins another trace; `left`: the epoch of a walk that was left.
  void restart(uint64_t left = 0) { recorder_.start(++epoch_, left); }

  tracer::Recorder &recorder() { return recorder_; }
  tracer::Trace &events() { return recorder_.events(); }
  const tracer::Trace &events() const { return recorder_.events(); }
  const graph::Event &event(size_t index) const { return *events()[index]; }
  graph::Segment segment() const { return graph::makeSegment({events().begin(), events().end()}); }

protected:
  std::vector<Tensor> event(const Call &call) override;

private:
  Generator generator_;
  uint64_t epoch_;
  tracer::Recorder recorder_;
};

} // namespace terra::fake
