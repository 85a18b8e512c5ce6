// The order of instructions, and that the verifier sees each way in which it can be wrong.
#include "FakeCall.h"
#include "codegen/Compiler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace terra::fake {
namespace {

using codegen::Groups;
using codegen::Instruction;
using graph::Deaths;
using graph::kNever;
using graph::Segment;
using testing::ElementsAre;
using testing::HasSubstr;

class Schedule : public testing::Test {
protected:
  Tensor tensor() { return r_.make(contiguous({4}), 1); }
  Tensor add(const Tensor &a, const Tensor &b) { return r_.call(Call(ops().add, {a, b}).number(1))[0]; }
  void addInPlace(const Tensor &a, const Tensor &b) { r_.call(Call(ops().addInPlace, {a, b}).number(1)); }
  Tensor uniform(const Tensor &a) { return r_.call(Call(ops().uniform, {a}).number(1))[0]; }

  static Instruction group(std::vector<uint32_t> events, std::vector<uint32_t> fusedAway = {}) {
    Instruction instruction;
    instruction.kind = Instruction::Kind::Kernel;
    instruction.events = std::move(events);
    instruction.fusedAway = std::move(fusedAway);
    return instruction;
  }
  Deaths never() const { return Deaths(r_.segment().slots.size(), kNever); }
  uint32_t slotOf(uint32_t event) const { return r_.segment().events[event].results[0].slot; }

  /// Instructions by their last events, in order; verified.
  std::vector<uint32_t> order(const Deaths &deaths, Groups groups) {
    list_ = codegen::schedule(r_.segment(), deaths, std::move(groups));
    EXPECT_EQ(codegen::verify(r_.segment(), deaths, list_), "");
    std::vector<uint32_t> last;
    for (const Instruction &instruction : list_)
      last.push_back(instruction.events.back());
    return last;
  }
  const Instruction &of(uint32_t event) const {
    for (const Instruction &instruction : list_)
      if (testing::Value(instruction.events, testing::Contains(event)))
        return instruction;
    throw std::out_of_range("no instruction");
  }
  std::string verify(const Deaths &deaths) const { return codegen::verify(r_.segment(), deaths, list_); }

