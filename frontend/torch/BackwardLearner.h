// A backward that runs in PyTorch's engine is watched, so that the next one like it is recognised.
#pragma once

#include "frontend/torch/BackwardSpan.h"

#include <memory>

namespace terra::frontend {

class BackwardLearner {
public:
  /// Before the engine runs.
  BackwardLearner(runtime::Session &session, const BackwardRequest &request, const BackwardEdges &edges,
                  const BackwardWalk &walk);
  BackwardLearner(const BackwardLearner &) = delete;
  ~BackwardLearner();

  /// A learner is at work on this thread: backwards inside the one that it watches are part of it.
  static bool atWork();

  /// After it ran. `results`: what it returned.
  void finish(c10::ArrayRef<at::Tensor> results);

private:
  bool learn(const runtime::SpanRange &range, c10::ArrayRef<at::Tensor> results);
  bool compareWithEarlier(const runtime::SpanRange &range);
  bool effectOn(size_t index, const runtime::SpanRange &range);

  runtime::Session &session_;
  runtime::SpanMark mark_;
  bool accumulates_;
  CallScalars scalars_;
  FactoryWatch factories_;
  std::unique_ptr<SpanDraft> draft_;
  std::shared_ptr<BackwardSpan> host_ = std::make_shared<BackwardSpan>();
  std::vector<at::Tensor> gradients_; ///< given ones, where results may be they
  std::vector<at::Tensor> variables_;
  std::vector<c10::TensorImpl *> gradBefore_;
  std::vector<uint32_t> versions_;
};

} // namespace terra::frontend
