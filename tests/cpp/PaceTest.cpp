// Which way calls go, with a clock of the test's.
#include "runtime/Pace.h"
#include "runtime/PaceTurn.h"

#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <random>

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
    Way way = pace_->begin(clock_, ready_);
    ++ways_[way == Way::Eager];
    graphCall_ = way == Way::Graph;
    Cost cost = way == Way::Eager ? eager_ : graph_;
    if (disturbance_)
      cost.own += disturbance_(calls_);
    cost.own *= size_ ? size_(calls_) : 1;
    ++calls_;
    clock_.now += cost.own;
    pace_->end(clock_, !raises);
    clock_.now += cost.waited + between_;
    clock_.waited += cost.waited;
    spent_ += cost.own + cost.waited;
  }
  void calls(uint64_t count, bool raise = false) {
    for (uint64_t i = 0; i < count; ++i)
      call(raise);
  }
  void callsFor(double seconds) {
    for (double until = clock_.now + seconds; clock_.now < until;)
      call();
  }
  bool untilVerdict(uint64_t number, uint64_t most = 1'000'000) {
    for (uint64_t i = 0; i < most && verdicts() < number; ++i)
      call();
    return verdicts() == number;
  }
  bool givenBack() const { return pace_->summary().givenBack; }
  uint64_t verdicts() const { return pace_->summary().verdicts; }

  /// Another function, of which nothing is known yet.
  void startAnew(bool enabled = true) { pace_.emplace(turn_, enabled); }

  PaceTurn turn_;
  std::optional<Pace> pace_{std::in_place, turn_};
  Pace::Clock clock_{100, 3};
  Cost graph_{1e-2}, eager_{1e-2};
  double between_ = 0, spent_ = 0;
  bool ready_ = true, graphCall_ = true;
  std::function<double(uint64_t)> disturbance_, size_;
  uint64_t calls_ = 0, ways_[2] = {};
};

/// Calls that the longest comparison takes, where calls are long.
constexpr uint64_t kLongest = Pace::kRelearningCalls + 2 * Pace::kSettlingCalls * (Pace::kRounds + 1) +
                              2 * Pace::kRounds * (Pace::kCalls + Pace::kRounds / 2);

TEST_F(PaceTest, a_clear_win_costs_a_glance) {
  eager_.own = 3e-2;
  calls(Pace::kWarmCalls);
  EXPECT_EQ(ways_[1], 0u);
  calls(100);
  EXPECT_EQ(verdicts(), 1u);
  EXPECT_FALSE(givenBack());
  EXPECT_EQ(ways_[1], Pace::kSettlingCalls + Pace::kGlance);
  EXPECT_NEAR(pace_->summary().graphSeconds, 1e-2, 1e-9);
  EXPECT_NEAR(pace_->summary().eagerSeconds, 3e-2, 1e-9);
}

TEST_F(PaceTest, a_clear_loss_gives_the_function_back_after_all_rounds) {
  graph_.own = 1.5e-2;
  calls(Pace::kWarmCalls + Pace::kRounds * 2 * Pace::kCalls);
  EXPECT_FALSE(givenBack());
  calls(kLongest);
  EXPECT_TRUE(givenBack());
  uint64_t graphCalls = ways_[0];
  calls(100);
  EXPECT_EQ(ways_[0], graphCalls);
}

TEST_F(PaceTest, a_small_loss_is_none) {
  graph_.own = 1.03e-2;
  ASSERT_TRUE(untilVerdict(3));
  EXPECT_FALSE(givenBack());
}

TEST_F(PaceTest, a_loss_of_a_tenth_is_found) {
  graph_.own = 1.1e-2;
  calls(Pace::kWarmCalls + kLongest);
  EXPECT_TRUE(givenBack());
}

TEST_F(PaceTest, waits_between_calls_are_the_calls_cost) {
  graph_ = {0.2e-2, 1.3e-2};
  calls(Pace::kWarmCalls + kLongest);
  EXPECT_TRUE(givenBack());
}

TEST_F(PaceTest, time_that_the_program_spends_between_calls_is_not) {
  eager_.own = 3e-2;
  between_ = 0.1;
  calls(Pace::kWarmCalls + 30);
  EXPECT_EQ(ways_[1], Pace::kSettlingCalls + Pace::kGlance);
  EXPECT_FALSE(givenBack());
  EXPECT_NEAR(pace_->summary().eagerSeconds, 3e-2, 1e-9);
}

TEST_F(PaceTest, a_slow_data_loader_does_not_hide_a_loss) {
  graph_.own = 1.2e-2;
  std::mt19937 random(1);
  for (uint64_t i = 0; i < Pace::kWarmCalls + kLongest; ++i) {
    between_ = double(random() % 1000) * 1e-3;
    call();
  }
  EXPECT_TRUE(givenBack());
}

TEST_F(PaceTest, pauses_of_the_machine_decide_nothing) {
  graph_.own = 0.95e-2;
  disturbance_ = [](uint64_t call) { return call % 7 == 0 ? 0.05 : 0; };
  ASSERT_TRUE(untilVerdict(5));
  EXPECT_FALSE(givenBack());
}

