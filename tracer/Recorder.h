// Events → trace: copies what a call looked like, before and after it ran.
#pragma once

#include "graph/Event.h"
#include "graph/StorageTag.h"
#include "tracer/CallView.h"
#include "tracer/Trace.h"

#include <memory>
#include <utility>
#include <vector>

namespace terra::tracer {

/// A result as the frontend found it after the call ran.
struct ResultView {
  TensorView tensor;          ///< `storage` null: undefined
  int32_t sameAs = -1;        ///< operand whose very tensor object was returned
  int64_t storageBytes = 0;
};

class Recorder {
public:
  /// Starts an empty trace; `epoch` marks its storage tags. Storages that carry a tag of `left`, the walk that was left
  /// in the middle of a segment, are listed in `known` when they appear.
  void start(uint64_t epoch, uint64_t left = 0);

  /// Slot in the segment that was left → number in this trace.
  const std::vector<std::pair<uint32_t, graph::StorageId>> &known() const { return known_; }

  /// A call's arguments and the metadata of its operands, whose storages are not numbered.
  static std::shared_ptr<graph::Event> copy(const CallView &call);
  /// Metadata of a tensor.
  static TensorMeta metaOf(const TensorView &view);

  /// Copies a call's arguments and operands; `finish` completes it with the results.
  std::shared_ptr<graph::Event> begin(const CallView &call);
  void finish(std::shared_ptr<graph::Event> event, const std::vector<ResultView> &results);

  /// Regions mostly do what they did before. The event of the last whole trace that is due now, if the call is like it in all
  /// that can be seen before it runs; else null. Costs no memory.
  std::shared_ptr<const graph::Event> expected(const CallView &call);
  /// Completes with an expected event instead of one of its own. False, and nothing happens, where the results differ.
  bool finishExpected(const std::shared_ptr<const graph::Event> &event, const std::vector<ResultView> &results);
  /// An expected event again, without results, to be completed by `finish`.
  std::shared_ptr<graph::Event> renew(const graph::Event &event) const;

  /// A look at a tensor's data, or (null) at the default generator, without an op.
  void read(const TensorView *tensor);
  void end();

  Trace &events() { return trace_; }
  const Trace &events() const { return trace_; }
  size_t size() const { return trace_.size(); }
  /// Storages that have been numbered.
  uint32_t storages() const { return nextStorage_; }
  /// Forgets the trace; a whole one is what is expected next.
  void clear();

private:
  /// The storage's number in this trace, and whether it was seen for the first time.
  std::pair<graph::StorageId, bool> number(graph::StorageTag &tag);
  graph::Result makeResult(const graph::Event &event, const ResultView &view);
  /// How a result on `storage` came about; the second is `Result::aliasOf`.
  static std::pair<graph::Alias, uint32_t> aliasOf(const graph::Event &event, const ResultView &view,
                                                   graph::StorageId storage, bool fresh);
  bool sameOperands(const graph::Event &event, const CallView &call);
  bool sameResult(const graph::Event &event, const graph::Result &result, const ResultView &view);
  void push(std::shared_ptr<const graph::Event> event) { trace_.push_back(std::move(event)); }
  void pushExpected();

  uint64_t epoch_ = 0, left_ = 0;
  std::vector<std::pair<uint32_t, graph::StorageId>> known_;
  uint32_t nextStorage_ = 0;
  Trace trace_;
  Trace expected_;
  size_t due_ = 0; ///< position in `expected_`
  bool asBefore_ = false; ///< the trace is `expected_` up to here
};

} // namespace terra::tracer
