#include "tracer/Merge.h"

#include "tracer/Dynamic.h"
#include "tracer/Rules.h"

#include <algorithm>
#include <vector>

namespace terra::tracer {

using graph::Arg;
using graph::ArgKind;
using graph::Event;
using graph::EventKind;
using graph::kNoNode;
using graph::kNoStorage;
using graph::NodeId;
using graph::StorageId;
using graph::TraceGraph;

namespace {

/// A one-to-one relation of storage numbers, which are small and dense.
class Bijection {
public:
  bool relate(StorageId a, StorageId b) {
    if (a == kNoStorage || b == kNoStorage)
      return a == b;
    Entry &forward = at(forward_, a), &back = at(back_, b);
    if (forward.generation != generation_)
      forward = {generation_, b};
    if (back.generation != generation_)
      back = {generation_, a};
    return forward.other == b && back.other == a;
  }
  void clear() { ++generation_; }

private:
  struct Entry {
    uint32_t generation = 0;
    StorageId other = kNoStorage;
  };
  static Entry &at(std::vector<Entry> &entries, StorageId id) {
    if (id >= entries.size())
      entries.resize(std::max<size_t>(id + 1, 2 * entries.size()));
    return entries[id];
  }

  uint32_t generation_ = 1;
  std::vector<Entry> forward_, back_;
};

bool relateAll(const Event &a, const Event &b, Bijection &storages) {
  bool ok = true;
  for (size_t i = 0; i < a.inputs.size(); ++i)
    ok &= storages.relate(a.inputs[i].storage, b.inputs[i].storage);
  for (size_t i = 0; i < a.results.size() && !a.gate; ++i)
    ok &= storages.relate(a.results[i].storage, b.results[i].storage);
  return ok;
}

bool equalValue(const Arg &a, const Arg &b) {
  return a.kind == b.kind && a.first == b.first && a.count == b.count && a.scalar.i == b.scalar.i && a.ints == b.ints &&
         a.doubles == b.doubles && a.string == b.string;
}

bool equalShape(const TensorMeta &a, const TensorMeta &b) {
  return a.dtype == b.dtype && a.device == b.device && a.conj == b.conj && a.neg == b.neg && a.dims == b.dims;
}

bool sameStorages(const Event &a, const Event &b) {
  auto same = [](const auto &x, const auto &y) { return x.storage == y.storage; };
  return std::equal(a.inputs.begin(), a.inputs.end(), b.inputs.begin(), b.inputs.end(), same) &&
         std::equal(a.results.begin(), a.results.end(), b.results.begin(), b.results.end(), same);
}

/// What makes an event of a node cover another one.
struct Cover {
  bool possible = false;
  std::vector<uint32_t> varyingArgs, varyingOffsets;
  bool exact() const { return possible && varyingArgs.empty() && varyingOffsets.empty(); }
};

/// Results of a gate are real, whatever they are like this time (an error, too).
bool coverResults(const Event &node, const Event &event) {
  if (node.gate && event.gate)
    return true;
  if (node.results.size() != event.results.size() || node.resultCounts != event.resultCounts)
    return false;
  for (size_t i = 0; i < node.results.size(); ++i) {
    const graph::Result &a = node.results[i], &b = event.results[i];
    bool sameStorage = a.alias != graph::Alias::Fresh || a.storageBytes == b.storageBytes;
    if (a.alias != b.alias || a.aliasOf != b.aliasOf || !equalShape(a.meta, b.meta) || !sameStorage)
      return false;
  }
  return true;
}

/// Equal calls with results of different sizes: those depend on data.
void noteDynamic(const Event &node, const Event &event) {
  if (node.kind != EventKind::Call || node.op != event.op || node.gate || event.gate || node.context != event.context ||
      node.args.size() != event.args.size() || node.inputs.size() != event.inputs.size())
    return;
  for (uint32_t i = 0; i < node.args.size(); ++i)
    if (node.args[i].varies || node.args[i].kind == ArgKind::Opaque || !equalValue(node.args[i], event.args[i]))
      return;
  for (uint32_t i = 0; i < node.inputs.size(); ++i)
    if ((node.inputs[i].storage == kNoStorage) != (event.inputs[i].storage == kNoStorage) ||
        !equalShape(node.inputs[i].meta, event.inputs[i].meta))
      return;
  bool differ = node.results.size() != event.results.size();
  for (size_t i = 0; !differ && i < node.results.size(); ++i) {
    std::span<const int64_t> a = node.results[i].meta.sizes(), b = event.results[i].meta.sizes();
    differ = !std::equal(a.begin(), a.end(), b.begin(), b.end());
  }
  if (differ)
    markDynamic(*node.op);
}

/// Whatever calls they are part of.
Cover coverAnywhere(const Event &node, const Event &event) {
  Cover result;
  result.possible = &node == &event;
  if (result.possible)
    return result;
  if (node.kind != event.kind || node.op != event.op || node.gate != event.gate || node.context != event.context ||
      node.args.size() != event.args.size() || node.inputs.size() != event.inputs.size() || !coverResults(node, event))
    return result;
  for (uint32_t i = 0; i < node.args.size(); ++i) {
    const Arg &a = node.args[i], &b = event.args[i];
    if (a.kind == ArgKind::Opaque && b.kind == ArgKind::Opaque) {
      if (node.hostEqual && !node.hostEqual(node, event, i))
        return result;
    } else if (!equalValue(a, b) && !(a.varies && a.kind == b.kind && a.count == b.count)) {
      if (a.kind != b.kind || a.count != b.count || !mayVary(node, i))
        return result;
      result.varyingArgs.push_back(i);
    }
  }
  for (uint32_t i = 0; i < node.inputs.size(); ++i) {
    const graph::Operand &a = node.inputs[i], &b = event.inputs[i];
    if ((a.storage == kNoStorage) != (b.storage == kNoStorage) || !equalShape(a.meta, b.meta))
      return result;
    if (a.meta.offset != b.meta.offset && !a.offsetVaries)
      result.varyingOffsets.push_back(i);
  }
  // Operands that share memory in one of the two only: no cut between events helps there.
  thread_local Bijection own;
  own.clear();
  result.possible = relateAll(node, event, own);
  return result;
}

Cover cover(const Event &node, const Event &event) {
  return node.whole == event.whole ? coverAnywhere(node, event) : Cover();
}

bool hasWhatMayVary(const Event &event) {
  for (uint32_t i = 0; i < event.args.size(); ++i)
    if (!event.args[i].varies && mayVary(event, i))
      return true;
  return false;
}

class Merger {
public:
  Merger(TraceGraph &graph, const StoragePairs &known, Trace &events) : graph_(graph), events_(events) {
    for (auto [a, b] : known)
      storages_.relate(a, b);
  }

