// What the cursor lets pass, and the reason it gives for everything else.
#include "tracer/Cursor.h"
#include "FakeCall.h"
#include "FakeComposites.h"
#include "tracer/Rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace terra::fake {
namespace {

using graph::Event;
using graph::Segment;
using testing::ElementsAre;
using testing::HasSubstr;
using tracer::Binding;
using tracer::Mismatch;

class Cursor : public testing::Test {
protected:
  Tensor tensor(std::vector<int64_t> sizes = {2, 4}) { return r_.make(contiguous(sizes), 1); }

  /// Begins to walk what was recorded, after `change` generalised its events.
  void walk(const std::function<void(Event &)> &change = {}) {
    std::vector<std::shared_ptr<const Event>> events;
    for (const auto &event : r_.events()) {
      auto copy = std::make_shared<Event>(*event);
      if (change)
        change(*copy);
      events.push_back(copy);
    }
    segment_ = graph::makeSegment(events);
    binding_.reset(segment_, ++epoch_);
  }

  Mismatch match(uint32_t index, Call call) {
    BuiltCall built(std::move(call), context_);
    result_ = tracer::match(segment_, index, built.view, binding_);
    return result_.mismatch;
  }

  std::string reason(uint32_t index) const { return tracer::describe(result_, *segment_.events[index].event); }

