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
  /// Starts an empty trace; `epoch` marks its storage tags.
  void start(uint64_t epoch);

  /// Numbers a storage that is known before the first event (values of the segment that was left).
  graph::StorageId seed(graph::StorageTag &tag) { return number(tag).first; }

  /// Copies a call's arguments and operands; `finish` completes it with the results.
  std::shared_ptr<graph::Event> begin(const CallView &call);
  void finish(std::shared_ptr<graph::Event> event, const std::vector<ResultView> &results);

  /// A look at a tensor's data without an op.
  void read(const TensorView &tensor);
  void end(graph::Context context);

  const std::vector<std::shared_ptr<graph::Event>> &events() const { return events_; }
  size_t size() const { return events_.size(); }
  void clear() { events_.clear(); }

private:
  /// The storage's number in this trace, and whether it was seen for the first time.
  std::pair<graph::StorageId, bool> number(graph::StorageTag &tag);
  graph::Result makeResult(const graph::Event &event, const ResultView &view);

  uint64_t epoch_ = 0;
  uint32_t nextStorage_ = 0;
  std::vector<std::shared_ptr<graph::Event>> events_;
};

} // namespace terra::tracer