/// Of 200 functions on a noisy machine (a fifth of noise each call, a pause of five calls every 50, load that comes and goes).
unsigned givenBackOf200(double loss) {
  unsigned given = 0;
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    auto uniform = [&] { return double(random() % 4096) / 4096; };
    PaceTurn turn;
    Pace pace(turn);
    Pace::Clock clock{0, 0};
    double load = 1;
    while (pace.summary().verdicts < 4 && !pace.summary().givenBack) {
      bool eager = pace.begin(clock, true) == Pace::Way::Eager;
      if (random() % 100 == 0)
        load = 1 + uniform();
      double cost = 1e-2 * load * (0.8 + 0.4 * uniform()) * (eager ? 1 : 1 + loss);
      clock.now += random() % 50 ? cost : cost + 5e-2;
      pace.end(clock, true);
      clock.now += 1e-3;
    }
    given += pace.summary().givenBack;
  }
  return given;
}

TEST(PaceSimulation, noise_rarely_gives_back_what_does_not_lose_and_hides_no_loss) {
  EXPECT_EQ(givenBackOf200(-0.1), 0u);
  EXPECT_LE(givenBackOf200(-0.03), 4u);
  EXPECT_LE(givenBackOf200(0), 20u);
  EXPECT_GE(givenBackOf200(0.2), 190u);
}

TEST_F(PaceTest, no_rhythm_of_large_and_small_calls_is_taken_for_a_loss) {
  unsigned programs = 0, wrong = 0;
  for (unsigned period = 2; period <= 64; ++period)
    for (unsigned phase = 0; phase < period; phase += 1 + period / 8, ++programs) {
      startAnew();
      graph_.own = 0.98e-2;
      size_ = [&](uint64_t call) { return (call + phase) % period < period / 2 ? 10 : 1; };
      ASSERT_TRUE(untilVerdict(verdicts() + 2));
      wrong += givenBack();
    }
  EXPECT_GT(programs, 400u);
  EXPECT_LE(wrong, programs / 50); // as a coin would decide
}

TEST_F(PaceTest, calls_that_alternate_between_two_sizes_are_compared_all_the_same) {
  graph_.own = 1.2e-2;
  size_ = [](uint64_t call) { return call % 2 ? 3 : 1; };
  ASSERT_TRUE(untilVerdict(1));
  EXPECT_TRUE(givenBack());
}

TEST_F(PaceTest, calls_that_grow_are_not_taken_for_a_win_of_what_comes_first) {
  size_ = [](uint64_t call) { return 1 + double(call) * 0.01; };
  ASSERT_TRUE(untilVerdict(4));
  EXPECT_FALSE(givenBack());
}

TEST_F(PaceTest, one_bad_round_does_not_hide_a_loss) {
  graph_.own = 1.5e-2;
  disturbance_ = [&](uint64_t call) {
    return !graphCall_ && call >= Pace::kWarmCalls + 40 && call < Pace::kWarmCalls + 50 ? 5e-2 : 0;
  };
  calls(Pace::kWarmCalls + kLongest);
  EXPECT_TRUE(givenBack());
}

TEST_F(PaceTest, a_comparison_waits_for_the_compiler_and_its_turn) {
  ready_ = false;
  graph_.own = 2e-2;
  calls(2000);
  EXPECT_EQ(ways_[1], 0u);
  ready_ = true;
  calls(kLongest + 1);
  EXPECT_TRUE(givenBack());
}

TEST_F(PaceTest, what_was_given_back_returns_when_the_graph_wins) {
  graph_.own = 1.5e-2;
  ASSERT_TRUE(untilVerdict(1));
  ASSERT_TRUE(givenBack());
  graph_.own = 0.5e-2;
  ASSERT_TRUE(untilVerdict(2));
  EXPECT_FALSE(givenBack());
}

TEST_F(PaceTest, a_tie_changes_nothing) {
  graph_.own = 1.5e-2;
  ASSERT_TRUE(untilVerdict(1));
  graph_.own = 0.99e-2;
  ASSERT_TRUE(untilVerdict(4));
  EXPECT_TRUE(givenBack());
}

TEST_F(PaceTest, comparisons_become_rare) {
  graph_.own = 1.5e-2;
  callsFor(Pace::kMostPatience / 2);
  uint64_t before = verdicts();
  EXPECT_GE(before, 3u);
  callsFor(Pace::kMostPatience * 10);
  EXPECT_LE(verdicts() - before, 11u);
}

TEST_F(PaceTest, comparing_costs_less_than_a_hundredth) {
  for (double call : {10e-6, 1e-3, 50e-3, 1.0})
    for (double ratio : {0.3, 0.7, 0.9, 1.0, 1.2, 2.0, 5.0}) {
      startAnew();
      graph_.own = call;
      eager_.own = call * ratio;
      ASSERT_TRUE(untilVerdict(1));
      EXPECT_EQ(givenBack(), ratio < 0.95);
      for (uint64_t number : {2, 3, 4}) {
        double before = spent_;
        uint64_t first = calls_;
        ASSERT_TRUE(untilVerdict(number, 100'000'000));
        double best = std::min(graph_.own, eager_.own) * double(calls_ - first);
        EXPECT_LE(spent_ - before, best * 1.011) << call << ' ' << ratio << ' ' << number;
      }
    }
}

