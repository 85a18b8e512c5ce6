// Events → trace: copies what a call looked like, before and after it ran.
#pragma once

#include "graph/Event.h"
#include "graph/StorageTag.h"
#include "tracer/CallView.h"

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

  /// A look at a tensor's data, or (null) at the default generator, without an op.
  void read(const TensorView *tensor);
  void end();

  const std::vector<std::shared_ptr<graph::Event>> &events() const { return events_; }
  size_t size() const { return events_.size(); }
  void clear() { events_.clear(); }

private:
  /// The storage's number in this trace, and whether it was seen for the first time.
  std::pair<graph::StorageId, bool> number(graph::StorageTag &tag);
  graph::Result makeResult(const graph::Event &event, const ResultView &view);

  uint64_t epoch_ = 0, left_ = 0;
  std::vector<std::pair<uint32_t, graph::StorageId>> known_;
  uint32_t nextStorage_ = 0;
  std::vector<std::shared_ptr<graph::Event>> events_;
};

} // namespace terra::tracer
