// Which way calls go, with a clock of the test's.
#include "runtime/Pace.h"

#include <gtest/gtest.h>

#include <functional>

namespace terra::runtime {
namespace {

class PaceTest : public testing::Test {
protected:
  using Way = Pace::Way;
  /// Seconds of a call's own, and of waiting between it and the next.
  struct Cost {
    double own = 0, waited = 0;
  };

  void call(bool raises = false) {
    Way way = pace_.begin(clock_, steady_);
    ++ways_[way == Way::Eager];
    if (way == Way::Eager)
      pace_.beginEager(clock_);
    graphCall_ = way == Way::Graph;
    Cost cost = way == Way::Eager ? eager_ : graph_;
    if (disturbance_)
      cost.own += disturbance_(calls_);
    ++calls_;
    clock_.now += cost.own;
    pace_.end(clock_, !raises);
    clock_.now += cost.waited + between_;
    clock_.waited += cost.waited;
  }
  void calls(uint64_t count, bool raise = false) {
    for (uint64_t i = 0; i < count; ++i)
      call(raise);
  }
  bool givenBack() const { return pace_.summary().givenBack; }
  uint64_t verdicts() const { return pace_.summary().verdicts; }

  Pace pace_;
  Pace::Clock clock_{100, 3};
  Cost graph_{1e-2}, eager_{1e-2};
  double between_ = 0;
  bool steady_ = true, graphCall_ = true;
  std::function<double(uint64_t)> disturbance_;
  uint64_t calls_ = 0, ways_[2] = {};
};

constexpr uint64_t kOneRound = 2 * (Pace::kSettlingCalls + Pace::kCalls);

TEST_F(PaceTest, a_clear_win_costs_a_few_eager_calls) {
  eager_.own = 2e-2;
  calls(Pace::kWarmCalls);
  EXPECT_EQ(ways_[1], 0u);
  calls(Pace::kFirstPatience);
  EXPECT_EQ(verdicts(), 1u);
  EXPECT_FALSE(givenBack());
  EXPECT_EQ(ways_[1], Pace::kSettlingCalls + Pace::kCalls);
  EXPECT_NEAR(pace_.summary().graphSeconds, 1e-2, 1e-9);
  EXPECT_NEAR(pace_.summary().eagerSeconds, 2e-2, 1e-9);
}

TEST_F(PaceTest, a_clear_loss_gives_the_function_back_after_all_rounds) {
  graph_.own = 1.5e-2;
  calls(Pace::kWarmCalls + Pace::kRounds * kOneRound);
  EXPECT_FALSE(givenBack());
  call();
  EXPECT_TRUE(givenBack());
  uint64_t graphCalls = ways_[0];
  calls(Pace::kFirstPatience / 2);
  EXPECT_EQ(ways_[0], graphCalls);
}

TEST_F(PaceTest, a_small_loss_is_none) {
  graph_.own = 1.05e-2;
  calls(1000);
  EXPECT_EQ(verdicts(), 1u);
  EXPECT_FALSE(givenBack());
}

TEST_F(PaceTest, waits_between_calls_are_the_calls_cost) {
  graph_ = {0.2e-2, 1.3e-2};
  calls(200);
  EXPECT_TRUE(givenBack());
}

TEST_F(PaceTest, time_that_the_program_spends_between_calls_is_not) {
  eager_.own = 1e-2;
  graph_.own = 0.5e-2;
  between_ = 0.1;
  calls(200);
  EXPECT_EQ(ways_[1], Pace::kSettlingCalls + Pace::kCalls);
  EXPECT_FALSE(givenBack());
}

TEST_F(PaceTest, pauses_of_the_machine_decide_nothing) {
  graph_.own = 0.95e-2;
  disturbance_ = [](uint64_t call) { return call % 7 == 0 ? 0.05 : 0; };
  calls(500);
  EXPECT_FALSE(givenBack());
  EXPECT_EQ(verdicts(), 1u);
}

TEST_F(PaceTest, one_bad_round_does_not_hide_a_loss) {
  graph_.own = 1.5e-2;
  uint64_t third = Pace::kWarmCalls + 2 * kOneRound;
  disturbance_ = [&](uint64_t call) { return call >= third + 6 && call < third + kOneRound ? 5e-2 : 0; };
  calls(400);
  EXPECT_TRUE(givenBack());
}

TEST_F(PaceTest, a_function_that_is_still_learning_is_compared_later) {
  steady_ = false;
  graph_.own = 2e-2;
  calls(Pace::kWarmCalls + Pace::kLatest);
  EXPECT_EQ(ways_[1], 0u);
  calls(Pace::kRounds * kOneRound + 1);
  EXPECT_TRUE(givenBack());
}

TEST_F(PaceTest, what_was_given_back_returns_when_the_graph_wins) {
  graph_.own = 1.5e-2;
  calls(200);
  ASSERT_TRUE(givenBack());
  graph_.own = 0.5e-2;
  calls(Pace::kFirstPatience + 2 * kOneRound);
  EXPECT_FALSE(givenBack());
}

TEST_F(PaceTest, a_tie_changes_nothing) {
  graph_.own = 1.5e-2;
  calls(200);
  ASSERT_TRUE(givenBack());
  graph_.own = 0.99e-2;
  calls(Pace::kFirstPatience + 2 * Pace::kRounds * kOneRound);
  EXPECT_EQ(verdicts(), 2u);
  EXPECT_TRUE(givenBack());
}

TEST_F(PaceTest, comparisons_become_rare) {
  graph_.own = 1.5e-2;
  calls(100'000);
  EXPECT_LT(verdicts(), 9u);
  EXPECT_LT(ways_[0], Pace::kWarmCalls + 9 * Pace::kRounds * kOneRound);
}

TEST_F(PaceTest, short_calls_are_measured_longer) {
  graph_.own = 10e-6;
  eager_.own = 20e-6;
  calls(1000);
  EXPECT_EQ(ways_[1], Pace::kSettlingCalls + Pace::kMostCalls);
  EXPECT_EQ(verdicts(), 1u);
}

TEST_F(PaceTest, short_calls_that_wait_for_many_at_once_are_not_taken_for_cheap_ones) {
  graph_.own = 5e-6;
  eager_.own = 20e-6;
  disturbance_ = [this](uint64_t call) { return graphCall_ && call % 12 == 0 ? 12 * 35e-6 : 0; };
  calls(1000);
  EXPECT_TRUE(givenBack());
  EXPECT_NEAR(pace_.summary().graphSeconds, 40e-6, 10e-6);
}

TEST_F(PaceTest, calls_that_raise_are_not_compared) {
  graph_.own = 2e-2;
  calls(2000, /*raise=*/true);
  EXPECT_EQ(verdicts(), 0u);
  EXPECT_EQ(ways_[1], 0u);
  calls(4000);
  EXPECT_TRUE(givenBack());
}

TEST_F(PaceTest, eager_calls_that_raise_end_the_comparison) {
  calls(Pace::kWarmCalls + Pace::kSettlingCalls + Pace::kCalls + 1);
  ASSERT_EQ(ways_[1], 1u);
  calls(Pace::kFirstPatience, /*raise=*/true);
  EXPECT_LT(ways_[1], 3 * Pace::kMostCalls);
}

TEST_F(PaceTest, a_change_of_threads_is_not_measured) {
  graph_.own = 2e-2;
  calls(Pace::kWarmCalls + Pace::kSettlingCalls + 2);
  clock_.waited = 0; // the other thread has not waited
  eager_.own = 1e-2;
  calls(200);
  EXPECT_TRUE(givenBack());
  EXPECT_NEAR(pace_.summary().graphSeconds, 2e-2, 1e-9);
}

TEST_F(PaceTest, switched_off_it_never_runs_a_call_eagerly_unless_told) {
  Pace off(false);
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(off.begin({double(i), 0}, true), Way::Graph);
    off.end({i + 0.5, 0}, true);
  }
  off.force(2);
  EXPECT_EQ(off.begin({2000, 0}, true), Way::Eager);
  EXPECT_EQ(off.begin({2001, 0}, true), Way::Eager);
  EXPECT_EQ(off.begin({2002, 0}, true), Way::Graph);
}

} // namespace
} // namespace terra::runtime
