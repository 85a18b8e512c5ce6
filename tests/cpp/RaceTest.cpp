#include "frontend/torch/Race.h"

#include <gtest/gtest.h>

#include <vector>

namespace terra::frontend {
namespace {

/// Runs the race with these seconds for each runner; how often each had its turn.
std::vector<int> turnsOf(Race &race, const std::vector<double> &seconds) {
  std::vector<int> turns(seconds.size());
  for (int i = 0; i < 100 && !race.decided(); ++i) {
    ++turns[race.next()];
    race.took(race.next(), seconds[race.next()]);
  }
  return turns;
}

TEST(Race, TheFastestWins) {
  Race race(4);
  turnsOf(race, {1.0, 0.9, 0.7, 0.8});
  EXPECT_TRUE(race.decided());
  EXPECT_EQ(race.next(), 2u);
}

TEST(Race, TheHostIsOnlyLeftForAClearGain) {
  Race race;
  turnsOf(race, {1.0, 0.97});
  EXPECT_EQ(race.next(), Race::kHost);
}

TEST(Race, TheFirstTurnOfEachDoesNotCount) {
  Race race;
  race.took(Race::kHost, 1.0);
  race.took(Race::kOther, 50.0);
  turnsOf(race, {1.0, 0.5});
  EXPECT_EQ(race.next(), Race::kOther);
}

TEST(Race, TheHopelessDropOutEarly) {
  Race race(3);
  std::vector<int> turns = turnsOf(race, {1.0, 10.0, 0.5});
  EXPECT_LT(turns[1], turns[2]);
  EXPECT_EQ(race.next(), 2u);
}

TEST(Race, WhatRefusesNeverRunsAgain) {
  Race race(3);
  race.refuse(1);
  std::vector<int> turns = turnsOf(race, {1.0, 0.1, 0.5});
  EXPECT_EQ(turns[1], 0);
  EXPECT_EQ(race.next(), 2u);
  race.refuse(2);
  EXPECT_TRUE(race.decided());
  EXPECT_EQ(race.next(), Race::kHost);
}

TEST(Race, WithoutOthersItIsTheHosts) {
  Race race(1);
  EXPECT_EQ(race.next(), Race::kHost);
}

} // namespace
} // namespace terra::frontend
