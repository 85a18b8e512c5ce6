// The dispatcher's boxed stack → CallView.
#pragma once

#include "frontend/torch/OpTable.h"
#include "frontend/torch/Storage.h"
#include "runtime/BufferRef.h"
#include "tracer/CallView.h"

#include <ATen/core/stack.h>
#include <c10/util/SmallVector.h>

#include <algorithm>
#include <vector>

namespace terra::frontend {

/// Reused from call to call, one a thread and nesting level: building a view allocates nothing in the steady state.
class CallBuilder {
public:
  enum class Kind : uint8_t {
    Event,     ///< `view` describes it
    Immediate, ///< all operands are real scalars, or something is not plain: runs at once, no event
    Gate       ///< an event that must run for real (an explicit generator)
  };

  /// Describes the last `entry.numArgs` values of the stack. Operands get the buffers of their storages.
  Kind build(const OpEntry &entry, const torch::jit::Stack &stack, graph::Context context);

  const tracer::CallView &view() const { return view_; }
  /// The tensor of operand `index`, as it is on the stack. Null for an undefined one.
  c10::TensorImpl *impl(uint32_t index) const { return impls_[index]; }
  uint32_t numOperands() const { return uint32_t(impls_.size()); }
  /// Keeps the operands' tensor objects alive, so that a result can be told to be one of them.
  c10::SmallVector<c10::intrusive_ptr<c10::TensorImpl>, 8> holdOperands() const;
  bool written(uint32_t index) const { return written_[index]; }
  bool writes() const { return std::find(written_.begin(), written_.end(), 1) != written_.end(); }
  /// Fills `TensorView::requiresGrad` of all operands (above autograd, where it decides what a call does).
  void noteGradients();

private:
  void addTensor(const at::Tensor &tensor, bool written);
  void addArg(const OpEntry &entry, const c10::IValue &value, uint32_t index);
  void addList(const c10::IValue &value, tracer::ArgView &arg);
  bool addNumber(const at::Tensor &tensor, tracer::ArgView &arg);
  void snapshot(c10::TensorImpl &impl, tracer::TensorView &view);
  void fixPointers();

  tracer::CallView view_;
  std::vector<tracer::ArgView> args_;
  std::vector<tracer::TensorView> tensors_;
  std::vector<c10::TensorImpl *> impls_;
  std::vector<uint8_t> written_;
  std::vector<int64_t> ints_;
  std::vector<double> doubles_;
  std::vector<runtime::BufferRef> snapshots_;
  bool plain_ = true, onlyScalars_ = true, generator_ = false, viewOnly_ = false, anyTensor_ = false;
};

/// Turned on for a thread, real tensors without dimensions that a call only reads are numbers to the graph: copied when the call is
/// made, so that the program may change them at once. Returns what it was before.
bool copyNumbers(bool on);
/// Until it is turned off, copies are noted here.
void noteNumbers(std::vector<runtime::BufferRef> *copies);
/// If they still are.
void stopNoting(const std::vector<runtime::BufferRef> *copies);

/// A builder for one call. They nest: a Python kernel or hook inside a real run calls ops again.
class BuilderScope {
public:
  BuilderScope();
  ~BuilderScope();
  BuilderScope(const BuilderScope &) = delete;
  CallBuilder &operator*() const { return *builder_; }
  CallBuilder *operator->() const { return builder_; }

private:
  CallBuilder *builder_;
};

} // namespace terra::frontend
