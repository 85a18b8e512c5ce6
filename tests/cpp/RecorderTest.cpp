// Events as the recorder copies them, and the repetition of traces.
#include "FakeCall.h"
#include "tracer/Merge.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace terra::fake {
namespace {

using graph::Alias;
using graph::kNoStorage;
using tracer::findPeriod;
using tracer::MergeResult;
using tracer::Trace;

TEST(Recorder, results_are_fresh_views_or_the_same_tensor) {
  Recording r;
  Tensor a = r.make(contiguous({2, 4}), 1);
  Tensor b = r.call(Call(ops().mul, {a, a}))[0];
  r.call(Call(ops().select, {b}).index(0).index(1));
  r.call(Call(ops().addInPlace, {b, a}).number(1));
  r.call(Call(ops().pair, {a}));
  EXPECT_EQ(r.event(0).results[0].alias, Alias::Fresh);
  EXPECT_EQ(r.event(0).results[0].storageBytes, 8 * kElementBytes);
  EXPECT_EQ(r.event(1).results[0].alias, Alias::View);
  EXPECT_EQ(r.event(1).results[0].storage, r.event(0).results[0].storage);
  EXPECT_EQ(r.event(1).results[0].meta.offset, 4);
  EXPECT_EQ(r.event(2).results[0].alias, Alias::Same);
  EXPECT_EQ(r.event(2).results[0].aliasOf, 0u);
  EXPECT_EQ(r.event(3).results[0].alias, Alias::Fresh);
  EXPECT_EQ(r.event(3).results[0].storage, r.event(3).results[1].storage);
}

TEST(Recorder, written_operands_follow_the_schema) {
  Recording r;
  Tensor a = r.make(contiguous({4}), 1), b = r.make(contiguous({4}), 1);
  r.call(Call(ops().addInPlace, {a, b}).number(1));
  r.call(Call(ops().foreachAdd, {a, b}).list({1, 2}));
  EXPECT_TRUE(r.event(0).inputs[0].written);
  EXPECT_FALSE(r.event(0).inputs[1].written);
  EXPECT_TRUE(r.event(1).inputs[0].written && r.event(1).inputs[1].written);
}

TEST(Recorder, undefined_tensors_have_no_storage) {
  Recording r;
  Tensor a = r.make(contiguous({4}), 1);
  BuiltCall built(Call(ops().mul, {a, Tensor()}), 1);
  auto event = r.recorder().begin(built.view);
  EXPECT_EQ(event->inputs[1].storage, kNoStorage);
  EXPECT_EQ(event->inputs[1].meta.dtype, DType::Undefined);
}

TEST(Recorder, storages_of_the_walk_that_was_left_are_known) {
  Recording r;
  Tensor a = r.make(contiguous({4}), 1), b = r.make(contiguous({4}), 1), c = r.make(contiguous({4}), 1);
  a.storage->buffer().epoch = 77;
  a.storage->buffer().slot = 5;
  c.storage->buffer().epoch = 76;
  r.restart(/*left=*/77);
  r.call(Call(ops().mul, {b, a}));
  r.call(Call(ops().mul, {c, a}));
  ASSERT_EQ(r.recorder().known().size(), 1u);
  EXPECT_EQ(r.recorder().known()[0], std::make_pair(5u, graph::StorageId(1)));
}

/// Regions that are recorded and merged one after the other.
class Again : public testing::Test {
protected:
  /// The events that were not shared with the region before.
  size_t region(double scalar, bool extra = false, std::vector<int64_t> sizes = {4}) {
    r_.restart();
    Tensor a = r_.make(contiguous(sizes), 1);
    Tensor b = r_.call(Call(ops().mul, {a, a}))[0];
    if (extra)
      r_.read(b);
    r_.call(Call(ops().add, {b, a}).number(scalar));
    r_.call(Call(ops().addInPlace, {a, b}).number(2));
    r_.end();
    result_ = tracer::merge(graph_, graph::TraceGraph::kStart, {}, r_.events());
    trace_ = r_.events();
    r_.clear();
    return size_t(
        std::count_if(trace_.begin(), trace_.end(), [&](const auto &event) { return event->trace == trace_.number; }));
  }
  Recording r_;
  graph::TraceGraph graph_;
  MergeResult result_;
  Trace trace_;
};

TEST_F(Again, the_same_region_makes_no_events) {
  EXPECT_EQ(region(1), 3u);
  EXPECT_EQ(region(1), 0u);
  EXPECT_TRUE(trace_.repeats == (Trace::Place{graph_.id(), graph::TraceGraph::kStart}));
  EXPECT_FALSE(result_.changed);
  EXPECT_EQ(trace_[0], graph_[graph_[graph::TraceGraph::kStart].next[0]].event);
}

TEST_F(Again, a_scalar_that_varies_is_learned) {
  region(1);
  EXPECT_EQ(region(2), 0u); // its event became the node's, which varies
  EXPECT_TRUE(result_.changed);
  EXPECT_EQ(region(3), 0u);
  EXPECT_FALSE(result_.changed);
  EXPECT_TRUE(trace_[1]->args[1].varies || trace_[1]->args[2].varies);
}

TEST_F(Again, a_graph_that_was_forgotten_is_learned_again) {
  region(1);
  region(1);
  graph_ = graph::TraceGraph();
  EXPECT_EQ(region(1), 3u); // copies, as nodes of one trace
  EXPECT_TRUE(result_.changed);
  EXPECT_EQ(result_.newNodes, 3u);
  EXPECT_EQ(region(1), 0u);
  EXPECT_FALSE(result_.changed);
}

TEST_F(Again, an_event_in_between_leaves_the_others_shared) {
  region(1);
  EXPECT_GE(region(1, /*extra=*/true), 1u);
  EXPECT_TRUE(result_.changed);
  EXPECT_TRUE(trace_.repeats == Trace::Place());
  EXPECT_EQ(trace_[1]->kind, graph::EventKind::Read);
  region(1);
  EXPECT_FALSE(result_.changed);
}

TEST_F(Again, nodes_of_one_merge_carry_one_number) {
  region(1);
  size_t before = graph_.size();
  region(1, /*extra=*/true);
  ASSERT_GT(graph_.size(), before);
  for (graph::NodeId id = graph::NodeId(before); id < graph_.size(); ++id)
    EXPECT_EQ(graph_[id].event->trace, trace_.number);
}

TEST_F(Again, other_shapes_are_other_events) {
  region(1);
  EXPECT_EQ(region(1, false, {5}), 3u);
  EXPECT_EQ(region(1, false, {5}), 0u);
}

class Loops : public testing::Test {
protected:
  void turn(int length, double scalar = 1) {
    for (int i = 0; i < length; ++i)
      r_.call(i % 3 ? Call(ops().mul, {a_, a_}) : Call(ops().add, {a_, a_}).number(scalar));
    r_.call(Call(ops().pair, {a_}));
  }
  Recording r_;
  Tensor a_ = r_.make(contiguous({4}), 1);
};

TEST_F(Loops, three_long_turns_are_a_period) {
  r_.call(Call(ops().fill, {a_}).number(0));
  for (int i = 0; i < 4; ++i)
    turn(63, i); // scalars may differ
  auto period = findPeriod(r_.events());
  ASSERT_TRUE(period);
  EXPECT_EQ(period->start, 1u);
  EXPECT_EQ(period->length, 64u);
}

TEST_F(Loops, two_turns_or_short_repetitions_are_none) {
  turn(100);
  turn(100);
  EXPECT_FALSE(findPeriod(r_.events()));
  r_.restart();
  for (int i = 0; i < 30; ++i)
    turn(5); // 180 events: layers of one model
  EXPECT_FALSE(findPeriod(r_.events()));
  for (int i = 0; i < 2; ++i)
    turn(5);
  ASSERT_TRUE(findPeriod(r_.events()));
  EXPECT_EQ(findPeriod(r_.events())->length, 6u);
}

TEST_F(Loops, the_same_done_to_one_thing_after_another_is_none) {
  for (int i = 0; i < 80; ++i) { // an optimizer going through its parameters
    Tensor parameter = r_.make(contiguous({4}), 1), gradient = r_.make(contiguous({4}), 1);
    for (int k = 0; k < 3; ++k)
      r_.call(Call(ops().addInPlace, {parameter, gradient}).number(1));
  }
  EXPECT_FALSE(findPeriod(r_.events()));
}

TEST_F(Loops, turns_with_new_data_and_results_of_the_last_turn_are_a_period) {
  for (int i = 0; i < 80; ++i) {
    Tensor data = r_.make(contiguous({4}), 1);
    Tensor sum = r_.call(Call(ops().add, {a_, data}).number(1))[0];
    r_.call(Call(ops().addInPlace, {sum, data}).number(1));
    a_ = r_.call(Call(ops().mul, {sum, sum}))[0];
  }
  ASSERT_TRUE(findPeriod(r_.events()));
  EXPECT_EQ(findPeriod(r_.events())->length, 3u);
}

TEST_F(Loops, other_shapes_do_not_repeat) {
  for (int i = 0; i < 4; ++i) {
    a_ = r_.make(contiguous({4 + i}), 1);
    turn(63);
  }
  EXPECT_FALSE(findPeriod(r_.events()));
  EXPECT_FALSE(findPeriod({}));
}

} // namespace
} // namespace terra::fake
