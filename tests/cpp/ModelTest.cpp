// Model-based test of prefix execution: random legal programs, segmentations, groups, deaths, fetches, divergences and failures. Nothing
// may deadlock, and every read has to see what a plain sequential interpreter computes.
//
// TERRA_MODEL_SEEDS: programs for each test; TERRA_MODEL_FIRST: the first seed (to repeat one: _SEEDS=1).
#include "ModelTrial.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

namespace terra::fake {
namespace {

uint64_t fromEnvironment(const char *name, uint64_t otherwise) {
  const char *value = std::getenv(name);
  return value ? std::strtoull(value, nullptr, 10) : otherwise;
}

/// Ends the process, with the program that hangs, when a trial makes no progress.
class Watchdog {
public:
  explicit Watchdog(const Trial &trial) : thread_([this, &trial] { watch(trial); }) {}
  ~Watchdog() {
    {
      std::lock_guard lock(mutex_);
      done_ = true;
      changed_.notify_one();
    }
    thread_.join();
  }

private:
  void watch(const Trial &trial) {
    std::unique_lock lock(mutex_);
    for (int seen = -1;;) {
      if (changed_.wait_for(lock, std::chrono::seconds(60), [this] { return done_; }))
        return;
      int now = trial.progress.load();
      if (now == seen) {
        std::fprintf(stderr, "deadlock: no progress for a minute in iteration %d of %s", now, trial.describe().c_str());
        std::abort();
      }
      seen = now;
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  std::thread thread_;
};

struct Totals {
  uint64_t recorded = 0, coexecuted = 0, diverged = 0, survivors = 0, failures = 0, kernels = 0, spans = 0,
           spanEvents = 0;
};

Totals runTrials(const TrialOptions &options, uint64_t salt, uint64_t divisor = 1) {
  Totals totals;
  uint64_t kernelsBefore = kernelCalls.load();
  uint64_t first = fromEnvironment("TERRA_MODEL_FIRST", 0),
           seeds = fromEnvironment("TERRA_MODEL_SEEDS", 60) / divisor + 1;
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    Trial trial(seed * 16 + salt, options);
    Watchdog watchdog(trial);
    std::string error = trial.run();
    EXPECT_EQ(error, "") << "TERRA_MODEL_FIRST=" << seed << " " << trial.describe();
    if (!error.empty())
      break;
    runtime::SessionStats stats = trial.stats();
    totals.recorded += stats.regionsRecorded;
    totals.coexecuted += stats.regionsCoexecuted;
    totals.diverged += stats.regionsDiverged;
    totals.survivors += stats.survivors;
    totals.failures += trial.failures();
    totals.spans += stats.spans;
    totals.spanEvents += stats.spanEvents;
  }
  totals.kernels = kernelCalls.load() - kernelsBefore;
  std::printf("  recorded %llu, co-executed %llu, diverged %llu, survivors %llu, failures %llu, kernels %llu, "
              "spans %llu of %llu events\n",
              (unsigned long long)totals.recorded, (unsigned long long)totals.coexecuted,
              (unsigned long long)totals.diverged, (unsigned long long)totals.survivors,
              (unsigned long long)totals.failures, (unsigned long long)totals.kernels, (unsigned long long)totals.spans,
              (unsigned long long)totals.spanEvents);
  if (options.features.composites) {
    EXPECT_GT(totals.spans, 0u);
    EXPECT_GT(totals.spanEvents, totals.spans) << "some stand for several events";
  }
  return totals;
}

TEST(Model, random_programs_see_the_values_of_a_sequential_interpreter) {
  Totals totals = runTrials({}, 1);
  EXPECT_GT(totals.coexecuted, 0u);
  EXPECT_GT(totals.diverged, 0u);
  EXPECT_GT(totals.kernels, 0u);
}

TEST(Model, straight_programs_with_groups) {
  TrialOptions options;
  options.features = {.gates = false, .reads = false, .raises = false, .immediate = false};
  options.divergences = false;
  Totals totals = runTrials(options, 2);
  EXPECT_GT(totals.coexecuted, 0u);
  EXPECT_GT(totals.survivors, 0u);
  EXPECT_GT(totals.kernels, 0u);
}

TEST(Model, other_threads_read_pending_values) {
  TrialOptions options;
  options.features.threads = true;
  Totals totals = runTrials(options, 3);
  EXPECT_GT(totals.coexecuted, 0u);
}

TEST(Model, loops_inside_a_region) {
  TrialOptions options;
  options.features.longLoop = true;
  options.iterations = 5;
  EXPECT_GT(runTrials(options, 4, /*divisor=*/6).kernels, 0u);
}

TrialOptions failing() {
  TrialOptions options;
  options.features.immediate = false; // it could run after the failing event and before the error
  options.failures = true;
  return options;
}

TEST(Model, failures_leave_the_state_of_the_failing_event) {
  TrialOptions options = failing();
  options.groups = false;
  options.anyFails = true;
  EXPECT_GT(runTrials(options, 5).failures, 0u);
}

TEST(Model, failures_among_groups_leave_the_state_of_the_failing_event) {
  EXPECT_GT(runTrials(failing(), 6).failures, 0u);
}

TEST(Model, failures_inside_groups_poison_what_was_not_computed) {
  TrialOptions options = failing();
  options.anyFails = true;
  EXPECT_GT(runTrials(options, 7).failures, 0u);
}

} // namespace
} // namespace terra::fake
