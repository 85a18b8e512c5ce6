// Events as the recorder copies them, and the repetition of traces.
#include "FakeCall.h"
#include "tracer/Loops.h"

#include <gtest/gtest.h>

namespace terra::fake {
namespace {

using graph::Alias;
using graph::kNoStorage;
using tracer::findPeriod;

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
