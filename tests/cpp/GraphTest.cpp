// Printing, segments and where they start.
#include "FakeCall.h"
#include "graph/TraceGraph.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace terra::fake {
namespace {

using graph::Event;
using graph::kNever;
using graph::NodeId;
using graph::Segment;
using graph::TraceGraph;
using testing::HasSubstr;

TEST(Types, metas_know_their_extent) {
  TensorMeta meta = contiguous({2, 4}, 3);
  EXPECT_EQ(meta.numel(), 8);
  EXPECT_EQ(meta.span(), 8);
  EXPECT_TRUE(meta.isContiguous());
  EXPECT_EQ(toString(meta), "i64[2x4] +3");
  meta.dims = {2, 4, 1, 2};
  EXPECT_FALSE(meta.isContiguous());
  EXPECT_EQ(toString(meta), "i64[2x4] strides [1,2] +3");
  meta.dims = {2, 3, 10, 1};
  EXPECT_EQ(meta.span(), 13);
  meta.dims = {0, 3, 10, 1};
  EXPECT_EQ(meta.span(), 0);
  EXPECT_EQ(meta.numel(), 0);
  EXPECT_TRUE(meta.isContiguous());
}

TEST(Graph, events_print_operands_attributes_and_place) {
  Recording r;
  Tensor a = r.make(contiguous({2, 4}), 1), b = r.make(contiguous({6}), 1);
  Tensor c = r.call(Call(ops().add, {a, b}).number(2))[0];
  Tensor row = r.call(Call(ops().select, {c}).index(0).index(1))[0];
  r.call(Call(ops().foreachAdd, {a, row}).list({1, 2.5}));
  r.item(c);
  r.read(c);
  EXPECT_EQ(toString(r.event(0)), "%2:i64[2x4] = aten::add.Tensor(%0:i64[2x4], %1:i64[6], alpha=2)");
  EXPECT_EQ(toString(r.event(1)), "%2:i64[4] +4 = aten::select.int(%2:i64[2x4], dim=0, index=1)");
  EXPECT_EQ(toString(r.event(2)), "aten::_foreach_add_.ScalarList(self=[%0:i64[2x4], %2:i64[4] +4], scalars=[1, 2.5])");
  EXPECT_EQ(toString(r.event(3)), "undef = fake::item(%2:i64[2x4]) gate");
  EXPECT_THAT(toString(r.event(4)), HasSubstr("terra.read("));
  Event general = r.event(0);
  general.args[2].varies = true;
  general.inputs[1].offsetVaries = true;
  general.location = "train.py:12";
  EXPECT_EQ(toString(general),
            "%2:i64[2x4] = aten::add.Tensor(%0:i64[2x4], %1:i64[6] +fed, alpha=fed 2)  # train.py:12");
}

TEST(Graph, only_views_touch_no_data) {
  Recording r;
  Tensor a = r.make(contiguous({2, 4}), 1);
  r.call(Call(ops().alias, {a}));
  r.call(Call(ops().fill, {a}).number(1));
  r.call(Call(ops().mul, {a, a}));
  r.item(a);
  EXPECT_TRUE(r.event(0).onlyMakesViews());
  for (size_t i = 1; i < 4; ++i)
    EXPECT_FALSE(r.event(i).onlyMakesViews()) << i;
}

TEST(Segment, slots_are_numbered_by_first_appearance) {
  Recording r;
  Tensor a = r.make(contiguous({2, 4}), 1), b = r.make(contiguous({6}), 1);
  r.call(Call(ops().alias, {b})); // takes storage number 0 of the trace
  r.call(Call(ops().mul, {a, b}));
  std::vector<Tensor> halves = r.call(Call(ops().pair, {a}));
  r.call(Call(ops().addInPlace, {halves[1], a}).number(1));
  Segment segment = graph::makeSegment({r.events().begin() + 1, r.events().end()});
  ASSERT_EQ(segment.slots.size(), 4u); // a, b, product, pair
  EXPECT_EQ(segment.events[0].inputs[0].slot, 0u);
  EXPECT_EQ(segment.events[0].inputs[1].slot, 1u);
  EXPECT_EQ(segment.slots[1].storage, 0u);
  EXPECT_EQ(segment.events[0].results[0].slot, 2u);
  EXPECT_EQ(segment.events[1].results[0].slot, 3u);
  EXPECT_EQ(segment.events[1].results[1].slot, 3u) << "both results share a storage";
  EXPECT_TRUE(segment.slots[0].external && segment.slots[1].external);
  EXPECT_EQ(segment.slots[0].producer, kNever);
  EXPECT_EQ(segment.slots[3].producer, 1u);
  EXPECT_EQ(segment.slots[3].bytes, 2 * 8 * kElementBytes);
  EXPECT_TRUE(segment.slots[3].written);
  EXPECT_FALSE(segment.slots[0].written || segment.slots[2].written);
  EXPECT_EQ(segment.slots[0].firstUse, 0u);
  EXPECT_EQ(segment.slots[0].lastUse, 2u);
}

TEST(Segment, what_varies_gets_feeds) {
  Recording r;
  Tensor a = r.make(contiguous({2, 4}), 1), b = r.make(contiguous({6}), 1);
  r.call(Call(ops().foreachAdd, {a, b}).list({1, 2}));
  r.call(Call(ops().add, {a, b}).number(3));
  std::vector<std::shared_ptr<const Event>> events;
  for (const auto &event : r.events()) {
    auto general = std::make_shared<Event>(*event);
    general->args.back().varies = true;
    general->inputs[1].offsetVaries = true;
    events.push_back(general);
  }
  Segment segment = graph::makeSegment(events);
  EXPECT_EQ(segment.numScalarFeeds, 3u) << "two for the list, one for the number";
  EXPECT_EQ(segment.events[0].scalarFeeds[1], 0u);
  EXPECT_EQ(segment.events[1].scalarFeeds[2], 2u);
  EXPECT_EQ(segment.events[1].scalarFeeds[0], kNever);
  EXPECT_EQ(segment.numOffsetFeeds, 2u);
  EXPECT_EQ(segment.events[1].inputs[1].offsetFeed, 1u);
  EXPECT_EQ(segment.events[1].inputs[0].offsetFeed, kNever);
}

class StartsSegment : public testing::Test {
protected:
  NodeId add(NodeId after, bool gate = false, uint32_t trace = 1) {
    auto event = std::make_shared<Event>();
    event->op = &ops().mul.op;
    event->gate = gate;
    event->trace = trace;
    NodeId id = graph_.addNode(event);
    graph_.addEdge(after, id);
    return id;
  }
  TraceGraph graph_;
};

TEST_F(StartsSegment, only_where_a_straight_run_begins) {
  NodeId a = add(TraceGraph::kStart), b = add(a), c = add(b);
  graph_.addEdge(c, TraceGraph::kEnd);
  EXPECT_TRUE(graph_.startsSegment(a));
  EXPECT_FALSE(graph_.startsSegment(b));
  EXPECT_TRUE(graph_.startsSegment(TraceGraph::kEnd));
  graph_.setBoundary(b);
  EXPECT_TRUE(graph_.startsSegment(b));
  graph_.addEdge(a, c); // b → c and a → c: a branch and a join
  EXPECT_TRUE(graph_.startsSegment(c));
}

TEST_F(StartsSegment, at_and_after_gates) {
  NodeId a = add(TraceGraph::kStart), gate = add(a, /*gate=*/true), b = add(gate), c = add(b);
  EXPECT_TRUE(graph_.startsSegment(gate));
  EXPECT_TRUE(graph_.startsSegment(b));
  EXPECT_FALSE(graph_.startsSegment(c));
}

TEST_F(StartsSegment, after_a_branch_and_between_traces) {
  NodeId a = add(TraceGraph::kStart), b = add(a), other = add(b, false, /*trace=*/2);
  EXPECT_FALSE(graph_.startsSegment(b));
  EXPECT_TRUE(graph_.startsSegment(other)) << "storage numbers of two traces cannot be compared";
  NodeId c = add(a);
  EXPECT_TRUE(graph_.startsSegment(b) && graph_.startsSegment(c));
}

TEST_F(StartsSegment, edges_are_kept_once_and_graphs_print) {
  NodeId a = add(TraceGraph::kStart), b = add(a);
  graph_.addEdge(a, b);
  EXPECT_EQ(graph_[a].next.size(), 1u);
  EXPECT_EQ(graph_[b].previous.size(), 1u);
  graph_.addEdge(b, TraceGraph::kEnd);
  EXPECT_THAT(toString(graph_), HasSubstr("#2 aten::mul.Tensor()  -> #3"));
  std::string dot = toDot(graph_);
  EXPECT_THAT(dot, HasSubstr("n2 [label="));
  EXPECT_THAT(dot, testing::Not(HasSubstr("n3 [label="))) << "one record a segment";
  EXPECT_THAT(dot, HasSubstr("aten::mul.Tensor()"));
  EXPECT_THAT(dot, HasSubstr("n2 -> n1;"));
  EXPECT_THAT(dot, HasSubstr("n0 -> n2;"));
}

} // namespace
} // namespace terra::fake
