// Single rules of prefix execution, each with the runner held where it matters.
#include "FakeGroups.h"
#include "SessionFixture.h"

#include <future>

namespace terra::fake {
namespace {

using runtime::Buffer;
using runtime::CompiledSegment;

class PrefixExecution : public SessionFixture {};

TEST_F(PrefixExecution, promised_values_come_later) {
  Tensor c;
  auto body = [&] { c = add(a_, b_); };
  region(body);
  host_.shut();
  region(body);
  EXPECT_TRUE(pending(c));
  auto read = std::async(std::launch::async, [&] { return hooked_.read(c); });
  EXPECT_EQ(read.wait_for(std::chrono::milliseconds(30)), std::future_status::timeout);
  host_.open();
  int64_t value = read.get();
  Generator generator;
  Frontend plain(generator);
  Tensor expected = plain.call(Call(ops().add, {a_, b_}).number(1))[0];
  EXPECT_EQ(value, plain.read(expected));
  EXPECT_EQ(session_.stats().regionsCoexecuted, 1u);
}

TEST_F(PrefixExecution, python_is_at_most_one_region_ahead) {
  auto body = [&] { step(); };
  region(body);
  host_.shut();
  region(body);
  region(body); // ahead of the second
  auto third = std::async(std::launch::async, [&] { region(body); });
  EXPECT_EQ(third.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  host_.open();
  third.get();
}

TEST_F(PrefixExecution, python_is_at_most_some_events_ahead) {
  auto body = [&] {
    for (int i = 0; i < 4000; ++i) {
      step();
      if (i % 100 == 0)
        hooked_.call(Call(ops().odd, {b_})); // a gate, so that there are many segments
    }
  };
  region(body);
  region(body);
  runtime_.synchronize();
  host_.shut();
  std::atomic<bool> done{false};
  auto ahead = std::async(std::launch::async, [&] {
    for (int i = 0; i < 8; ++i)
      region(body);
    done = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_FALSE(done);
  EXPECT_LT(runtime_.runner().queuedEvents(), 40'000u);
  host_.open();
  ahead.get();
}

TEST_F(PrefixExecution, work_outside_waits_for_queued_work_on_the_same_storage_only) {
  auto body = [&] { step(); };
  region(body);
  host_.shut();
  region(body);
  Tensor other = hooked_.make(contiguous({4}), 1);
  hooked_.read(other); // returns at once
  hooked_.read(b_);    // only read by the graph
  auto read = std::async(std::launch::async, [&] { hooked_.read(a_); });
  auto write = std::async(std::launch::async, [&] { hooked_.call(Call(ops().fill, {b_}).number(1)); });
  EXPECT_EQ(read.wait_for(std::chrono::milliseconds(30)), std::future_status::timeout);
  EXPECT_EQ(write.wait_for(std::chrono::milliseconds(0)), std::future_status::timeout) << "the graph still reads it";
  host_.open();
  read.get();
  write.get();
}

TEST_F(PrefixExecution, draws_outside_wait_for_queued_draws) {
  auto body = [&] { hooked_.call(Call(ops().uniform, {a_}).number(0)); };
  region(body);
  host_.shut();
  region(body);
  auto draws = std::async(std::launch::async, [&] { return hooked_.readGenerator(); });
  EXPECT_EQ(draws.wait_for(std::chrono::milliseconds(30)), std::future_status::timeout);
  host_.open();
  EXPECT_EQ(draws.get(), 2u);
}

TEST_F(PrefixExecution, another_thread_flushes_what_has_not_triggered) {
  bool deferred = false, readByOther = false;
  auto body = [&] {
    Tensor c = add(a_, b_), d = add(c, b_);
    if (readByOther) {
      auto read = std::async(std::launch::async, [&, d] {
        runtime_.settle(d.storage->buffer(), false);
        return digest(d);
      });
      Generator generator;
      Frontend plain(generator);
      Tensor x = plain.call(Call(ops().add, {a_, b_}).number(1))[0];
      EXPECT_EQ(read.get(), digest(plain.call(Call(ops().add, {x, b_}).number(1))[0]));
    }
    c = {};
    hooked_.call(Call(ops().mul, {b_, b_}));
    hooked_.call(Call(ops().mul, {b_, b_}));
  };
  for (uint32_t i = 0; i <= CompiledSegment::kLearningWalks; ++i)
    region(body);
  session_.waitCompiled();
  std::mt19937_64 random(1);
  for (const auto &segment : session_.program().segments())
    for (int i = 0; i < 5000 && !deferred; ++i) {
      auto executable = randomExecutable(random, segment->segment(), segment->deaths());
      if (!executable)
        continue;
      for (const auto &instruction : executable->instructions)
        deferred |= instruction.events == std::vector<uint32_t>{0, 1} && !instruction.fusedAway.empty();
      if (deferred)
        segment->setExecutable(executable);
    }
  ASSERT_TRUE(deferred);
  readByOther = true;
  uint64_t before = session_.stats().regionsDiverged;
  region(body);
  EXPECT_EQ(session_.stats().regionsDiverged, before + 1) << "the group waits for a death: reading flushed it";
}

/// Two calls; the second's operand is dropped after it, and a group that fuses it away waits for that.
class RegionEnd : public PrefixExecution {
protected:
  void SetUp() override {
    for (uint32_t i = 0; i <= CompiledSegment::kLearningWalks; ++i)
      region([this] { two(); });
    session_.waitCompiled();
    std::mt19937_64 random(1);
    auto segments = session_.program().segments();
    ASSERT_EQ(segments.size(), 1u);
    for (int i = 0; i < 5000 && !deferred_; ++i) {
      auto executable = randomExecutable(random, segments[0]->segment(), segments[0]->deaths());
      if (!executable || executable->instructions.size() != 1 || executable->instructions[0].fusedAway.empty())
        continue;
      deferred_ = executable->instructions[0].trigger == 2;
      segments[0]->setExecutable(executable);
    }
    ASSERT_TRUE(deferred_);
  }
  Tensor two() {
    Tensor c = add(a_, b_);
    d_ = hooked_.call(Call(ops().mul, {c, c}))[0];
    return c;
  }
  /// What a plain framework computes.
  std::pair<int64_t, int64_t> expected() {
    Generator generator;
    Frontend plain(generator);
    Tensor c = plain.call(Call(ops().add, {a_, b_}).number(1))[0];
    Tensor d = plain.call(Call(ops().mul, {c, c}))[0];
    return {digest(c), digest(d)};
  }
  Tensor d_;
  bool deferred_ = false;
};

TEST_F(RegionEnd, what_dies_after_the_last_call_is_fused_away) {
  region([this] { two(); });
  EXPECT_EQ(hooked_.read(d_), expected().second);
  EXPECT_EQ(session_.stats().survivors, 0u);
  EXPECT_EQ(session_.stats().regionsDiverged, 0u);
}

TEST_F(RegionEnd, what_outlives_the_region_is_computed) {
  Tensor c;
  region([&] { c = two(); });
  EXPECT_EQ(hooked_.read(c), expected().first);
  EXPECT_EQ(hooked_.read(d_), expected().second);
  EXPECT_EQ(session_.stats().survivors, 1u);
}

TEST_F(RegionEnd, another_thread_that_reads_ends_the_walk_but_not_the_graph) {
  for (int i = 0; i < 3; ++i) {
    region([this] {
      Tensor c = two();
      auto read = std::async(std::launch::async, [this] {
        runtime_.settle(d_.storage->buffer(), false);
        return digest(d_);
      });
      EXPECT_EQ(read.get(), expected().second);
    });
    EXPECT_EQ(session_.stats().regionsDiverged, 0u);
  }
}

TEST_F(RegionEnd, an_exception_leaves_what_was_called_computed) {
  Tensor c;
  EXPECT_TRUE(region([&] {
    c = two();
    throw std::runtime_error("after the last call");
  }));
  EXPECT_EQ(hooked_.read(c), expected().first);
  EXPECT_EQ(hooked_.read(d_), expected().second);
}

TEST_F(RegionEnd, another_call_than_ever_diverges) {
  Tensor c, e;
  region([&] {
    c = two();
    e = add(d_, c);
  });
  EXPECT_EQ(session_.stats().regionsDiverged, 1u);
  EXPECT_EQ(hooked_.read(c), expected().first);
  EXPECT_EQ(hooked_.read(d_), expected().second);
}

TEST_F(PrefixExecution, a_failing_op_poisons_its_results_and_the_next_region_is_clean) {
  Tensor c, d;
  auto body = [&] {
    c = add(a_, b_);
    d = add(c, b_);
    step();
  };
  region(body);
  int64_t before = hooked_.read(a_);
  host_.failAtExtern = 1; // the second op of the second region
  runAhead(body);
  EXPECT_THROW(hooked_.read(a_), std::runtime_error) << "its write was dropped";
  hooked_.read(c);
  EXPECT_THROW(hooked_.read(d), std::runtime_error);
  EXPECT_THROW(hooked_.read(d), std::runtime_error) << "each read raises";
  EXPECT_EQ(hooked_.read(a_), before) << "as at the failing op, once the error is known";
  EXPECT_NO_THROW(runtime_.synchronize()) << "the error was delivered";
  EXPECT_EQ(region(body), nullptr);
  runtime_.synchronize();
  EXPECT_NE(hooked_.read(a_), before);
  EXPECT_NO_THROW(hooked_.read(d));
}

TEST_F(PrefixExecution, an_error_that_another_thread_met_first_is_raised_on_the_regions_own_too) {
  Tensor c, d;
  auto body = [&] {
    c = add(a_, b_);
    d = add(c, b_);
    step();
  };
  region(body);
  host_.failAtExtern = 1;
  runAhead(body);
  std::thread other([&] {
    EXPECT_THROW(hooked_.read(d), std::runtime_error);
    EXPECT_NO_THROW(hooked_.read(a_)) << "it knows";
  });
  other.join();
  EXPECT_THROW(hooked_.read(a_), std::runtime_error) << "its write was dropped";
  EXPECT_NO_THROW(hooked_.read(a_));
  EXPECT_EQ(region(body), nullptr);
}

TEST_F(PrefixExecution, an_error_that_nobody_waited_for_is_raised_by_synchronize_or_the_next_region) {
  auto body = [&] { step(); };
  region(body);
  host_.failAtExtern = 0;
  runAhead(body);
  EXPECT_THROW(runtime_.synchronize(), std::runtime_error);
  EXPECT_NO_THROW(runtime_.synchronize());
  host_.failAtExtern = host_.externs.load();
  runAhead(body);
  runtime_.drain();
  EXPECT_NE(region(body), nullptr) << "raised on entering";
  EXPECT_EQ(runtime_.active(), nullptr);
  EXPECT_EQ(region(body), nullptr);
}

TEST_F(PrefixExecution, nested_regions_run_as_eager) {
  runtime::Session inner(runtime_, {.numerics = codegen::Numerics::Exact});
  region([&] { EXPECT_FALSE(inner.enter()); });
  EXPECT_TRUE(inner.enter());
  inner.exit(false);
}

TEST_F(PrefixExecution, no_region_begins_while_a_thread_does_without_the_hook) {
  EXPECT_TRUE(runtime_.beginUnhooked());
  EXPECT_FALSE(session_.enter());
  runtime_.endUnhooked();
  ASSERT_TRUE(session_.enter());
  EXPECT_FALSE(runtime_.beginUnhooked());
  session_.exit(false);
  EXPECT_TRUE(runtime_.beginUnhooked());
  runtime_.endUnhooked();
}

TEST_F(PrefixExecution, a_region_and_a_thread_without_the_hook_never_meet) {
  std::atomic<int> inside{0}, met{0}, done{0};
  auto between = [&] {
    met += inside.fetch_add(1) != 0;
    std::this_thread::yield();
    inside.fetch_sub(1);
  };
  std::thread regions([&] {
    for (int i = 0; i < 2000; ++i)
      if (session_.enter()) {
        between();
        session_.exit(false);
      }
    ++done;
  });
  while (!done)
    if (runtime_.beginUnhooked()) {
      between();
      runtime_.endUnhooked();
    }
  regions.join();
  EXPECT_EQ(met, 0);
}

TEST_F(PrefixExecution, the_hook_stays_while_work_is_queued) {
  auto body = [&] { step(); };
  for (int i = 0; i < 3; ++i)
    region(body);
  runtime_.drain();
  host_.shut();
  region(body);
  EXPECT_FALSE(runtime_.beginUnhooked());
  host_.open();
  runtime_.drain();
  EXPECT_TRUE(runtime_.beginUnhooked());
  runtime_.endUnhooked();
}

TEST_F(PrefixExecution, once_two_threads_have_begun_regions_the_hook_stays) {
  region([&] { step(); });
  std::thread([&] { region([&] { step(); }); }).join();
  EXPECT_FALSE(runtime_.beginUnhooked());
}

TEST_F(PrefixExecution, an_eager_call_waits_for_what_the_function_has_queued) {
  runtime::Pacing &pacing = session_.pacing();
  auto call = [&](bool eager) {
    ASSERT_EQ(pacing.enter(), eager ? runtime::Pacing::Way::Eager : runtime::Pacing::Way::Graph);
    EXPECT_EQ(pacing.enter(), runtime::Pacing::Way::Inside);
    if (eager)
      EXPECT_TRUE(runtime_.runner().idle());
    else
      region([&] { step(); });
    pacing.leave(true);
  };
  for (int i = 0; i < 3; ++i)
    call(false);
  pacing.forceEager(1);
  call(true);
  call(false);
  EXPECT_EQ(pacing.summary().eagerCalls, 1u);
}

TEST_F(PrefixExecution, a_value_that_survives_is_computed_and_kept) {
  Tensor kept;
  bool keep = false;
  auto body = [&] {
    Tensor c = add(a_, b_);
    hooked_.call(Call(ops().mul, {c, c}));
    if (keep)
      kept = c;
    c = {};
    hooked_.call(Call(ops().mul, {b_, b_}));
    hooked_.call(Call(ops().mul, {b_, b_}));
  };
  for (uint32_t i = 0; i <= CompiledSegment::kLearningWalks; ++i)
    region(body);
  session_.waitCompiled();
  std::mt19937_64 random(1);
  bool fused = false;
  for (const auto &segment : session_.program().segments())
    for (int i = 0; i < 5000 && !fused; ++i) {
      auto executable = randomExecutable(random, segment->segment(), segment->deaths());
      if (!executable)
        continue;
      for (const auto &instruction : executable->instructions)
        fused |= !instruction.fusedAway.empty();
      if (fused)
        segment->setExecutable(executable);
    }
  ASSERT_TRUE(fused);
  keep = true;
  region(body);
  Generator generator;
  Frontend plain(generator);
  EXPECT_EQ(hooked_.read(kept), digest(plain.call(Call(ops().add, {a_, b_}).number(1))[0]));
  EXPECT_EQ(session_.stats().survivors, 1u);
  EXPECT_EQ(session_.stats().regionsDiverged, 0u);
}

} // namespace
} // namespace terra::fake
