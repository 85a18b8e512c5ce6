// Loops inside one region: learned while it is being recorded, so that the next turn is co-executed already.
#include "runtime/Session.h"

#include <algorithm>

namespace terra::runtime {

using graph::NodeId;
using graph::TraceGraph;
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
  leaveRun();
  last_ = last;
  mode_ = Mode::CoExecuting;
}

/// Where a path of the past leaves or joins the one that is taken, segments end: nothing is fused across.
bool Session::hasColdPaths() const {
  auto cold = [&](const CompiledSegment &segment, uint64_t lastRegion) {
    return segment.segment().events[0].event->kind == graph::EventKind::Call &&
           program_.family(segment).size() < 2 && // other sizes do not cut it any more than the ones in use
           lastRegion + patience_ <= stats_.regionsCoexecuted;
  };
  auto segments = program_.segments();
  if (std::any_of(segments.begin(), segments.end(),
                  [&](const auto &segment) { return cold(*segment, segment->lastRegion); }))
    return true;
  // A way past something that is always there now.
  auto coldFrom = [&](NodeId from, NodeId next) {
    const auto &segment = program_.at(next);
    bool turn = std::ranges::find(loopHeads_, next) != loopHeads_.end();
    return segment && !turn && cold(*segment, segment->lastRegionFrom(from));
  };
  for (NodeId from = 0; from < graph_.size(); ++from)
    if (const std::vector<NodeId> &next = graph_[from].next; next.size() > 1)
      if (std::any_of(next.begin(), next.end(), [&](NodeId node) { return coldFrom(from, node); }))
        return true;
  return false;
}

/// Starts over: the next region is recorded as one straight path. The first step of an optimizer that makes its state is never seen
/// again, but would cut every later step in two. Patience grows, so that paths that come back now and then are kept.
void Session::forgetColdPaths() {
  graph_ = TraceGraph();
  program_ = {};
  loopHeads_.clear();
  wholes_ = {};
  leaveRun();
  last_ = TraceGraph::kStart;
  stable_ = 0;
  patience_ *= 16;
}

} // namespace terra::runtime
