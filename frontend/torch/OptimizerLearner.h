// Learning from a step that runs operation by operation which events it makes, and where its numbers go.
#pragma once

#include "frontend/torch/OptimizerStep.h"

#include <optional>

namespace terra::frontend {

/// A scalar feed of the segment, and which of `OptimizerState::scalars` it is.
struct OptimizerFeed {
  uint32_t feed = 0, scalar = 0;
  bool operator==(const OptimizerFeed &) const = default;
};

/// An external slot that takes a number: one of `OptimizerState::scalars`, or, with kNever, always `constant`.
struct OptimizerNumber {
  uint32_t slot = 0, scalar = 0;
  DType dtype = DType::Float32;
  double constant = 0;
  bool operator==(const OptimizerNumber &) const = default;
};

/// Span::host of an optimizer's step.
struct OptimizerSpan {
  std::vector<double> options;
  std::vector<double> scalars; ///< when it was learned: those that are not fed have to be the same again
  std::vector<bool> fed;       ///< by scalar
  std::vector<OptimizerFeed> feeds;
  std::vector<OptimizerNumber> numbers;
  std::vector<uint32_t> kept;  ///< which of `OptimizerState::tensors` are operands
  std::vector<std::pair<uint32_t, uint32_t>> versions; ///< tensor, how far its version counter moves
  /// Which scalar is which was told by value. It has to come out the same in a second step before it is believed.
  bool trial = true;
};

const graph::Op &optimizerOp(OptimizerKind kind);
bool sameBits(double a, double b);
bool sameBits(const std::vector<double> &a, const std::vector<double> &b);

class OptimizerLearner {
public:
  OptimizerLearner(runtime::Session &session, const OptimizerState &state);
  OptimizerLearner(const OptimizerLearner &) = delete;
  ~OptimizerLearner();
  void finish();

private:
  bool learn(const runtime::SpanRange &range);
  bool numbersCameTrue() const;
  bool mapFeeds(const runtime::SpanRange &range);
  using Parameters = std::vector<uint32_t>;
  bool mapArg(const runtime::SpanRange &range, const graph::SegmentEvent &inner, uint32_t index,
              const Parameters &parameters);
  bool mapNumbers(const runtime::SpanRange &range);
  bool mapNumber(const OptimizerNumber &number, double value, uint32_t index, const Parameters &parameters);
  void findNumbers(const runtime::SpanRange &range);
  void findParameters(const graph::SegmentEvent &inner, Parameters &parameters) const;
  std::optional<uint32_t> parameterAt(uint32_t slot, uint32_t last) const;
  uint32_t slotOf(uint32_t tensor) const;
  std::optional<uint32_t> scalarOf(double value, uint32_t index, const Parameters &parameters) const;
  bool isConstant(double value) const;
  bool confirmed(const runtime::SpanRange &range) const;

  runtime::Session &session_;
  OptimizerState state_;
  runtime::SpanMark mark_;
  std::unique_ptr<SpanDraft> draft_;
  std::shared_ptr<OptimizerSpan> host_ = std::make_shared<OptimizerSpan>();
  std::vector<uint32_t> versions_, numberVersions_;
  std::vector<runtime::BufferRef> copies_; ///< of numbers that the step's events read
  std::vector<uint32_t> numberSlots_;
  std::vector<const runtime::Buffer *> numberBuffers_; ///< parallel
};

} // namespace terra::frontend
