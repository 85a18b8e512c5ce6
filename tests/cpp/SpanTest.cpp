// Calls recognised as a whole: what a span hides, where it is refused, and what happens around it.
#include "FakeCall.h"
#include "FakeComposites.h"
#include "FakeGroups.h"
#include "SessionFixture.h"

#include <gmock/gmock.h>

namespace terra::fake {
namespace {

using graph::kNever;
using runtime::CompiledSegment;
using testing::Each;
using testing::SizeIs;

class Spans : public SessionFixture {
protected:
  static constexpr int kRegionsToLearn = 2; // recorded, watched

  std::vector<Tensor> call(Frontend &frontend, const FakeOp &op, double number = 1) {
    return frontend.call(Call(op, {a_, b_}).number(number));
  }
  Tensor chain() { return call(hooked_, composites().chain)[0]; }
  /// What the plain interpreter makes of the same tensors, on copies.
  int64_t expectedOf(const FakeOp &op, double number = 1) {
    runtime_.drain();
    Generator generator;
    Frontend plain(generator);
    return digest(call(plain, op, number)[0]);
  }
  uint64_t spans() const { return session_.stats().spans; }
  uint64_t diverged() const { return session_.stats().regionsDiverged; }
  void learn(const std::function<void()> &body) {
    for (int i = 0; i < kRegionsToLearn; ++i)
      ASSERT_EQ(region(body), nullptr);
  }
  /// Deaths are those of walks with spans only: the one that was watched diverges at event `at`.
  void learnDeaths(const std::function<void()> &body, int64_t at) {
    region(body);
    session_.forceDivergenceAt = at;
    region(body);
    session_.forceDivergenceAt = -1;
    for (uint32_t i = 0; i < CompiledSegment::kLearningWalks; ++i)
      region(body);
    ASSERT_FALSE(onlySegment()->learning());
    ASSERT_GT(spans(), 0u);
  }
  std::shared_ptr<CompiledSegment> onlySegment() {
    auto segments = session_.program().segments();
    EXPECT_THAT(segments, SizeIs(1));
    return segments.front();
  }
  /// Makes the events one group that fuses away all hidden values. `deaths` as learned.
  bool group(CompiledSegment &segment, const std::vector<uint32_t> &events, size_t fusedAway) {
    std::mt19937_64 random(1);
    for (int i = 0; i < 5000; ++i) {
      auto executable = randomExecutable(random, segment.segment(), segment.deaths());
      if (!executable)
        continue;
      for (const auto &instruction : executable->instructions)
        if (instruction.events == events && instruction.fusedAway.size() == fusedAway) {
          segment.setExecutable(executable);
          return true;
        }
    }
    return false;
  }
};

TEST_F(Spans, a_call_that_was_watched_once_is_recognised_as_a_whole) {
  Tensor c;
  auto body = [&] { c = chain(); };
  learn(body);
  EXPECT_EQ(spans(), 0u);
  host_.shut();
  region(body);
  EXPECT_TRUE(pending(c));
  host_.open();
  EXPECT_EQ(spans(), 1u);
  EXPECT_EQ(session_.stats().spanEvents, 3u);
  EXPECT_EQ(session_.stats().events, 9u) << "spans count as the events that they stand for";
  EXPECT_EQ(hooked_.read(c), expectedOf(composites().chain));
  EXPECT_EQ(diverged(), 0u);
}

TEST_F(Spans, every_kind_of_composite_gives_the_values_of_its_calls) {
  for (const FakeOp *op : {&composites().views, &composites().several, &composites().filled, &composites().padded,
                           &composites().nested, &composites().choosy}) {
    runtime::Session session(runtime_, {.numerics = codegen::Numerics::Exact});
    std::vector<Tensor> results;
    for (int i = 0; i <= kRegionsToLearn; ++i) {
      session.enter();
      hooked_.session = &session;
      results = call(hooked_, *op, 3);
      hooked_.session = nullptr;
      session.exit(false);
    }
    EXPECT_EQ(session.stats().spans, 1u) << op->op.name;
    EXPECT_EQ(hooked_.read(results[0]), expectedOf(*op, 3)) << op->op.name;
  }
}

TEST_F(Spans, memory_that_the_call_makes_for_itself_is_lent_anew) {
  Tensor c, before;
  auto body = [&] { c = call(hooked_, composites().filled)[0]; };
  learn(body);
  runAhead(body);
  before = c;
  int64_t value = hooked_.read(before);
  runAhead(body);
  EXPECT_EQ(spans(), 2u);
  EXPECT_NE(before.storage, c.storage);
  EXPECT_EQ(hooked_.read(c), value);
  hooked_.call(Call(ops().fill, {c}).number(0));
  EXPECT_EQ(hooked_.read(before), value);
}

TEST_F(Spans, calls_that_look_at_data_are_none) {
  for (const FakeOp *op : {&composites().peeking, &composites().picking, &composites().fetching, &composites().same}) {
    runtime::Session session(runtime_, {.numerics = codegen::Numerics::Exact});
    for (int i = 0; i < 12; ++i) {
      hooked_.call(Call(ops().fill, {b_}).number(i)); // what is seen changes
      int64_t expected = op == &composites().same ? 0 : expectedOf(*op);
      session.enter();
      hooked_.session = &session;
      Tensor result = call(hooked_, *op)[0];
      hooked_.session = nullptr;
      session.exit(false);
      if (op != &composites().same) {
        EXPECT_EQ(hooked_.read(result), expected) << op->op.name << ", region " << i;
      }
    }
    EXPECT_EQ(session.stats().spans, 0u) << op->op.name;
  }
}

TEST_F(Spans, another_number_or_operand_goes_the_long_way) {
  double number = 1;
  Tensor c;
  auto body = [&] { c = call(hooked_, composites().chain, number)[0]; };
  learn(body);
  number = 2;
  region(body);
  EXPECT_EQ(spans(), 0u);
  EXPECT_EQ(hooked_.read(c), expectedOf(composites().chain, 2));
  number = 1;
  std::swap(a_, b_); // the same pattern
  region(body);
  EXPECT_EQ(hooked_.read(c), expectedOf(composites().chain));
}

TEST_F(Spans, a_scalar_that_varies_is_fed_where_the_call_is_its_one_event) {
  double number = 0;
  Tensor c;
  auto body = [&] {
    ++number;
    c = call(hooked_, ops().add, number)[0];
  };
  for (int i = 0; i < 3; ++i) // the third watches what varies
    region(body);
  region(body);
  EXPECT_EQ(spans(), 1u);
  EXPECT_EQ(hooked_.read(c), expectedOf(ops().add, number));
}

TEST_F(Spans, a_divergence_before_inside_or_after_is_not_jumped_over) {
  Tensor c, d;
  auto body = [&] {
    step();
    c = chain();
    d = add(c, b_);
  };
  hooked_.above = [this] { return session_.stats().regionsRecorded == 1 || spans() < 100; };
  learn(body);
  region(body);
  uint64_t each = spans();
  EXPECT_EQ(each, 2u) << "the chain and the last addition";
  for (int64_t at = 0; at < 6; ++at) {
    uint64_t spansBefore = spans(), divergedBefore = diverged();
    session_.forceDivergenceAt = at;
    region(body);
    session_.forceDivergenceAt = -1;
    uint64_t taken = at <= 3 ? 0 : at == 4 ? 1 : 2;
    EXPECT_EQ(spans() - spansBefore, taken) << "divergence at " << at;
    EXPECT_EQ(diverged() - divergedBefore, at < 5 ? 1u : 0u) << "divergence at " << at;
    EXPECT_EQ(hooked_.read(c), expectedOf(composites().chain)) << "divergence at " << at;
    region(body);
    EXPECT_EQ(hooked_.read(c), expectedOf(composites().chain)) << "after a divergence at " << at;
  }
}

TEST_F(Spans, alternatives_at_an_event_are_bounded) {
  double number = 0;
  Tensor c;
  auto body = [&] { c = call(hooked_, composites().choosy, number)[0]; };
  for (int round = 0; round < 3; ++round)
    for (number = 0; number < 20; number += 2) { // all do the same
      region(body);
      EXPECT_EQ(hooked_.read(c), expectedOf(composites().choosy, number));
    }
  EXPECT_THAT(onlySegment()->spansAt(0), SizeIs(4));
  EXPECT_FALSE(onlySegment()->mayLearnSpan(0)) << "attempts end";
  uint64_t before = spans();
  for (const auto &span : std::vector(onlySegment()->spansAt(0))) {
    number = span->call.event->args[2].scalar.d;
    region(body);
  }
  EXPECT_EQ(spans() - before, 4u) << "each alternative is found";
}

TEST_F(Spans, hidden_values_die_with_the_span_and_others_after_it) {
  Tensor c;
  auto body = [&] {
    Tensor first = add(a_, b_);      // 0
    Tensor dropped = add(first, b_); // 1
    first = {};
    c = chain(); // 2, 3, 4
    dropped = {};
    step(); // 5
    step(); // 6
  };
  learnDeaths(body, 6);
  const graph::Segment &segment = onlySegment()->segment();
  graph::Deaths deaths = onlySegment()->deaths();
  auto deathOf = [&](uint32_t event) { return deaths[segment.events[event].results[0].slot]; };
  EXPECT_EQ(deathOf(0), 2u) << "event 2 is the first that found it gone";
  EXPECT_EQ(deathOf(1), 5u) << "it was alive when the span was left";
  EXPECT_EQ(deathOf(2), 4u) << "hidden";
  EXPECT_EQ(deathOf(3), 4u) << "hidden";
  EXPECT_EQ(deathOf(4), kNever);
}

TEST_F(Spans, what_a_span_at_the_end_of_a_segment_drops_is_dead_and_what_the_program_drops_after_it_is_not) {
  auto body = [&] {
    Tensor dropped = add(a_, b_);                                                  // 0
    Tensor c = hooked_.call(Call(composites().chain, {dropped, b_}).number(1))[0]; // 1, 2, 3
    dropped = {};
    hooked_.item(c);
  };
  for (uint32_t i = 0; i < kRegionsToLearn + CompiledSegment::kLearningWalks; ++i)
    region(body);
  auto segments = session_.program().segments();
  ASSERT_THAT(segments, SizeIs(2));
  ASSERT_FALSE(segments[0]->learning());
  const graph::Segment &segment = segments[0]->segment();
  graph::Deaths deaths = segments[0]->deaths();
  EXPECT_EQ(deaths[segment.events[0].results[0].slot], kNever);
  EXPECT_EQ(deaths[segment.events[1].results[0].slot], 3u) << "hidden";
  EXPECT_EQ(deaths[segment.events[2].results[0].slot], 3u) << "hidden";
  EXPECT_EQ(deaths[segment.events[3].results[0].slot], kNever);
}

TEST_F(Spans, the_first_event_of_a_region_has_its_own_position) {
  auto body = [&] {
    add(a_, b_); // dropped at once
    step();
    step();
  };
  hooked_.above = [] { return false; };
  for (uint32_t i = 0; i <= CompiledSegment::kLearningWalks; ++i)
    region(body);
  const graph::Segment &segment = onlySegment()->segment();
  EXPECT_EQ(onlySegment()->deaths()[segment.events[0].results[0].slot], 1u);
}

TEST_F(Spans, values_dropped_after_a_span_can_be_fused_away) {
  Tensor c;
  auto body = [&] {
    Tensor dropped = add(a_, b_);                             // 0
    c = hooked_.call(Call(composites().chain, {dropped, b_}).number(1))[0]; // 1, 2, 3
    dropped = {};
    step(); // 4
    step(); // 5
  };
  learnDeaths(body, 5);
  ASSERT_TRUE(group(*onlySegment(), {0, 1, 2, 3}, 3));
  uint64_t before = spans(), kernels = kernelCalls.load();
  region(body);
  EXPECT_EQ(spans() - before, 2u);
  runtime_.drain();
  EXPECT_GT(kernelCalls.load(), kernels);
  EXPECT_EQ(session_.stats().survivors, 0u);
}

TEST_F(Spans, a_flush_computes_what_hidden_values_need) {
  Tensor c;
  bool more = true;
  auto body = [&] {
    c = chain(); // 0, 1, 2
    Tensor last = more ? add(c, b_) : hooked_.call(Call(ops().mul, {c, c}))[0];
  };
  for (uint32_t i = 0; i < kRegionsToLearn + CompiledSegment::kLearningWalks; ++i)
    region(body);
  ASSERT_TRUE(group(*onlySegment(), {0, 1, 2, 3}, 2)) << "waits for the event after the span";
  more = false;
  uint64_t before = spans(), kernels = kernelCalls.load();
  region(body);
  EXPECT_EQ(spans() - before, 1u);
  EXPECT_EQ(diverged(), 1u);
  EXPECT_EQ(hooked_.read(c), expectedOf(composites().chain));
  EXPECT_EQ(kernelCalls.load(), kernels);
}

TEST_F(Spans, storages_are_as_at_the_op_that_fails_inside) {
  auto body = [&] {
    step();                                 // 0
    call(hooked_, composites().update);     // 1, 2, 3: the last one writes a_
    step();                                 // 4
    chain();                                // 5, 6, 7
  };
  learn(body);
  ASSERT_EQ(region(body), nullptr);
  EXPECT_EQ(spans(), 2u);
  for (int64_t at = 0; at < 8; ++at) {
    runtime_.drain();
    Generator generator;
    Reference plain(generator);
    Tensor a = plain.make(a_.meta, 0);
    std::memcpy(a.storage->buffer().data(), a_.storage->buffer().data(), a.storage->buffer().bytes());
    plain.begin(at);
    EXPECT_THROW(
        {
          plain.call(Call(ops().addInPlace, {a, b_}).number(1));
          plain.call(Call(composites().update, {a, b_}).number(1));
          plain.call(Call(ops().addInPlace, {a, b_}).number(1));
          plain.call(Call(composites().chain, {a, b_}).number(1));
        },
        StoppedHere);
    session_.failKernelAt = at;
    runAhead(body);
    EXPECT_THROW(runtime_.synchronize(), std::runtime_error) << at;
    EXPECT_EQ(hooked_.read(a_), digest(a)) << "event " << at << " failed";
  }
}

TEST_F(Spans, results_of_a_span_that_failed_raise) {
  Tensor c;
  auto body = [&] { c = chain(); };
  learn(body);
  session_.failKernelAt = 1;
  runAhead(body);
  EXPECT_EQ(spans(), 1u);
  EXPECT_THROW(hooked_.read(c), std::runtime_error);
  EXPECT_THROW(hooked_.read(c), std::runtime_error) << "each read raises";
  ASSERT_EQ(region(body), nullptr);
  EXPECT_EQ(hooked_.read(c), expectedOf(composites().chain));
}

TEST_F(Spans, an_error_of_the_region_is_raised_on_entering_one) {
  auto body = [&] {
    step();
    chain();
  };
  learn(body);
  session_.failKernelAt = 0;
  EXPECT_NE(region([&] {
              step();
              for (int i = 0; i < 2000 && runtime_.runner().failedTicket() == 0; ++i) {
                runtime_.runner().waitFor(runtime_.runner().completedTicket(), {}); // wakes it, should it sleep
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
              }
              chain();
            }),
            nullptr);
  EXPECT_EQ(region(body), nullptr);
}

/// The first region makes something that later ones find.
class ColdPaths : public Spans {
protected:
  static constexpr int kPatience = 8;
  void run() {
    ASSERT_EQ(region([&] {
                step();
                if (first_)
                  hooked_.call(Call(ops().fill, {b_}).number(3));
                c_ = chain();
              }),
              nullptr);
    first_ = false;
    EXPECT_EQ(hooked_.read(c_), expectedOf(composites().chain));
  }
  bool first_ = true;
  Tensor c_;
};

TEST_F(ColdPaths, a_path_of_the_past_is_forgotten_and_the_rest_is_one_segment) {
  run();
  run();
  EXPECT_THAT(session_.program().segments(), SizeIs(3)) << "the step, the filling and the rest";
  for (int i = 0; i < kPatience; ++i)
    run();
  EXPECT_EQ(session_.program().segments().size(), 0u);
  run();
  EXPECT_EQ(session_.stats().regionsRecorded, 3u);
  EXPECT_EQ(onlySegment()->segment().events.size(), 4u);
  uint64_t before = spans(), diverged = this->diverged();
  run();
  run();
  EXPECT_EQ(spans() - before, 1u) << "learned anew";
  EXPECT_EQ(this->diverged(), diverged);
}

TEST_F(ColdPaths, a_path_that_comes_back_is_kept_longer) {
  for (int i = 0; i < kPatience + 4; ++i)
    run();
  onlySegment();
  first_ = true;
  run();
  run();
  EXPECT_THAT(session_.program().segments(), SizeIs(3));
  for (int i = 0; i < 2 * kPatience; ++i)
    run();
  EXPECT_THAT(session_.program().segments(), SizeIs(3)) << "patience has grown";
  uint64_t diverged = this->diverged();
  first_ = true;
  run();
  EXPECT_EQ(this->diverged(), diverged) << "the path is known";
}

TEST_F(ColdPaths, paths_that_alternate_are_kept) {
  for (int i = 0; i < 4 * kPatience; ++i) {
    first_ = i % 3 == 0;
    run();
  }
  EXPECT_EQ(session_.stats().regionsRecorded, 2u);
}

} // namespace
} // namespace terra::fake
