#include "runtime/Program.h"

#include "graph/Structure.h"
#include "tracer/Compare.h"

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

const Slice *CompiledSegment::sliceFor(uint32_t slot) {
  auto [known, isNew] = slices_.try_emplace(slot);
  if (isNew && (known->second = sliceOf(segment_, slot))) {
    heldForReads_.resize(segment_.slots.size());
    for (uint32_t input : known->second->inputs)
      heldForReads_[input] = true;
  }
  return known->second ? &*known->second : nullptr;
}

CompiledSegment::CompiledSegment(std::vector<NodeId> nodes, graph::Segment segment)
    : nodes_(std::move(nodes)), segment_(std::move(segment)) {
  gate_ = segment_.events.size() == 1 && segment_.events[0].event->gate;
  random_ = std::any_of(segment_.events.begin(), segment_.events.end(),
                        [](const graph::SegmentEvent &e) { return e.event->op && e.event->op->has(graph::kOpRandom); });
  structure_ = graph::structureHash(segment_);
  executable_ = codegen::interpretOnly(segment_);
  spans_.resize(segment_.events.size());
  attempts_.resize(segment_.events.size());
}

namespace {
/// In all segments: indices of spans are made anew when it has grown.
std::atomic<uint64_t> spansAdded{0};
} // namespace

uint64_t CompiledSegment::progress() const {
  uint64_t covered = 0;
  for (const auto &spans : spans_)
    if (!spans.empty())
      covered += spans.front()->count;
  std::lock_guard lock(mutex_);
  return covered << 8 | walks_;
}

void CompiledSegment::inherit(const CompiledSegment &other,
                              std::vector<std::vector<std::shared_ptr<const Span>>> spans) {
  spans_ = std::move(spans);
  spansAdded.fetch_add(1, std::memory_order_relaxed);
  graph::Deaths deaths = other.deaths();
  uint32_t walks = other.walks_;
  std::lock_guard lock(mutex_);
  deaths_ = std::move(deaths);
  walks_ = walks;
}

void CompiledSegment::renumber(const std::vector<NodeId> &numbers) {
  for (NodeId &node : nodes_)
    node = numbers[node];
  for (auto &[from, region] : regionsFrom_)
    from = numbers[from];
  std::erase_if(regionsFrom_, [](const auto &entry) { return entry.first == graph::kNoNode; });
}

void CompiledSegment::noteRegion(NodeId from, uint64_t region) {
  lastRegion = region;
  auto it = std::find_if(regionsFrom_.begin(), regionsFrom_.end(), [from](auto &entry) { return entry.first == from; });
  if (it == regionsFrom_.end())
    regionsFrom_.emplace_back(from, region);
  else
    it->second = region;
}

uint64_t CompiledSegment::lastRegionFrom(NodeId from) const {
  auto it = std::find_if(regionsFrom_.begin(), regionsFrom_.end(), [from](auto &entry) { return entry.first == from; });
  return it == regionsFrom_.end() ? 0 : it->second;
}

void CompiledSegment::addSpan(std::shared_ptr<const Span> span) {
  constexpr size_t kAlternatives = 4;
  constexpr uint32_t kMaxRelearned = 8;
  auto &spans = spans_[span->first];
  spansAdded.fetch_add(1, std::memory_order_relaxed);
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
  forks_.clear();
  families_.clear();
  for (const auto &segment : byNode_)
    if (segment && !segment->gate())
      families_[segment->structure()].push_back(segment);
}

void Program::renumber(const std::vector<NodeId> &numbers, size_t size) {
  std::vector<std::shared_ptr<CompiledSegment>> byNode(size);
  for (NodeId id = 0; id < byNode_.size(); ++id)
    if (byNode_[id] && numbers[id] != graph::kNoNode) {
      byNode_[id]->renumber(numbers);
      byNode[numbers[id]] = std::move(byNode_[id]);
    }
  byNode_ = std::move(byNode);
}

const Program::Family &Program::family(const CompiledSegment &segment) const {
  static const Family none;
  auto it = families_.find(segment.structure());
  return it == families_.end() ? none : it->second;
}

std::vector<NodeId> Program::successors(const TraceGraph &graph, NodeId node, const tracer::CallView &call) {
  constexpr size_t kFew = 8;
  const std::vector<NodeId> &next = graph[node].next;
  if (next.size() <= kFew)
    return next;
  auto [it, isNew] = forks_.try_emplace(node);
  Fork &fork = it->second;
  if (uint64_t added = spansAdded.load(std::memory_order_relaxed); isNew || fork.spansSeen != added) {
    fork.spansSeen = added;
    fork.byCall.clear();
    for (NodeId id : next)
      if (const auto &segment = byNode_[id]) {
        fork.byCall.emplace(tracer::callKey(*segment->segment().events[0].event), id);
        for (const auto &span : segment->spansAt(0))
          fork.byCall.emplace(tracer::callKey(*span->call.event), id);
      }
  }
  std::vector<NodeId> found;
  auto [first, last] = fork.byCall.equal_range(tracer::callKey(call));
  for (; first != last; ++first)
    if (std::find(found.begin(), found.end(), first->second) == found.end())
      found.push_back(first->second);
  return found;
}

std::vector<std::shared_ptr<CompiledSegment>> Program::segments() const {
  std::vector<std::shared_ptr<CompiledSegment>> all;
  std::copy_if(byNode_.begin(), byNode_.end(), std::back_inserter(all),
               [](const auto &segment) { return bool(segment); });
  return all;
}

} // namespace terra::runtime
