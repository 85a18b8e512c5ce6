// Reads that need not wait for the queue.
#include "SessionFixture.h"

#include "FakeCall.h"
#include "runtime/SideRun.h"
#include "runtime/Spin.h"

#include <future>
#include <thread>

namespace terra::fake {
namespace {

class SideRuns : public SessionFixture {
protected:
  using Patience = std::chrono::milliseconds;
  static constexpr Patience kShort{200}, kLong{20'000}; ///< for what must not end, for what must

  /// A region of some work, then one of `body`, while the runner is held: what `body` returned, if it came back.
  std::optional<int64_t> whileHeld(const std::function<int64_t()> &body, Patience patience = kShort) {
    int64_t value = 0;
    auto work = [&] { hooked_.call(Call(ops().mul, {c_, c_}).number(1)); };
    auto again = [&] { value = body(); };
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(region(work), nullptr);
      EXPECT_EQ(region(again), nullptr);
    }
    held([&] { return region(again) == nullptr; }); // waits, for the first time
    bool done = held([&] { return region(work) == nullptr && region(again) == nullptr; }, patience);
    return done ? std::optional(value) : std::nullopt;
  }

  /// Whether `body` ends while the runner is held.
  bool held(const std::function<bool()> &body, Patience patience = kShort) {
    runtime_.synchronize();
    host_.shut();
    auto ended = std::async(std::launch::async, body);
    bool done = ended.wait_for(patience) == std::future_status::ready;
    host_.open();
    EXPECT_TRUE(ended.get());
    return done;
  }

  Tensor c_ = hooked_.make(contiguous({2, 4}), 9);
};

/// In the segment before the gate nothing is large, drawn or written: the read is answered while the runner stands still.
TEST_F(SideRuns, a_read_of_what_came_with_the_batch_does_not_wait) {
  int64_t expected = digest(Frontend(host_.generator).call(Call(ops().add, {a_, b_}).number(1))[0]);
  std::optional<int64_t> value = whileHeld(
      [&] {
        Tensor sum = add(a_, b_);
        hooked_.call(Call(ops().mul, {sum, b_}).number(1));
        return hooked_.item(sum);
      },
      kLong);
  ASSERT_TRUE(value);
  EXPECT_EQ(*value, expected);
  EXPECT_GE(session_.stats().sideRuns, 1u);
}

TEST_F(SideRuns, what_the_queue_writes_is_waited_for) {
  EXPECT_FALSE(whileHeld([&] {
    step(); // writes a_
    hooked_.item(b_); // ends the segment
    return hooked_.item(add(a_, b_));
  }));
}

TEST_F(SideRuns, what_the_segment_writes_is_waited_for) {
  EXPECT_FALSE(whileHeld([&] {
    Tensor sum = add(a_, b_);
    hooked_.call(Call(ops().addInPlace, {sum, b_}).number(1));
    return hooked_.item(sum);
  }));
  EXPECT_EQ(session_.stats().sideRuns, 0u);
}

TEST_F(SideRuns, what_is_drawn_is_waited_for) {
  EXPECT_FALSE(whileHeld([&] {
    Tensor drawn = hooked_.call(Call(ops().uniform, {a_}).number(1))[0];
    return hooked_.item(add(drawn, b_));
  }));
  EXPECT_EQ(session_.stats().sideRuns, 0u);
}

TEST(SliceOf, events_and_inputs_of_one_value) {
  Recording r;
  Tensor a = r.make(contiguous({4}), 1), b = r.make(contiguous({4}), 2), c = r.make(contiguous({4}), 3);
  Tensor x = r.call(Call(ops().add, {a, b}).number(1))[0];
  Tensor y = r.call(Call(ops().add, {b, c}).number(1))[0];
  Tensor z = r.call(Call(ops().mul, {x, x}).number(1))[0];
  r.end();
  graph::Segment segment = r.segment();
  uint32_t slot = segment.events[2].results[0].slot;
  std::optional<runtime::Slice> slice = runtime::sliceOf(segment, slot);
  ASSERT_TRUE(slice);
  EXPECT_EQ(slice->events, (std::vector<uint32_t>{0, 2}));
  EXPECT_EQ(slice->inputs, (std::vector<uint32_t>{segment.events[0].inputs[0].slot, segment.events[0].inputs[1].slot}));
}

TEST(SliceOf, not_of_large_or_many_values) {
  Recording r;
  Tensor a = r.make(contiguous({4}), 1);
  Tensor large = r.make(contiguous({runtime::kMostSliceBytes}), 1);
  r.call(Call(ops().add, {large, large}).number(1));
  for (size_t i = 0; i <= runtime::kMostSliceEvents; ++i)
    a = r.call(Call(ops().add, {a, a}).number(1))[0];
  r.end();
  graph::Segment segment = r.segment();
  auto sliceAt = [&](size_t event) { return runtime::sliceOf(segment, segment.events[event].results[0].slot); };
  EXPECT_FALSE(sliceAt(0));
  EXPECT_TRUE(sliceAt(runtime::kMostSliceEvents));
  EXPECT_FALSE(sliceAt(runtime::kMostSliceEvents + 1));
}

using runtime::AdaptiveSpin;

TEST(AdaptiveSpinTest, gives_up_sooner_where_waits_are_long) {
  AdaptiveSpin spin;
  auto before = spin.limit();
  for (int i = 0; i < 10; ++i)
    EXPECT_FALSE(spin.until([] { return false; }));
  EXPECT_LT(spin.limit(), before);
  EXPECT_EQ(spin.limit(), AdaptiveSpin::kLeast);
}

TEST(AdaptiveSpinTest, finds_out_that_waits_have_become_short) {
  AdaptiveSpin spin;
  while (spin.limit() > AdaptiveSpin::kLeast)
    spin.until([] { return false; });
  for (int i = 0; i < 2000 && spin.limit() == AdaptiveSpin::kLeast; ++i) {
    auto end = AdaptiveSpin::Clock::now() + 3 * AdaptiveSpin::kLeast;
    spin.until([&] { return AdaptiveSpin::Clock::now() >= end; });
  }
  EXPECT_GT(spin.limit(), AdaptiveSpin::kLeast);
}

} // namespace
} // namespace terra::fake