  MergeResult run(NodeId from) {
    NodeId at = from;
    size_t index = 0;
    for (; index < events_.size(); ++index) {
      NodeId next = successor(at, *events_[index]);
      if (next == kNoNode)
        break;
      pass(next);
      follow(next, events_[index]);
      at = next;
    }
    if (index < events_.size())
      at = branch(at, index);
    result_.last = at;
    return result_;
  }

private:
  void pass(NodeId id) {
    if (result_.first == kNoNode)
      result_.first = id;
    result_.nodes.push_back(id);
  }

  NodeId successor(NodeId at, const Event &event) const { return bestOf(graph_[at].next, event); }

  /// The candidate that covers `event` as it is, else one that can be made to.
  NodeId bestOf(const std::vector<NodeId> &candidates, const Event &event) const {
    NodeId found = kNoNode;
    for (NodeId id : candidates) {
      if (!graph_[id].event)
        continue;
      Cover c = cover(*graph_[id].event, event);
      if (!c.possible)
        noteDynamic(*graph_[id].event, event);
      if (c.exact())
        return id;
      if (c.possible && found == kNoNode)
        found = id;
    }
    return found;
  }

  /// Walks the trace over an existing node: generalises its event, and cuts the segment where dataflow differs.
  void follow(NodeId id, std::shared_ptr<const Event> &event) {
    generalise(id, *event);
    if (graph_.startsSegment(id))
      storages_.clear();
    if (!relateAll(*graph_[id].event, *event, storages_)) {
      graph_.setBoundary(id);
      result_.changed = true;
      storages_.clear();
      relateAll(*graph_[id].event, *event, storages_);
    }
    share(graph_[id].event, event);
  }

  void generalise(NodeId id, const Event &event) {
    Cover c = cover(*graph_[id].event, event);
    if (c.exact())
      return;
    auto general = std::make_shared<Event>(*graph_[id].event);
    for (uint32_t i : c.varyingArgs)
      general->args[i].varies = true;
    for (uint32_t i : c.varyingOffsets)
      general->inputs[i].offsetVaries = true;
    graph_.setEvent(id, std::move(general));
    result_.changed = true;
  }

