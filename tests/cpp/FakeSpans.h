// Calls recognised as a whole: learned and promised as in frontend/torch/SpanLearner.cpp and Above.cpp.
#pragma once

#include "FakeFrontend.h"
#include "runtime/BufferRef.h"
#include "runtime/Session.h"

#include <utility>
#include <vector>

namespace terra::fake {

/// What the frontend knows of a span: the memory that the call makes for itself.
struct FakeSpan {
  std::vector<std::pair<uint32_t, size_t>> lent; ///< external slots and their sizes
};

/// Composites, and ops that make new tensors only.
bool mayBeSpan(const FakeOp &op);

/// Watches a call that goes its long way.
class SpanLearner {
public:
  SpanLearner(runtime::Session &session, const tracer::CallView &call, std::vector<Tensor> operands);
  /// Memory that the call made without an event.
  void addUninitialised(const Tensor &tensor);
  /// The call has returned: keeps the span, or notes that there is none.
  void finish(const std::vector<Tensor> &results);

private:
  bool learn(const runtime::SpanRange &range, const std::vector<Tensor> &results);
  bool bindOperands(const runtime::SpanRange &range);
  bool bindFeeds(const runtime::SpanRange &range);
  bool bindResults(const runtime::SpanRange &range, const std::vector<Tensor> &results);
  bool closed(const runtime::SpanRange &range) const;

  runtime::Session &session_;
  runtime::SpanMark mark_;
  std::shared_ptr<graph::Event> event_;
  std::vector<Tensor> operands_;
  std::vector<runtime::BufferRef> uninitialised_;
  std::shared_ptr<runtime::Span> span_ = std::make_shared<runtime::Span>();
  std::shared_ptr<FakeSpan> host_ = std::make_shared<FakeSpan>();
};

/// The results of a span that was entered.
std::vector<Tensor> promiseSpan(runtime::Session &session, runtime::Runtime &runtime, const runtime::Span &span);

} // namespace terra::fake