TEST_F(PaceTest, the_first_glance_at_a_loss_costs_little) {
  eager_.own = 2e-2;
  calls(Pace::kWarmCalls + 100);
  EXPECT_LE(spent_, 1.02 * graph_.own * double(calls_));
}

TEST_F(PaceTest, short_calls_are_measured_longer) {
  graph_.own = 10e-6;
  eager_.own = 20e-6;
  ASSERT_TRUE(untilVerdict(1));
  EXPECT_NEAR(double(ways_[1]), Pace::kSettlingCalls + Pace::kGlanceSeconds / eager_.own, 1);
}

TEST_F(PaceTest, short_calls_that_wait_for_many_at_once_are_not_taken_for_cheap_ones) {
  graph_.own = 5e-6;
  eager_.own = 20e-6;
  disturbance_ = [this](uint64_t call) { return graphCall_ && call % 12 == 0 ? 12 * 35e-6 : 0; };
  ASSERT_TRUE(untilVerdict(1));
  EXPECT_TRUE(givenBack());
  EXPECT_NEAR(pace_->summary().graphSeconds, 40e-6, 4e-6);
}

TEST_F(PaceTest, calls_that_raise_are_not_compared) {
  graph_.own = 2e-2;
  calls(5000, /*raise=*/true);
  EXPECT_EQ(verdicts(), 0u);
  EXPECT_EQ(ways_[1], 0u);
  EXPECT_TRUE(untilVerdict(1));
  EXPECT_TRUE(givenBack());
}

TEST_F(PaceTest, eager_calls_that_raise_end_the_comparison) {
  while (ways_[1] == 0)
    call();
  calls(5 * Pace::kMostCalls, /*raise=*/true);
  EXPECT_FALSE(pace_->comparing());
  EXPECT_LE(ways_[1], 4 * Pace::kMostCalls + 1);
}

TEST_F(PaceTest, a_change_of_threads_is_not_measured) {
  graph_.own = 1.2e-2;
  calls(Pace::kWarmCalls + 5);
  ASSERT_TRUE(pace_->comparing());
  pace_->interrupt();
  clock_.waited += 1e3; // the other thread's
  ASSERT_TRUE(untilVerdict(1));
  EXPECT_NEAR(pace_->summary().graphSeconds, 1.2e-2, 1e-9);
}

TEST_F(PaceTest, a_comparison_that_lost_its_turn_leaves_things_as_they_were) {
  calls(Pace::kWarmCalls + 12);
  ASSERT_TRUE(pace_->comparing());
  turn_.take(this);
  uint64_t eager = ways_[1];
  calls(1000);
  EXPECT_FALSE(pace_->comparing());
  EXPECT_EQ(ways_[1], eager);
  turn_.release(this);
  EXPECT_TRUE(untilVerdict(1));
}

/// A small function that neither wins nor loses, then a large one that loses, and in which Python waits for the graph's work: were
/// both eager in the same calls, the small one's eager calls would seem to save those waits.
TEST_F(PaceTest, functions_that_are_called_in_turns_do_not_count_each_others_waits) {
  Pace small(turn_);
  for (int i = 0; i < 3000; ++i) {
    small.begin(clock_, true);
    clock_.now += 1e-2;
    small.end(clock_, true);
    bool eager = pace_->begin(clock_, true) == Way::Eager;
    clock_.now += eager ? 0.1 : 0.12;
    clock_.waited += eager ? 0 : 0.09;
    pace_->end(clock_, true);
  }
  EXPECT_GE(small.summary().verdicts, 1u);
  EXPECT_FALSE(small.summary().givenBack);
  EXPECT_TRUE(givenBack());
}

TEST_F(PaceTest, switched_off_it_never_runs_a_call_eagerly_unless_told) {
  startAnew(/*enabled=*/false);
  calls(10'000);
  EXPECT_EQ(ways_[1], 0u);
  pace_->force(2);
  calls(5);
  EXPECT_EQ(ways_[1], 2u);
}

TEST(PaceTurnTest, one_function_at_a_time_has_it) {
  PaceTurn turn;
  int a = 0, b = 0;
  EXPECT_TRUE(turn.free(&a));
  turn.take(&a);
  EXPECT_TRUE(turn.free(&a));
  EXPECT_FALSE(turn.free(&b));
  turn.release(&b);
  EXPECT_TRUE(turn.has(&a));
  turn.release(&a);
  EXPECT_TRUE(turn.free(&b));
}

TEST(PaceTurnTest, a_function_that_is_not_called_any_more_loses_it) {
  PaceTurn turn;
  int a = 0, b = 0;
  turn.take(&a);
  for (uint64_t i = 0; i < PaceTurn::kForgotten; ++i)
    EXPECT_FALSE(turn.free(&b));
  turn.free(&b);
  EXPECT_TRUE(turn.free(&b));
  turn.take(&b);
  EXPECT_FALSE(turn.has(&a));
}

} // namespace
} // namespace terra::runtime