  /// The next recording of `event` will be compared with the node's, or with one that varies where the node's does.
  static void share(const std::shared_ptr<const Event> &node, std::shared_ptr<const Event> &event) {
    if (node == event)
      return;
    if (sameStorages(*node, *event)) {
      event = node;
      return;
    }
    std::shared_ptr<Event> general;
    auto copy = [&]() -> Event & { return general ? *general : *(general = std::make_shared<Event>(*event)); };
    for (size_t i = 0; i < node->args.size(); ++i)
      if (node->args[i].varies && !event->args[i].varies)
        copy().args[i].varies = true;
    for (size_t i = 0; i < node->inputs.size(); ++i)
      if (node->inputs[i].offsetVaries && !event->inputs[i].offsetVaries)
        copy().inputs[i].offsetVaries = true;
    if (general)
      event = std::move(general);
  }

  /// A call of a new kind does what calls of other kinds did: what has differed there, or differs from there, varies.
  void varyLikeOthers(std::shared_ptr<const Event> &event) const {
    constexpr NodeId kMostLookedAt = 20'000; // the newest ones
    if (event->whole == 0 || !hasWhatMayVary(*event))
      return;
    const Event *found = nullptr;
    Cover best;
    NodeId last = NodeId(graph_.size()), first = last > kMostLookedAt ? last - kMostLookedAt : 0;
    for (NodeId id = last; id-- > first && !best.exact();) {
      const Event *node = graph_[id].event.get();
      if (!node || node->op != event->op || node->whole == event->whole || node->trace == events_.number)
        continue;
      Cover c = coverAnywhere(*node, *event);
      if (c.exact() || (c.possible && !found))
        found = node, best = std::move(c);
    }
    if (!found)
      return;
    auto general = std::make_shared<Event>(*event);
    for (uint32_t i = 0; i < found->args.size(); ++i)
      general->args[i].varies |= found->args[i].varies;
    for (uint32_t i : best.varyingArgs)
      general->args[i].varies = true;
    event = std::move(general);
  }

  /// Nodes of one trace can be told by its number.
  NodeId addNode(std::shared_ptr<const Event> &event) {
    if (event->trace != events_.number) {
      auto own = std::make_shared<Event>(*event);
      own->trace = events_.number;
      event = std::move(own);
    }
    return graph_.addNode(event);
  }

  /// New nodes for events_[index…], up to the longest tail that some path to the region's end shares with the trace.
  NodeId branch(NodeId at, size_t index) {
    result_.changed = true;
    size_t tail = events_.size();
    NodeId join = kNoNode;
    if (events_.back()->kind == EventKind::End)
      for (join = TraceGraph::kEnd, --tail; tail > index; --tail) {
        NodeId previous = bestOf(graph_[join].previous, *events_[tail - 1]);
        if (previous == kNoNode)
          break;
        join = previous;
      }
    for (; index < tail; ++index) {
      varyLikeOthers(events_[index]);
      NodeId id = addNode(events_[index]);
      graph_.addEdge(at, id);
      pass(id);
      ++result_.newNodes;
      at = id;
    }
    if (join == kNoNode)
      return at;
    graph_.addEdge(at, join);
    storages_.clear();
    for (NodeId id = join;; id = successor(id, *events_[index])) {
      if (id == kNoNode) // generalising a shared node left this tail behind: it gets nodes of its own
        return branch(at, index);
      pass(id);
      follow(id, events_[index]);
      at = id;
      if (++index == events_.size())
        return at;
    }
  }

  TraceGraph &graph_;
  Trace &events_;
  Bijection storages_;
  MergeResult result_;
};

} // namespace

MergeResult merge(TraceGraph &graph, NodeId from, const StoragePairs &known, Trace &events) {
  Trace::Place place{graph.id(), from};
  if (events.repeats == place && known.empty())
    return {};
  events.merged = place;
  return Merger(graph, known, events).run(from);
}

MergeResult mergeLoop(TraceGraph &graph, NodeId from, const StoragePairs &known, Trace &events, Period period) {
  auto part = [&](size_t begin, size_t end) {
    Trace trace(events.begin() + ptrdiff_t(begin), events.begin() + ptrdiff_t(end));
    trace.number = events.number;
    return trace;
  };
  size_t rest = period.start + period.length;
  Trace start = part(0, period.start), turn = part(period.start, rest), others = part(rest, events.size());
  MergeResult before, first;
  before.last = from;
  if (period.start > 0)
    before = merge(graph, from, known, start);
  first = merge(graph, before.last, period.start ? StoragePairs() : known, turn);
  graph.addEdge(first.last, first.first);
  graph.setBoundary(first.first);
  MergeResult last = merge(graph, first.last, {}, others);
  return {true, before.newNodes + first.newNodes + last.newNodes, first.first, last.last, {}};
}

} // namespace terra::tracer
