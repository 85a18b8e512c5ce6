// A call above autograd that goes its long way is watched: the events that it caused become a span.
#pragma once

#include "frontend/torch/CallBuilder.h"
#include "frontend/torch/CallNode.h"
#include "runtime/BufferRef.h"
#include "tracer/Recorder.h"

namespace terra::frontend {

class SpanLearner {
public:
  /// Before the call runs. `values`: its arguments.
  SpanLearner(runtime::Session &session, const OpEntry &entry, const CallBuilder &builder, const c10::IValue *values);
  ~SpanLearner();
  SpanLearner(const SpanLearner &) = delete;

  /// After it ran: `stack` from `base` on has the results.
  void finish(const torch::jit::Stack &stack, size_t base);

  /// The call being watched on this thread, or null.
  static SpanLearner *current();
  void addWriteAtOnce() { wroteAtOnce_ = true; }

private:
  bool learn(const runtime::SpanRange &range, const torch::jit::Stack &stack, size_t base);
  bool bindOperands(const runtime::SpanRange &range);
  bool bindFeeds(const runtime::SpanRange &range);
  bool bindResults(const runtime::SpanRange &range, const torch::jit::Stack &stack, size_t base);
  bool bindResult(const runtime::SpanRange &range, const tracer::ResultView &view, const at::Tensor &tensor,
                  ViewReader &reader);
  bool bindWritten(uint32_t index, uint32_t operand, const at::Tensor &tensor);
  bool mayHaveHistory() const;
  bool closed(const runtime::SpanRange &range) const;
  uint32_t slotOf(const runtime::SpanRange &range, const c10::TensorImpl &impl) const;

  runtime::Session &session_;
  const OpEntry &entry_;
  runtime::SpanMark mark_;
  std::shared_ptr<graph::Event> event_;
  std::shared_ptr<CallSpan> host_ = std::make_shared<CallSpan>();
  std::shared_ptr<runtime::Span> span_ = std::make_shared<runtime::Span>();
  c10::SmallVector<c10::intrusive_ptr<c10::TensorImpl>, 8> operands_;
  c10::SmallVector<uint32_t, 8> versions_;
  c10::SmallVector<NodePtr, 8> nodes_; ///< of operands that are written, before the call
  FactoryWatch factories_;
  bool wroteAtOnce_ = false;
  SpanLearner *outer_;
};

} // namespace terra::frontend
