// Traces become one graph: nothing new where nothing is new, feeds, branches, joins and loops.
#include "tracer/Merge.h"
#include "FakeCall.h"

#include <gtest/gtest.h>

namespace terra::fake {
namespace {

using graph::NodeId;
using graph::TraceGraph;
using tracer::MergeResult;

class Merge : public testing::Test {
protected:
  /// Merges a trace of its own, recorded by `program`.
  MergeResult region(const std::function<void()> &program) {
    r_.restart();
    program();
    r_.end();
    return tracer::merge(graph_, TraceGraph::kStart, {}, r_.events());
  }
  Tensor tensor() { return r_.make(contiguous({4}), 1); }
  Tensor add(const Tensor &a, const Tensor &b, double alpha = 1) {
    return r_.call(Call(ops().add, {a, b}).number(alpha))[0];
  }
  Tensor mul(const Tensor &a, const Tensor &b) { return r_.call(Call(ops().mul, {a, b}))[0]; }
  std::vector<Tensor> pair(const Tensor &a) { return r_.call(Call(ops().pair, {a})); }
  NodeId only(NodeId id) const {
    EXPECT_EQ(graph_[id].next.size(), 1u) << toString(graph_);
    return graph_[id].next.at(0);
  }

  Recording r_;
  TraceGraph graph_;
};

TEST_F(Merge, an_identical_trace_changes_nothing) {
  auto program = [&] {
    Tensor a = tensor(), b = add(a, a);
    r_.item(b);
    mul(b, tensor());
  };
  MergeResult first = region(program);
  EXPECT_TRUE(first.changed);
  EXPECT_EQ(first.newNodes, 3u);
  EXPECT_EQ(first.last, TraceGraph::kEnd);
  std::string before = toString(graph_);
  MergeResult second = region(program);
  EXPECT_FALSE(second.changed);
  EXPECT_EQ(second.newNodes, 0u);
  EXPECT_EQ(second.last, TraceGraph::kEnd);
  EXPECT_EQ(toString(graph_), before);
}

TEST_F(Merge, a_scalar_that_differs_becomes_a_feed) {
  double alpha = 1;
  auto program = [&] { add(tensor(), tensor(), alpha++); };
  region(program);
  MergeResult second = region(program);
  EXPECT_TRUE(second.changed);
  EXPECT_EQ(second.newNodes, 0u);
  EXPECT_TRUE(graph_[only(TraceGraph::kStart)].event->args[2].varies);
  EXPECT_FALSE(region(program).changed) << "once general, it covers every number";
}

TEST_F(Merge, an_offset_that_differs_becomes_a_feed) {
  int64_t row = 0;
  auto program = [&] {
    Tensor a = r_.make(contiguous({2, 4}), 1);
    Tensor view = r_.call(Call(ops().select, {a}).index(0).index(row++))[0];
    mul(view, view);
  };
  region(program);
  region(program);
  NodeId select = only(TraceGraph::kStart), product = only(select);
  EXPECT_TRUE(graph_[select].event->args[2].varies);
  EXPECT_TRUE(graph_[product].event->inputs[0].offsetVaries && graph_[product].event->inputs[1].offsetVaries);
}

TEST_F(Merge, what_may_not_vary_is_another_path) {
  int64_t dim = 0;
  auto program = [&] {
    Tensor a = r_.make(contiguous({4, 4}), 1);
    r_.call(Call(ops().select, {a}).index(dim++).index(0));
  };
  region(program);
  EXPECT_EQ(region(program).newNodes, 1u);
  EXPECT_EQ(graph_[TraceGraph::kStart].next.size(), 2u);
}

TEST_F(Merge, operands_that_share_memory_are_another_path) {
  Tensor a = tensor(), b = tensor();
  region([&] { mul(a, b); });
  EXPECT_EQ(region([&] { mul(a, a); }).newNodes, 1u) << "no cut between events makes one of them cover the other";
  EXPECT_FALSE(region([&] { mul(b, b); }).changed);
  EXPECT_FALSE(region([&] { mul(b, a); }).changed);
}

TEST_F(Merge, another_context_is_another_path) {
  auto program = [&] { mul(tensor(), tensor()); };
  region(program);
  r_.context = 2;
  EXPECT_EQ(region(program).newNodes, 1u);
}

TEST_F(Merge, a_branch_joins_the_common_tail) {
  bool other = false;
  auto program = [&] {
    Tensor a = tensor(), b = mul(a, a);
    Tensor c = other ? pair(b)[0] : add(b, b);
    add(c, c);
    mul(a, c);
  };
  region(program);
  other = true;
  MergeResult second = region(program);
  EXPECT_EQ(second.newNodes, 1u) << toString(graph_);
  NodeId fork = only(TraceGraph::kStart);
  ASSERT_EQ(graph_[fork].next.size(), 2u);
  NodeId join = only(graph_[fork].next[0]);
  EXPECT_EQ(only(graph_[fork].next[1]), join);
  EXPECT_TRUE(graph_.startsSegment(join));
  EXPECT_FALSE(region(program).changed);
  other = false;
  EXPECT_FALSE(region(program).changed);
}

TEST_F(Merge, paths_that_part_before_a_whole_call_meet_behind_it) {
  graph::Whole kind = 1;
  auto program = [&] {
    Tensor a = tensor();
    Tensor b = kind == 2 ? pair(a)[0] : add(a, a);
    r_.whole = kind;
    Tensor c = mul(b, b), d = mul(c, c);
    r_.whole = 0;
    add(d, d);
  };
  region(program);
  kind = 2;
  MergeResult second = region(program);
  EXPECT_EQ(second.newNodes, 3u) << toString(graph_);
  ASSERT_EQ(graph_[TraceGraph::kStart].next.size(), 2u);
  NodeId first = graph_[TraceGraph::kStart].next[0], other = graph_[TraceGraph::kStart].next[1];
  EXPECT_FALSE(graph_.startsSegment(only(only(other)))) << "the call is in one segment";
  NodeId join = only(only(only(first)));
  EXPECT_EQ(only(only(only(other))), join);
  for (graph::Whole again : {1, 2}) {
    kind = again;
    EXPECT_FALSE(region(program).changed);
  }
}

TEST_F(Merge, scalars_of_a_new_kind_of_call_vary_as_in_other_kinds) {
  graph::Whole kind = 1;
  double alpha = 1;
  auto program = [&] {
    Tensor a = tensor();
    r_.whole = kind;
    add(a, a, alpha++);
    mul(a, a);
    r_.whole = 0;
  };
  region(program);
  kind = 2;
  EXPECT_EQ(region(program).newNodes, 2u) << toString(graph_);
  EXPECT_FALSE(region(program).changed) << "the second call of the kind finds a feed";
  kind = 1;
  EXPECT_TRUE(region(program).changed) << "what is known of the first kind stays as it was";
}

TEST_F(Merge, more_of_the_same_events_join_the_known_ones) {
  int turns = 2;
  auto program = [&] {
    Tensor a = tensor();
    for (int i = 0; i < turns; ++i)
      mul(add(a, a), a);
    pair(a);
  };
  region(program);
  size_t before = graph_.size();
  for (turns = 1; turns <= 6; ++turns)
    region(program);
  EXPECT_LE(graph_.size(), before + 8) << toString(graph_);
  for (turns = 1; turns <= 6; ++turns)
    EXPECT_FALSE(region(program).changed) << turns;
}

TEST_F(Merge, a_loop_gets_a_back_edge) {
  r_.restart();
  Tensor a = tensor();
  r_.call(Call(ops().fill, {a}).number(0));
  for (int i = 0; i < 70; ++i) {
    add(a, a, i);
    mul(a, a);
    pair(a);
  }
  auto period = tracer::findPeriod(r_.events());
  ASSERT_TRUE(period);
  ASSERT_EQ(period->length, 3u);
  MergeResult result = tracer::mergeLoop(graph_, TraceGraph::kStart, {}, r_.events(), *period);
  EXPECT_EQ(graph_.size(), 2 + period->start + 3) << toString(graph_);
  NodeId head = result.first, second = only(head), third = only(second);
  EXPECT_EQ(only(third), head);
  EXPECT_TRUE(graph_[head].boundary);
  EXPECT_EQ(result.last, third);
  bool general = false;
  for (NodeId id : {head, second, third})
    general |= graph_[id].event->op == &ops().add.op && graph_[id].event->args[2].varies;
  EXPECT_TRUE(general) << "the turns that follow generalise the loop";
}

TEST_F(Merge, other_dataflow_between_the_same_events_is_a_boundary) {
  bool other = false;
  auto program = [&] {
    Tensor a = tensor(), b = tensor();
    Tensor c = mul(a, b);
    add(other ? a : c, b);
  };
  region(program);
  NodeId last = only(only(TraceGraph::kStart));
  EXPECT_FALSE(graph_.startsSegment(last));
  other = true;
  MergeResult second = region(program);
  EXPECT_EQ(second.newNodes, 0u);
  EXPECT_TRUE(second.changed);
  EXPECT_TRUE(graph_[last].boundary);
  EXPECT_FALSE(region(program).changed);
}

TEST_F(Merge, storages_of_the_segment_that_was_left_are_related) {
  Tensor a, b;
  region([&] {
    a = tensor(), b = tensor();
    mul(a, b); // storages 0 and 1
    mul(a, b);
  });
  NodeId first = only(TraceGraph::kStart), second = only(first);
  auto again = [&](graph::StorageId knownFirst) {
    r_.restart();
    mul(a, b); // storages 0 and 1 of the new trace
    return tracer::merge(graph_, first, {{knownFirst, 0}}, r_.events());
  };
  EXPECT_FALSE(again(0).changed);
  EXPECT_FALSE(graph_[second].boundary);
  EXPECT_TRUE(again(1).changed) << "it was the other operand before";
  EXPECT_TRUE(graph_[second].boundary);
}

} // namespace
} // namespace terra::fake
