// Paths that differ in sizes only: what one of them has learned serves all, and the ones that were not used longest are forgotten.
#include "graph/Structure.h"
#include "runtime/Session.h"

#include <algorithm>

namespace terra::runtime {

using graph::NodeId;

bool Session::recordsCalls() const {
  constexpr uint32_t kHopeless = 32; // recordings in a row: nothing repeats here
  return mode_ == Mode::Recording && runtime_.carrySpans && stats_.regionsRecorded > 0 && fruitless_ < kHopeless;
}

namespace {
/// The last events of a trace as a segment whose slots are numbers of storages.
graph::Segment endOf(const tracer::Trace &trace, size_t first, uint32_t storages) {
  graph::Segment compact = graph::makeSegment({trace.begin() + ptrdiff_t(first), trace.end()});
  graph::Segment wide = compact;
  wide.slots.assign(storages, graph::Slot());
  auto widen = [&](std::vector<graph::SlotRef> &refs) {
    for (graph::SlotRef &ref : refs)
      if (ref.slot != graph::kNever)
        ref.slot = compact.slots[ref.slot].storage;
  };
  for (graph::SegmentEvent &event : wide.events) {
    widen(event.inputs);
    widen(event.results);
  }
  for (const graph::Slot &slot : compact.slots)
    wide.slots[slot.storage] = slot;
  return wide;
}
} // namespace

void Session::recordCall(const SpanMark &mark, const std::shared_ptr<const Span> &span, const CompleteSpan &learn) {
  const tracer::Trace &trace = recorder_.events();
  if (mode_ != Mode::Recording || mark.recording != recording_ || trace.size() <= mark.first)
    return;
  auto first = trace.begin() + ptrdiff_t(mark.first);
  if (std::any_of(first, trace.end(), [](const auto &e) { return e->gate || e->kind != graph::EventKind::Call; }))
    return;
  auto segment =
      std::make_shared<CompiledSegment>(std::vector<NodeId>(), endOf(trace, mark.first, recorder_.storages()));
  if (learn({std::move(segment), nullptr, 0, uint32_t(trace.size() - mark.first), recording_}))
    recordedCalls_.push_back({mark.first, span});
}

/// New nodes take part in what varies in paths that are like theirs. True when some event changed.
bool Session::generaliseLikeOthers(const CompiledSegment &segment) {
  for (const auto &other : program_.family(segment)) {
    if (other.get() == &segment || !graph::sameStructure(other->segment(), segment.segment()))
      continue;
    if (graph::sameFeeds(other->segment(), segment.segment()))
      return false;
    for (size_t i = 0; i < segment.nodes().size(); ++i) {
      auto general = std::make_shared<graph::Event>(*segment.segment().events[i].event);
      const graph::Event &like = *other->segment().events[i].event;
      for (size_t k = 0; k < like.args.size(); ++k)
        general->args[k].varies |= like.args[k].varies;
      for (size_t k = 0; k < like.inputs.size(); ++k)
        general->inputs[k].offsetVaries |= like.inputs[k].offsetVaries;
      graph_.setEvent(segment.nodes()[i], std::move(general));
    }
    return true;
  }
  return false;
}

/// After a recording made new nodes.
void Session::carryOver(const tracer::MergeResult &result) {
  auto segments = [&] {
    std::vector<std::shared_ptr<CompiledSegment>> found;
    for (NodeId node : result.nodes)
      if (node != graph::TraceGraph::kEnd && program_.at(node) && !program_.at(node)->gate())
        found.push_back(program_.at(node));
    return found;
  };
  bool changed = false;
  for (const auto &segment : segments())
    changed |= segment->walks() == 0 && generaliseLikeOthers(*segment);
  if (changed)
    program_.rebuild(graph_);
  attachCalls(result);
  bool sizesOnly = true;
  for (const auto &segment : segments()) {
    sizesOnly &= segment->walks() > 0 || program_.family(*segment).size() > 1;
    segment->lastUsed = region_;
    segment->lastRegion = std::max(segment->lastRegion, stats_.regionsCoexecuted);
    takeOver(segment);
  }
  if (sizesOnly) // no other way through the program
    stable_ = stableBefore_;
}

/// Recorded calls go to the segments that their events have become.
void Session::attachCalls(const tracer::MergeResult &result) {
  CompiledSegment *segment = nullptr;
  uint32_t position = 0;
  auto call = recordedCalls_.begin();
  for (uint32_t event = 0; event < result.nodes.size() && call != recordedCalls_.end(); ++event, ++position) {
    NodeId node = result.nodes[event];
    if (program_.at(node)) {
      segment = program_.at(node).get();
      position = 0;
    }
    while (call != recordedCalls_.end() && call->first < event)
      ++call; // it began inside another call
    for (; call != recordedCalls_.end() && call->first == event; ++call) {
      bool own = segment && segment->progress() == 0 && graph_[node].event->trace == recorder_.events().number;
      if (own && position + call->span->count <= segment->nodes().size() && segment->nodes()[position] == node)
        segment->recordedCalls.push_back({position, call->span});
    }
  }
}

/// Takes over what has been learned of a segment of other sizes, when that is more than is known of this one.
void Session::takeOver(const std::shared_ptr<CompiledSegment> &segment) {
  if (segment->recordedCalls.empty() || !runtime_.carrySpans)
    return;
  uint64_t progress = std::max(segment->progress(), segment->lastInherited);
  std::shared_ptr<CompiledSegment> best;
  for (const auto &other : program_.family(*segment))
    if (uint64_t its = other->progress(); its > progress) {
      best = other;
      progress = its;
    }
  if (!best)
    return;
  segment->lastInherited = progress;
  if (!graph::sameStructure(best->segment(), segment->segment()) ||
      !graph::sameFeeds(best->segment(), segment->segment()))
    return;
  auto spans = runtime_.carrySpans(*best, *segment);
  if (!spans)
    return;
  segment->inherit(*best, std::move(*spans));
  ++stats_.inherited;
  if (!segment->learning()) {
    segment->recordedCalls = {};
    compile(segment);
  }
}

/// Keeps the graph below its bound: forgets paths whose sizes have not been seen for longest.
void Session::forgetSizes() {
  if (graph_.size() <= options_.mostNodes)
    return;
  std::vector<std::shared_ptr<CompiledSegment>> sized;
  for (const auto &[structure, family] : program_.families())
    if (family.size() > 1)
      sized.insert(sized.end(), family.begin(), family.end());
  std::ranges::sort(sized, [](const auto &a, const auto &b) {
    return std::pair(a->lastUsed, a->nodes().front()) < std::pair(b->lastUsed, b->nodes().front());
  });
  std::vector<bool> dropped(graph_.size(), false);
  size_t rest = graph_.size();
  auto drop = [&](const CompiledSegment &segment) {
    for (NodeId node : segment.nodes()) {
      rest -= !dropped[node];
      dropped[node] = true;
    }
  };
  auto holdsLoop = [&](const CompiledSegment &segment) {
    return std::ranges::any_of(
        loopHeads_, [&](NodeId head) { return std::ranges::find(segment.nodes(), head) != segment.nodes().end(); });
  };
  for (const auto &segment : sized)
    if (rest > options_.mostNodes * 3 / 4 && !holdsLoop(*segment))
      drop(*segment);
  if (rest == graph_.size())
    return;
  dropUnreachable(dropped, drop);
  std::vector<NodeId> numbers;
  graph_ = graph_.without(dropped, numbers);
  program_.renumber(numbers, graph_.size());
  program_.rebuild(graph_);
  std::erase_if(loopHeads_, [&](NodeId head) { return dropped[head]; });
  for (NodeId &head : loopHeads_)
    head = numbers[head];
  last_ = graph::TraceGraph::kStart;
}

size_t Session::specialisations() const {
  size_t most = 0;
  for (const auto &[structure, family] : program_.families())
    most = std::max(most, family.size());
  return most;
}

/// What led only to dropped nodes, or was reached only from them, goes with them.
void Session::dropUnreachable(std::vector<bool> &dropped, const std::function<void(const CompiledSegment &)> &drop) {
  auto gone = [&](const std::vector<NodeId> &nodes) {
    return !nodes.empty() && std::ranges::all_of(nodes, [&](NodeId id) { return dropped[id]; });
  };
  for (bool changed = true; changed;) {
    changed = false;
    for (const auto &segment : program_.segments())
      if (!dropped[segment->nodes().front()] &&
          (gone(graph_[segment->nodes().front()].previous) || gone(graph_[segment->nodes().back()].next))) {
        drop(*segment);
        changed = true;
      }
  }
}

} // namespace terra::runtime
