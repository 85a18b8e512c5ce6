// A call sent through autograd again, with its inner calls answered from the graph instead of being computed.
#pragma once

#include "frontend/torch/CallBuilder.h"
#include "frontend/torch/CallNode.h"

#include <c10/util/FunctionRef.h>

namespace terra::frontend {

class Replay {
public:
  struct Sources {
    /// Tensor of operand `index`, with its history.
    c10::function_ref<at::Tensor(uint32_t)> operand;
    /// Storage of a value made in the call. No data is looked at.
    c10::function_ref<c10::Storage(uint32_t)> storage;
    const std::vector<Scalar> *scalars = nullptr; ///< as `CallNode::scalars`; null: as recorded
  };

  Replay(const runtime::CompiledSegment &segment, const runtime::Span &span, const CallSpan &host, Sources sources);
  /// The call's results, flattened, with history. Throws when the call makes other inner calls than it did.
  std::vector<at::Tensor> run();
  /// After a run with the recorded scalars: some that the call passed on as tensors are held by somebody else.
  bool numbersAreKept() const;

  /// The replay under way on this thread.
  static Replay *current();
  /// An inner call, from the hook below autograd.
  void answer(const OpEntry &entry, const c10::OperatorHandle &op, c10::DispatchKeySet keys, torch::jit::Stack *stack);

private:
  void answerUninitialised(const c10::OperatorHandle &op, c10::DispatchKeySet keys, torch::jit::Stack *stack);
  at::Tensor result(const graph::SegmentEvent &expected, const CallBuilder &builder, uint32_t index);
  void noteNumbers(const torch::jit::Stack &stack, size_t count);

  const runtime::CompiledSegment &segment_;
  const runtime::Span &span_;
  const CallSpan &host_;
  Sources sources_;
  uint32_t next_ = 0, nextLent_ = 0;
  std::vector<at::Tensor> numbers_;
};

} // namespace terra::frontend