  Recording r_;
  Segment segment_;
  Binding binding_;
  uint64_t epoch_ = 5000;
  graph::Context context_ = 1;
  tracer::MatchResult result_;
};

TEST_F(Cursor, the_same_call_inside_another_kind_of_whole_does_not_match) {
  r_.whole = 1;
  r_.call(Call(ops().add, {tensor(), tensor()}).number(2));
  walk();
  EXPECT_EQ(match(0, Call(ops().add, {tensor(), tensor()}).number(2)), Mismatch::Whole);
  EXPECT_THAT(reason(0), HasSubstr("another kind of backward"));
}

TEST_F(Cursor, the_same_call_on_other_tensors_matches_and_binds) {
  r_.call(Call(ops().add, {tensor(), tensor()}).number(2));
  walk();
  Tensor a = tensor(), b = tensor();
  EXPECT_EQ(match(0, Call(ops().add, {a, b}).number(2)), Mismatch::None);
  EXPECT_THAT(binding_.bound, ElementsAre(0u, 1u));
  EXPECT_EQ(binding_.slots[1], &b.storage->buffer());
  EXPECT_EQ(a.storage->buffer().epoch, binding_.epoch);
}

TEST_F(Cursor, another_op_or_number_of_operands) {
  Tensor a = tensor();
  r_.call(Call(ops().mul, {a, a}));
  r_.call(Call(ops().foreachAdd, {a, a}).list({1, 2}));
  walk();
  EXPECT_EQ(match(0, Call(ops().pair, {a})), Mismatch::Op);
  EXPECT_THAT(reason(0), HasSubstr("another operation than aten::mul.Tensor"));
  EXPECT_EQ(match(1, Call(ops().foreachAdd, {a}).list({1})), Mismatch::Op);
}

TEST_F(Cursor, another_context) {
  Tensor a = tensor();
  r_.call(Call(ops().mul, {a, a}));
  walk();
  context_ = 2;
  EXPECT_EQ(match(0, Call(ops().mul, {a, a})), Mismatch::Context);
  EXPECT_THAT(reason(0), HasSubstr("context"));
}

TEST_F(Cursor, another_attribute) {
  Tensor a = tensor();
  r_.call(Call(ops().add, {a, a}).number(2));
  r_.call(Call(ops().foreachAdd, {a, a}).list({1, 2}));
  walk();
  EXPECT_EQ(match(0, Call(ops().add, {a, a}).number(3)), Mismatch::Argument);
  EXPECT_EQ(reason(0), "argument 2 ('alpha') of aten::add.Tensor changed");
  EXPECT_EQ(match(0, Call(ops().add, {a, a}).index(2)), Mismatch::Argument) << "an int is no double";
  EXPECT_EQ(match(0, Call(ops().add, {a, a}).number(-0.0)), Mismatch::Argument);
  EXPECT_EQ(match(1, Call(ops().foreachAdd, {a, a}).list({1, 3})), Mismatch::Argument);
  EXPECT_EQ(match(1, Call(ops().foreachAdd, {a, a}).list({1, 2})), Mismatch::None);
}

TEST_F(Cursor, zeros_of_either_sign_differ_and_nan_equals_itself) {
  Tensor a = tensor();
  r_.call(Call(ops().add, {a, a}).number(0.0));
  r_.call(Call(ops().add, {a, a}).number(std::numeric_limits<double>::quiet_NaN()));
  walk();
  EXPECT_EQ(match(0, Call(ops().add, {a, a}).number(-0.0)), Mismatch::Argument);
  EXPECT_EQ(match(1, Call(ops().add, {a, a}).number(std::numeric_limits<double>::quiet_NaN())), Mismatch::None);
}

TEST_F(Cursor, other_metas_of_operands) {
  Tensor a = tensor();
  r_.call(Call(ops().mul, {a, tensor()}));
  auto rejects = [&](const std::function<void(Tensor &)> &change) {
    walk();
    Tensor b = tensor();
    change(b);
    return match(0, Call(ops().mul, {a, b})) == Mismatch::Meta && result_.index == 1;
  };
  EXPECT_TRUE(rejects([&](Tensor &b) { b.meta = contiguous({4, 2}); }));
  EXPECT_TRUE(rejects([&](Tensor &b) { b.meta = contiguous({8}); }));
  EXPECT_TRUE(rejects([&](Tensor &b) { b.meta.dims = {2, 4, 1, 2}; }));
  EXPECT_TRUE(rejects([&](Tensor &b) { b.meta.dtype = DType::Float64; }));
  EXPECT_TRUE(rejects([&](Tensor &b) { b = {}; }));
  EXPECT_THAT(reason(0), HasSubstr("tensor 1 of aten::mul.Tensor"));
  EXPECT_FALSE(rejects([](Tensor &) {}));
}

TEST_F(Cursor, offsets_are_guards_until_they_vary) {
  Tensor a = tensor({8}), row = a;
  row.meta = contiguous({4}, 4);
  r_.call(Call(ops().fill, {row}).number(1));
  walk();
  Tensor other = row;
  other.meta.offset = 2;
  EXPECT_EQ(match(0, Call(ops().fill, {other}).number(1)), Mismatch::Offset);
  EXPECT_THAT(reason(0), HasSubstr("storage offset of tensor 0"));
  walk([](Event &event) { event.inputs[0].offsetVaries = true; });
  EXPECT_EQ(match(0, Call(ops().fill, {other}).number(1)), Mismatch::None);
  EXPECT_THAT(binding_.offsets, ElementsAre(2));
}

TEST_F(Cursor, operands_come_from_where_they_came_from) {
  Tensor a = tensor(), b = tensor();
  Tensor c = r_.call(Call(ops().mul, {a, b}))[0];
  r_.call(Call(ops().mul, {c, a}));
  walk();
  EXPECT_EQ(match(0, Call(ops().mul, {a, a})), Mismatch::Storage) << "externals that were distinct";
  EXPECT_THAT(reason(0), HasSubstr("tensor 1 of aten::mul.Tensor comes from elsewhere"));
  walk();
  EXPECT_EQ(match(0, Call(ops().mul, {a, b})), Mismatch::None);
  EXPECT_EQ(match(1, Call(ops().mul, {tensor(), a})), Mismatch::Storage) << "a new external for a result";
  EXPECT_EQ(match(1, Call(ops().mul, {b, a})), Mismatch::Storage) << "another slot";
  EXPECT_EQ(match(1, Call(ops().mul, {b, b})), Mismatch::Storage);
}

TEST_F(Cursor, externals_that_were_one_have_to_stay_one) {
  Tensor a = tensor();
  r_.call(Call(ops().mul, {a, a}));
  walk();
  EXPECT_EQ(match(0, Call(ops().mul, {a, tensor()})), Mismatch::Storage);
}

TEST_F(Cursor, varying_scalars_are_fed) {
  Tensor a = tensor();
  r_.call(Call(ops().add, {a, a}).number(2));
  r_.call(Call(ops().foreachAdd, {a, a}).list({1, 2}));
  walk([](Event &event) { event.args.back().varies = true; });
  EXPECT_EQ(match(0, Call(ops().add, {a, a}).number(7)), Mismatch::None);
  EXPECT_EQ(match(1, Call(ops().foreachAdd, {a, a}).list({8, 9})), Mismatch::None);
  ASSERT_EQ(binding_.scalars.size(), 3u);
  EXPECT_EQ(binding_.scalars[0].d, 7);
  EXPECT_EQ(binding_.scalars[1].d, 8);
  EXPECT_EQ(binding_.scalars[2].d, 9);
  EXPECT_EQ(match(1, Call(ops().foreachAdd, {a, a}).list({8, 9, 10})), Mismatch::Argument) << "another length";
}

TEST_F(Cursor, varying_positions_keep_the_shape_of_views) {
  Tensor a = tensor();
  r_.call(Call(ops().select, {a}).index(0).index(0));
  r_.call(Call(ops().slice, {a}).index(0).index(0).index(1).index(1));
  walk([](Event &event) {
    event.args[2].varies = true;
    if (event.args.size() > 3)
      event.args[3].varies = true;
  });
  EXPECT_EQ(match(0, Call(ops().select, {a}).index(0).index(-1)), Mismatch::None);
  EXPECT_EQ(match(0, Call(ops().select, {a}).index(0).index(2)), Mismatch::Argument) << "out of range: the op raises";
  EXPECT_EQ(match(0, Call(ops().select, {a}).index(1).index(0)), Mismatch::Argument) << "the dimension does not vary";
  EXPECT_EQ(match(1, Call(ops().slice, {a}).index(0).index(1).index(2).index(1)), Mismatch::None);
  EXPECT_EQ(match(1, Call(ops().slice, {a}).index(0).index(1).index(9).index(1)), Mismatch::None) << "clamped";
  EXPECT_EQ(match(1, Call(ops().slice, {a}).index(0).index(0).index(2).index(1)), Mismatch::Argument) << "longer";
}

TEST_F(Cursor, offsets_of_views_follow_their_positions) {
  Tensor a = tensor();
  r_.call(Call(ops().select, {a}).index(0).index(0));
  r_.call(Call(ops().slice, {a}).index(0).index(0).index(1).index(1));
  BuiltCall last(Call(ops().select, {a}).index(0).index(-1), 1);
  EXPECT_EQ(tracer::resultOffset(r_.event(0), last.view, 0), 4);
  BuiltCall second(Call(ops().slice, {a}).index(0).index(1).index(2).index(1), 1);
  EXPECT_EQ(tracer::resultOffset(r_.event(1), second.view, 0), 4);
  Tensor moved = a;
  moved.meta.offset = 3;
  BuiltCall onMoved(Call(ops().select, {moved}).index(0).index(1), 1);
  EXPECT_EQ(tracer::resultOffset(r_.event(0), onMoved.view, 0), 7);
}

/// A call of a composite on the tensors of slots 0 and 1.
graph::SegmentEvent spanOf(const Call &call, graph::Context context) {
  BuiltCall built(call, context);
  graph::SegmentEvent expected;
  expected.event = tracer::Recorder::copy(built.view);
  expected.inputs = {{0, graph::kNever}, {1, graph::kNever}};
  expected.scalarFeeds.assign(call.args.size(), graph::kNever);
  return expected;
}

TEST_F(Cursor, a_span_that_does_not_fit_leaves_the_binding_as_it_was) {
  Tensor a = tensor(), b = tensor();
  Call whole = Call(composites().chain, {a, b}).number(1);
  graph::SegmentEvent expected = spanOf(whole, context_);
  r_.call(whole);
  auto fits = [&](Call call) {
    BuiltCall built(std::move(call), context_);
    return tracer::matchSpan(segment_, expected, built.view, binding_).mismatch;
  };
  auto number = [](Tensor first, Tensor second) { return Call(composites().chain, {first, second}).number(1); };
  walk();
  Tensor x = tensor(), y = tensor(), small = tensor({3});
  uint64_t before = x.storage->buffer().epoch;
  EXPECT_EQ(fits(number(x, x)), Mismatch::Storage) << "the first operand was bound, the second cannot be";
  EXPECT_EQ(fits(number(x, small)), Mismatch::Meta);
  EXPECT_EQ(fits(Call(composites().chain, {x, y}).number(2)), Mismatch::Argument);
  EXPECT_EQ(fits(Call(composites().views, {x, y}).number(1)), Mismatch::Op);
  EXPECT_THAT(binding_.bound, testing::IsEmpty());
  EXPECT_THAT(binding_.slots, testing::Each(nullptr));
  EXPECT_NE(x.storage->buffer().epoch, binding_.epoch);
  EXPECT_EQ(before, 0u);
  EXPECT_EQ(match(0, Call(ops().mul, {y, x})), Mismatch::None) << "event by event, the other way round";
  EXPECT_THAT(binding_.bound, ElementsAre(0u, 1u));
  EXPECT_EQ(binding_.slots[1], &x.storage->buffer());
  EXPECT_EQ(fits(number(x, y)), Mismatch::Storage);
  EXPECT_EQ(binding_.slots[1], &x.storage->buffer()) << "what was bound before stays";
  EXPECT_EQ(x.storage->buffer().epoch, binding_.epoch);
  EXPECT_EQ(fits(number(y, x)), Mismatch::None);
}

TEST_F(Cursor, a_span_binds_its_externals) {
  Tensor a = tensor(), b = tensor();
  graph::SegmentEvent expected = spanOf(Call(composites().chain, {a, b}).number(1), context_);
  r_.call(Call(composites().chain, {a, b}).number(1));
  walk();
  BuiltCall built(Call(composites().chain, {b, a}).number(1), context_);
  EXPECT_TRUE(bool(tracer::matchSpan(segment_, expected, built.view, binding_)));
  EXPECT_THAT(binding_.bound, ElementsAre(0u, 1u));
  EXPECT_EQ(binding_.slots[0], &b.storage->buffer());
  context_ = 2;
  walk();
  BuiltCall other(Call(composites().chain, {b, a}).number(1), context_);
  EXPECT_EQ(tracer::matchSpan(segment_, expected, other.view, binding_).mismatch, Mismatch::Context);
}

TEST_F(Cursor, only_declared_scalars_may_vary) {
  Tensor a = tensor();
  r_.call(Call(ops().add, {a, a}).number(2));
  r_.call(Call(ops().select, {a}).index(0).index(0));
  r_.call(Call(ops().slice, {a}).index(0).index(0).index(1).index(1));
  EXPECT_TRUE(tracer::mayVary(r_.event(0), 2));
  EXPECT_FALSE(tracer::mayVary(r_.event(0), 0));
  EXPECT_FALSE(tracer::mayVary(r_.event(1), 1)) << "dim";
  EXPECT_TRUE(tracer::mayVary(r_.event(1), 2));
  EXPECT_TRUE(tracer::mayVary(r_.event(2), 2) && tracer::mayVary(r_.event(2), 3));
  EXPECT_FALSE(tracer::mayVary(r_.event(2), 4)) << "step";
}

} // namespace
} // namespace terra::fake
