// Loops inside one region: learned while it is being recorded, so that the next turn is co-executed already.
#include "runtime/Session.h"

namespace terra::runtime {

using graph::NodeId;
using tracer::CallView;

/// Long regions are loops: once the recording repeats itself, the loop is learned and the next turn is co-executed.
bool Session::repeats() {
  if (recorder_.size() < nextLoopCheck_)
    return false;
  nextLoopCheck_ = recorder_.size() + recorder_.size() / 2;
  std::optional<tracer::Period> period = tracer::findPeriod(recorder_.events());
  if (!period)
    return false;
  tracer::MergeResult result = tracer::mergeLoop(graph_, last_, knownStorages(), recorder_.events(), *period);
  loopHeads_.push_back(result.first);
  coexecuteFrom(result.last);
  return true;
}

/// After a divergence inside a loop: its next turn begins with the event that a known turn begins with.
bool Session::rejoin(const CallView &call) {
  for (NodeId head : loopHeads_) {
    const std::shared_ptr<CompiledSegment> &segment = program_.at(head);
    if (recorder_.size() == 0 || segment->segment().events[0].event->op != call.op)
      continue;
    tracer::Binding binding;
    binding.reset(segment->segment(), runtime_.newEpoch());
    if (!tracer::match(segment->segment(), 0, call, binding))
      continue;
    tracer::MergeResult result = tracer::merge(graph_, last_, knownStorages(), recorder_.events());
    graph_.addEdge(result.last, head);
    coexecuteFrom(result.last);
    return true;
  }
  return false;
}

void Session::coexecuteFrom(NodeId last) {
  program_.rebuild(graph_);
  recorder_.clear();
  left_.reset();
  run_.reset();
  last_ = last;
  mode_ = Mode::CoExecuting;
}

} // namespace terra::runtime
