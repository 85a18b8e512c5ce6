// The autograd node of a call that was recognised above autograd.
//
// A recognised call never ran PyTorch's autograd code, so the nodes that eager would have made do not exist. One CallNode stands for
// them: it has the call's edges and keeps what they would have saved. Most are never evaluated, because the backward is recognised
// as a whole. When PyTorch's engine is to run after all, `materialize` replays the call through autograd on the recorded
// results: nothing is computed, the real nodes appear, and the CallNode passes gradients on to them.
#pragma once

#include "frontend/torch/Compat.h"
#include "frontend/torch/HostCall.h"
#include "frontend/torch/SpanParts.h"
#include "frontend/torch/ViewHistory.h"
#include "runtime/BufferRef.h"
#include "runtime/Program.h"

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace terra::frontend {

/// Something that eager's nodes save of a call.
struct Kept {
  enum class Kind : uint8_t { Operand, Made } kind = Kind::Made;
  uint32_t index = 0; ///< operand, or slot of a value made in the call (a result or an inner value)
  uint32_t result = graph::kNever; ///< the result on this slot, if one is
  bool itself = false; ///< the operand's tensor is saved, not only a view of it
};

/// Span::host of a call.
struct CallSpan {
  std::shared_ptr<HostCall> call;
  SpanMemory lent;
  SpanConstants constants;
  bool differentiable = false; ///< some result requires a gradient
  std::vector<bool> resultRequiresGrad; ///< has a history
  CallViews views;
  /// The node's outputs are the hidden bases, and not the results.
  bool behindBases() const { return !views.hidden.empty() && views.hidden.front().history; }
  std::vector<Kept> kept;
  bool keepsNumbers = false; ///< of the call's arguments, as tensors
  std::string name; ///< of eager's node of the first result
  uint32_t written = graph::kNever; ///< operand that the call writes and gives another history

  /// Eager's nodes do not care whether they have been released.
  bool keepsNothing() const { return kept.empty() && !keepsNumbers; }
  /// How far the call moves the version counter of an operand.
  uint32_t stepsOf(uint32_t operand) const;
};

/// A storage that backward needs, with the version at which it was saved.
struct SavedStorage {
  c10::Storage storage;
  c10::VariableVersion counter;
  uint32_t version = 0;
  int64_t offset = 0; ///< operands: storage offset of the tensor, in elements
};

class CallNode final : public torch::autograd::Node {
public:
  CallNode(std::shared_ptr<runtime::CompiledSegment> segment, std::shared_ptr<const runtime::Span> span,
           torch::autograd::edge_list &&edges);

  const runtime::Span &span() const { return *span_; }
  const runtime::CompiledSegment &segment() const { return *segment_; }
  const std::shared_ptr<const runtime::Span> &sharedSpan() const { return span_; }
  const std::shared_ptr<runtime::CompiledSegment> &sharedSegment() const { return segment_; }
  const CallSpan &host() const { return *static_cast<const CallSpan *>(span_->host.get()); }

  /// Parallel to `host().kept`; filled by whoever makes the node.
  std::vector<SavedStorage> saved;
  /// One for each argument that varies, in order (the first only of a list's).
  std::vector<Scalar> scalars;

  /// One edge for each operand, also after `materialize`.
  const torch::autograd::edge_list &operandEdges() const { return materialized_ ? operandEdges_ : next_edges(); }
  bool released() const { return released_; }
  bool materialized() const { return materialized_; }

  /// Autograd's nodes with smaller sequence numbers do not know eager's nodes of this call, unless they are among them.
  uint64_t replayedUntil() const { return replayedUntil_; }

  /// Eager's node of result `index` (`CallSpan::behindBases`: of a hidden base), after `materialize`.
  const NodePtr &eagerNode(uint32_t index) const { return next_edge(index).function; }

  /// Makes eager's nodes behind this one. Does nothing the second time, or after they have been released.
  void materialize();
  /// Whoever hands it gradients may compare them with what the call made. Part of `materialize`.
  void describeInputs();

  torch::autograd::variable_list apply(torch::autograd::variable_list &&gradients) override;
  void release_variables() override;
  std::string name() const override { return host().name; }

private:
  /// A saved operand as it was when the call was made.
  void setVersion(const at::Tensor &tensor, uint32_t operand, const SavedStorage &saved) const;
  void runEagerNodes(const torch::autograd::variable_list &gradients);
  void markModified(const std::vector<at::Tensor> &results) const;

  std::shared_ptr<runtime::CompiledSegment> segment_;
  std::shared_ptr<const runtime::Span> span_;
  torch::autograd::edge_list operandEdges_;
  uint64_t replayedUntil_ = 0;
  bool materialized_ = false, released_ = false;
};

/// Materializes every CallNode that the engine would reach from these nodes, and returns them.
std::vector<CallNode *> materializeFrom(c10::ArrayRef<torch::autograd::Node *> roots);

/// Finds out what eager saves of a call: replays it on nothing, and looks at what stays alive. Fills `kept` and `name` of the span's
/// host. False when the call cannot be replayed.
bool deriveKept(const runtime::CompiledSegment &segment, const runtime::Span &span, CallSpan &host);

} // namespace terra::frontend
