#include "runtime/RunAhead.h"

#include <gtest/gtest.h>

namespace terra::runtime {
namespace {

/// Regions of one run each: region n ends with ticket n.
class Regions {
public:
  explicit Regions(double seconds) : seconds_(seconds) {}
  /// Begins the next region; returns how many unfinished ones there are before it, after the wait.
  uint64_t enter() {
    if (uint64_t ticket = ahead_.enter(last_, completed_, busy()); ticket > completed_) {
      completed_ = ticket;
      ++waits_;
    }
    return last_++ - completed_;
  }
  uint64_t waits() const { return waits_; }

private:
  double busy() const { return double(completed_) * seconds_; }
  RunAhead ahead_;
  double seconds_;
  uint64_t last_ = 0, completed_ = 0, waits_ = 0;
};

TEST(RunAhead, one_region_where_regions_are_long) {
  Regions regions(0.01);
  for (int i = 0; i < 50; ++i)
    EXPECT_LE(regions.enter(), 1u);
  EXPECT_GE(regions.waits(), 45u);
}

TEST(RunAhead, some_milliseconds_of_work_and_few_waits_where_they_are_short) {
  Regions regions(0.25e-3);
  uint64_t most = 0;
  for (int i = 0; i < 100; ++i)
    most = std::max(most, regions.enter());
  EXPECT_EQ(most, 8u);
  EXPECT_LE(regions.waits(), 30u);
}

TEST(RunAhead, never_more_than_the_bound) {
  Regions regions(1e-9);
  uint64_t most = 0;
  for (int i = 0; i < 100; ++i)
    most = std::max(most, regions.enter());
  EXPECT_EQ(most, RunAhead::kMaxRegions);
}

TEST(RunAhead, nothing_to_wait_for_when_the_graph_is_faster) {
  RunAhead ahead;
  for (uint64_t ticket = 0; ticket < 20; ++ticket)
    EXPECT_EQ(ahead.enter(ticket, ticket, 0.0), 0u);
}

} // namespace
} // namespace terra::runtime
