#include "runtime/Program.h"

#include <algorithm>

namespace terra::runtime {

using graph::kNever;
using graph::NodeId;
using graph::TraceGraph;

const graph::Segment &Run::segment() const { return compiled->segment(); }

Buffer &Run::made(uint32_t slot) {
  if (!buffers[slot]) {
    const graph::Slot &info = segment().slots[slot];
    auto *buffer = new Buffer(size_t(info.bytes), info.device);
    buffer->die(0); // Python has never seen it
    buffers[slot] = BufferRef::adopt(buffer);
  }
  return *buffers[slot].get();
}

CompiledSegment::CompiledSegment(std::vector<NodeId> nodes, graph::Segment segment)
    : nodes_(std::move(nodes)), segment_(std::move(segment)) {
  gate_ = segment_.events.size() == 1 && segment_.events[0].event->gate;
  random_ = std::any_of(segment_.events.begin(), segment_.events.end(),
                        [](const graph::SegmentEvent &e) { return e.event->op && e.event->op->has(graph::kOpRandom); });
  executable_ = codegen::interpretOnly(segment_);
  spans_.resize(segment_.events.size());
  attempts_.resize(segment_.events.size());
}

void CompiledSegment::addSpan(std::shared_ptr<const Span> span) {
  constexpr size_t kAlternatives = 4;
  constexpr uint32_t kMaxRelearned = 8;
  auto &spans = spans_[span->first];
  ++attempts_[span->first].failed;
  spans.insert(spans.begin(), std::move(span));
  if (spans.size() > kAlternatives)
    spans.pop_back();
  std::lock_guard lock(mutex_);
  if (walks_ < kLearningWalks && ++relearned_ <= kMaxRelearned) {
    walks_ = 0;
    deaths_.clear();
  }
}

std::shared_ptr<const codegen::Executable> CompiledSegment::executable() const {
  std::lock_guard lock(mutex_);
  return executable_;
}

void CompiledSegment::setExecutable(std::shared_ptr<const codegen::Executable> executable) {
  std::lock_guard lock(mutex_);
  executable_ = std::move(executable);
  compiled_.store(true, std::memory_order_release);
}

bool CompiledSegment::learn(const DeathTable &deaths) {
  std::lock_guard lock(mutex_);
  if (deaths_.empty())
    deaths_.assign(segment_.slots.size(), 0);
  uint32_t end = uint32_t(segment_.events.size());
  for (size_t slot = 0; slot < deaths_.size(); ++slot) {
    uint32_t death = segment_.slots[slot].external ? kNever : deaths[slot].load(std::memory_order_relaxed);
    deaths_[slot] = std::max(deaths_[slot], death > end ? kNever : death);
  }
  return ++walks_ == kLearningWalks;
}

bool CompiledSegment::survived(const std::vector<uint32_t> &slots) {
  std::lock_guard lock(mutex_);
  for (uint32_t slot : slots)
    deaths_[slot] = kNever;
  constexpr uint32_t kMaxRecompilations = 4;
  return ++recompilations_ <= kMaxRecompilations;
}

graph::Deaths CompiledSegment::deaths() const {
  std::lock_guard lock(mutex_);
  return deaths_;
}

std::string CompiledSegment::compileError() const {
  std::lock_guard lock(mutex_);
  return compileError_;
}

void CompiledSegment::setCompileError(std::string error) {
  std::lock_guard lock(mutex_);
  compileError_ = std::move(error);
}

namespace {

std::vector<NodeId> straightRun(const TraceGraph &graph, NodeId first) {
  std::vector<NodeId> nodes = {first};
  for (NodeId id = first; graph[id].next.size() == 1 && !graph.startsSegment(graph[id].next[0]);)
    nodes.push_back(id = graph[id].next[0]);
  return nodes;
}

bool sameEvents(const CompiledSegment &segment, const TraceGraph &graph, const std::vector<NodeId> &nodes) {
  if (segment.nodes() != nodes)
    return false;
  for (size_t i = 0; i < nodes.size(); ++i)
    if (segment.segment().events[i].event != graph[nodes[i]].event)
      return false;
  return true;
}

} // namespace

void Program::rebuild(const TraceGraph &graph) {
  std::vector<std::shared_ptr<CompiledSegment>> byNode(graph.size());
  for (NodeId id = TraceGraph::kEnd + 1; id < graph.size(); ++id) {
    if (!graph.startsSegment(id))
      continue;
    std::vector<NodeId> nodes = straightRun(graph, id);
    if (id < byNode_.size() && byNode_[id] && sameEvents(*byNode_[id], graph, nodes)) {
      byNode[id] = byNode_[id];
      continue;
    }
    std::vector<std::shared_ptr<const graph::Event>> events;
    for (NodeId node : nodes)
      events.push_back(graph[node].event);
    byNode[id] = std::make_shared<CompiledSegment>(std::move(nodes), graph::makeSegment(events));
  }
  byNode_ = std::move(byNode);
}

std::vector<std::shared_ptr<CompiledSegment>> Program::segments() const {
  std::vector<std::shared_ptr<CompiledSegment>> all;
  std::copy_if(byNode_.begin(), byNode_.end(), std::back_inserter(all),
               [](const auto &segment) { return bool(segment); });
  return all;
}

} // namespace terra::runtime
