// What learning and recognising spans of many tensors have in common: backwards and optimizers.
#pragma once

#include "frontend/torch/HostCall.h"
#include "frontend/torch/Storage.h"
#include "runtime/BufferRef.h"
#include "runtime/Session.h"

#include <c10/util/FunctionRef.h>

#include <optional>
#include <vector>

namespace terra::frontend {

/// A call of one list of tensors, as the cursor sees it.
class OperandList {
public:
  explicit OperandList(const graph::Op &op) : op_(op) {}

  /// Undefined tensors are operands too.
  void add(const at::Tensor &tensor);
  /// Only the storage counts.
  void add(const c10::Storage &storage);
  /// False when something was not a plain tensor on memory of PyTorch's own.
  bool ok() const { return ok_; }
  const std::vector<tracer::TensorView> &tensors() const { return tensors_; }
  tracer::CallView view();
  /// The storages belong to the region from now on.
  void markTouched(uint64_t region) const;

private:
  const graph::Op &op_;
  bool ok_ = true;
  std::vector<tracer::TensorView> tensors_;
  tracer::ArgView arg_;
};

/// A slot that events of the range make.
bool madeIn(const runtime::SpanRange &range, uint32_t slot);

/// The buffer of a plain tensor's storage; empty for others.
runtime::BufferRef bufferRefOf(const at::Tensor &tensor);

/// External slots of a span that are numbers made by its calls from nothing (`scalar_tensor`): always the same ones.
using SpanConstants = std::vector<std::pair<uint32_t, std::shared_ptr<runtime::BufferRef>>>;
/// External slots that a span fills itself, in uninitialised memory of its own, with sizes in bytes, in order. kNever: memory that
/// no event touches.
using SpanMemory = std::vector<std::pair<uint32_t, size_t>>;

bool isLent(const SpanMemory &memory, uint32_t slot);

/// Between `enterSpan` and `leaveSpan`.
void lendConstants(runtime::Session &session, const SpanConstants &constants);

/// Notes what comes to be on this thread without being an event, while it is the newest watch there.
class FactoryWatch {
public:
  FactoryWatch();
  ~FactoryWatch() { stop(); }
  FactoryWatch(const FactoryWatch &) = delete;

  static FactoryWatch *current();
  void addConstant(const at::Tensor &tensor);
  void addUninitialised(const at::Tensor &tensor);
  void stop();

  /// The numbers on external slots of the range's segment that nothing writes. `usable` is asked for each value.
  SpanConstants
  constants(const runtime::SpanRange &range, c10::function_ref<bool(double)> usable = [](double) { return true; });
  /// Nothing where some memory is not PyTorch's own, or the segment knew it before the range.
  std::optional<SpanMemory> uninitialised(const runtime::SpanRange &range) const;

private:
  std::vector<std::pair<runtime::BufferRef, double>> constants_; ///< NaN where it is no real number
  std::vector<runtime::BufferRef> uninitialised_;
  FactoryWatch *outer_ = nullptr;
  bool watches_ = true;
};

/// Completes a span over `range` for a call that was described before it ran: operands that no event touched are dropped, and
/// `keep(i)` is told which stay. False when the events touch something that comes neither from the operands nor from
/// earlier in the segment nor from themselves, or when a storage offset varies.
class SpanDraft {
public:
  explicit SpanDraft(OperandList &operands);
  /// `given`: slots that whoever recognises the span fills.
  bool complete(const runtime::SpanRange &range, const std::vector<bool> &required,
                const std::vector<uint32_t> &given = {});
  /// The same for one of several spans with the same operands: those that only others touch are dropped too.
  bool completePiece(const runtime::SpanRange &range, const std::vector<bool> &required,
                     const std::vector<uint32_t> &given);
  const std::vector<uint32_t> &kept() const { return kept_; }

  std::shared_ptr<runtime::Span> span = std::make_shared<runtime::Span>();

private:
  bool keep(const runtime::SpanRange &range, const std::vector<bool> &required, const std::vector<bool> *touched);
  bool closed(const runtime::SpanRange &range, const std::vector<uint32_t> &given) const;

  bool ok_;
  std::shared_ptr<graph::Event> event_;
  std::vector<runtime::BufferRef> buffers_;
  std::vector<uint32_t> kept_;
};

/// Moves version counters by what was noted when a call was learned. Tensors may share a counter: it moves once.
class VersionSteps {
public:
  void add(const at::Tensor &tensor, uint32_t steps);
  void apply();

private:
  std::vector<std::pair<c10::TensorImpl *, uint32_t>> targets_;
};

/// Some event of the range takes a scalar that varies from run to run.
bool hasScalarFeeds(const runtime::SpanRange &range);

} // namespace terra::frontend