  Recording r_;
  Tensor a_ = tensor(), b_ = tensor();
  std::vector<Instruction> list_;
};

TEST_F(Schedule, without_groups_everything_is_an_extern_in_program_order) {
  Tensor c = add(a_, b_);
  Tensor view = r_.call(Call(ops().alias, {c}))[0];
  add(view, b_);
  EXPECT_THAT(order({}, {}), ElementsAre(0u, 1u, 2u));
  EXPECT_EQ(of(0).kind, Instruction::Kind::Extern);
  EXPECT_EQ(of(1).kind, Instruction::Kind::Nothing);
  EXPECT_THAT(of(0).outputs, ElementsAre(slotOf(0)));
  EXPECT_EQ(of(2).trigger, 2u);
  auto interpreted = codegen::interpretOnly(r_.segment());
  EXPECT_EQ(interpreted->externCount, 2u);
}

TEST_F(Schedule, a_group_waits_for_its_last_event) {
  Tensor c = add(a_, b_);
  add(b_, b_);
  add(c, c);
  EXPECT_THAT(order({}, {group({2, 0})}), ElementsAre(1u, 2u));
  EXPECT_THAT(of(0).events, ElementsAre(0u, 2u));
  EXPECT_EQ(of(0).trigger, 2u);
}

TEST_F(Schedule, a_group_waits_for_the_death_of_what_it_fuses_away) {
  Tensor c = add(a_, b_);
  add(c, c);
  add(b_, b_);
  add(b_, b_);
  Deaths deaths = never();
  deaths[slotOf(0)] = 3;
  EXPECT_THAT(order(deaths, {group({0, 1}, {slotOf(0)})}), ElementsAre(2u, 1u, 3u));
  EXPECT_EQ(of(0).trigger, 3u);
}

TEST_F(Schedule, what_has_a_hazard_with_a_deferred_group_waits_too) {
  Tensor c = add(a_, b_);
  Tensor d = add(c, c);
  add(d, b_);          // reads the group's output
  addInPlace(a_, b_);  // writes what the group reads
  add(b_, b_);
  Deaths deaths = never();
  deaths[slotOf(0)] = 4;
  order(deaths, {group({0, 1}, {slotOf(0)})});
  EXPECT_EQ(of(2).trigger, 4u);
  EXPECT_EQ(of(3).trigger, 4u);
  EXPECT_EQ(of(4).trigger, 4u);
  EXPECT_EQ(list_.front().events.back(), 1u) << "hazards order what triggers together";
}

TEST_F(Schedule, groups_that_cannot_trigger_in_the_segment_are_broken_up) {
  Tensor c = add(a_, b_);
  add(c, c);
  EXPECT_THAT(order(never(), {group({0, 1}, {slotOf(0)})}), ElementsAre(0u, 1u));
  EXPECT_EQ(of(0).kind, Instruction::Kind::Extern);
  EXPECT_TRUE(of(0).fusedAway.empty());
  EXPECT_THAT(order({}, {group({0, 1}, {slotOf(0)})}), ElementsAre(0u, 1u)) << "deaths are not known yet";
}

TEST_F(Schedule, a_group_may_wait_for_what_dies_after_the_last_event) {
  Tensor c = add(a_, b_);
  add(c, c);
  Deaths deaths = never();
  deaths[slotOf(0)] = 2;
  EXPECT_THAT(order(deaths, {group({0, 1}, {slotOf(0)})}), ElementsAre(1u));
  EXPECT_EQ(of(1).trigger, 2u);
  EXPECT_THAT(of(1).fusedAway, ElementsAre(slotOf(0)));
}

TEST_F(Schedule, groups_that_wait_for_each_other_are_broken_up) {
  Tensor c = add(a_, b_); // 0: group A
  Tensor d = add(c, b_);  // 1: group B reads A
  add(d, b_);             // 2: group A reads B
  add(d, d);              // 3: group B
  EXPECT_EQ(order({}, {group({0, 2}), group({1, 3})}).size(), 3u) << "one of them was broken up";
  EXPECT_EQ(order({}, {group({0, 2})}).size(), 4u) << "a cycle through an extern";
}

TEST_F(Schedule, draws_keep_their_order) {
  uniform(a_);
  Tensor c = add(b_, b_);
  uniform(c);
  add(a_, a_);
  uniform(a_);
  order({}, {group({1, 3})});
  EXPECT_EQ(of(2).trigger, 3u);
  EXPECT_EQ(of(4).trigger, 4u);
}

TEST_F(Schedule, what_cannot_be_undone_stays_behind_what_may_fail) {
  Tensor c = add(a_, b_);
  Tensor d = add(c, c);
  r_.call(Call(ops().pair, {d})); // may fail
  addInPlace(b_, b_);             // another hazard would order it: none here but the group's read of b
  Tensor e = tensor();
  addInPlace(e, e);
  add(a_, a_);
  Deaths deaths = never();
  deaths[slotOf(0)] = 5;
  order(deaths, {group({0, 1}, {slotOf(0)})});
  EXPECT_EQ(of(2).trigger, 5u);
  EXPECT_EQ(of(4).trigger, 5u) << "writes a storage from outside";
  std::vector<uint32_t> last;
  for (const Instruction &instruction : list_)
    last.push_back(instruction.events.back());
  EXPECT_LT(std::find(last.begin(), last.end(), 2u), std::find(last.begin(), last.end(), 4u));
}

TEST_F(Schedule, slots_are_released_after_their_last_user) {
  Tensor c = add(a_, b_);
  add(c, a_);
  add(b_, b_);
  order({}, {});
  EXPECT_THAT(of(0).releases, ElementsAre());
  EXPECT_THAT(of(1).releases,
              testing::UnorderedElementsAre(r_.segment().events[0].inputs[0].slot, slotOf(0), slotOf(1)));
}

class Verify : public Schedule {
protected:
  void SetUp() override {
    Tensor c = add(a_, b_);
    add(c, b_);
    addInPlace(b_, a_);
    uniform(a_);
    uniform(a_);
    order({}, {});
  }
  void swap(size_t i, size_t j) {
    std::swap(list_[i], list_[j]);
    std::swap(list_[i].trigger, list_[j].trigger);
    for (Instruction &instruction : list_)
      instruction.trigger = 4;
  }
};

TEST_F(Verify, an_event_in_two_instructions) {
  list_[1].events.push_back(0);
  EXPECT_THAT(verify({}), HasSubstr("event 0 belongs to two instructions"));
}

TEST_F(Verify, an_event_in_no_instruction) {
  list_.erase(list_.begin() + 2);
  EXPECT_THAT(verify({}), HasSubstr("event 2 belongs to no instruction"));
}

TEST_F(Verify, an_event_that_does_not_exist) {
  list_[4].events = {9};
  EXPECT_THAT(verify({}), HasSubstr("event 9"));
}

TEST_F(Verify, triggers_out_of_order) {
  list_[0].trigger = 3;
  EXPECT_THAT(verify({}), HasSubstr("is not sorted by trigger"));
}

TEST_F(Verify, a_trigger_after_the_segment) {
  list_.back().trigger = uint32_t(r_.segment().events.size()) + 1;
  EXPECT_THAT(verify({}), HasSubstr("triggers after the segment"));
}

TEST_F(Verify, a_trigger_before_the_last_event) {
  list_[1].trigger = 0;
  EXPECT_THAT(verify({}), HasSubstr("triggers before its last event"));
}

TEST_F(Verify, an_operand_used_before_it_is_made) {
  swap(0, 1);
  EXPECT_THAT(verify({}), HasSubstr("event 1 runs before event 0, with which it shares slot 2"));
}

TEST_F(Verify, a_write_before_an_earlier_read) {
  swap(1, 2);
  EXPECT_THAT(verify({}), HasSubstr("event 2 runs before event 1"));
}

TEST_F(Verify, draws_out_of_order) {
  swap(3, 4);
  EXPECT_THAT(verify({}), HasSubstr("draws random numbers out of order"));
}

TEST_F(Verify, fused_away_before_its_death) {
  list_[1].fusedAway = {slotOf(0)};
  EXPECT_THAT(verify({}), HasSubstr("before its death"));
  Deaths deaths = never();
  deaths[slotOf(0)] = 2;
  EXPECT_THAT(verify(deaths), HasSubstr("before its death"));
}

TEST_F(Verify, fused_away_but_read_elsewhere) {
  Deaths deaths = never();
  deaths[slotOf(0)] = 0;
  list_[0].fusedAway = {slotOf(0)};
  EXPECT_THAT(verify(deaths), HasSubstr("fuses away slot 2 that event 1 reads"));
}

TEST_F(Verify, fused_away_although_external) {
  Deaths deaths = never();
  deaths[0] = 0;
  list_[0].fusedAway = {0};
  EXPECT_THAT(verify(deaths), HasSubstr("fuses away an external slot"));
}

} // namespace
} // namespace terra::fake
