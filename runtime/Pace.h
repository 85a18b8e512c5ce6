// Which is faster for a function: its graph, or no graph at all.
#pragma once

#include <array>
#include <cstdint>

namespace terra::runtime {

/// Decides for each call whether it goes with the graph or eagerly, from what calls have cost the calling thread.
///
/// Recorded calls are no measure of eager ones, so some calls are run eagerly on purpose: once a function is learned, up to five
/// rounds of a few calls each way, one after the other, so that load and the program's own phases meet both. A clear win of
/// the graph ends that in its first round. Only a clear loss (in the median, and in nearly all rounds) gives the function back to
/// eager. Both verdicts are looked at again, ever more rarely.
///
/// What a call costs is its own time and the waits for queued work until the next call begins: a graph that computes while
/// Python does something else costs nothing. Times are the caller's, so that tests need no clock. Not thread-safe.
class Pace {
public:
  enum class Way : uint8_t { Graph, Eager };

  /// The time, and how long this thread has waited for queued work so far, in seconds.
  struct Clock {
    double now = 0, waited = 0;
  };

  struct Summary {
    bool givenBack = false;
    uint64_t eagerCalls = 0, verdicts = 0;
    double graphSeconds = 0, eagerSeconds = 0; ///< of a call, medians of the last verdict; 0 before the first
  };

  explicit Pace(bool enabled = true) : enabled_(enabled) {}

  /// A call begins. `steady`: the graph is known and compiled, as far as it ever will be.
  Way begin(Clock clock, bool steady);
  /// The call begun runs eagerly, and what was queued before it has been waited for.
  void beginEager(Clock clock) { started_ = clock; }
  /// The call is over. `countable`: it ended as calls do.
  void end(Clock clock, bool countable);
  /// What was begun is part of another call, or the caller has changed threads: calls are not compared across this.
  void interrupt() { measuring_ = false; }

  /// For tests: so many calls are run eagerly, from the next one on.
  void force(uint64_t calls) { forced_ = calls; }

  Summary summary() const;

  static constexpr uint64_t kWarmCalls = 64; ///< before the first round
  static constexpr uint64_t kLatest = 512; ///< a round that was due begins so many later, steady or not
  static constexpr unsigned kRounds = 5;
  static constexpr unsigned kSettlingCalls = 2; ///< before what is measured; with the graph …
  static constexpr unsigned kMostSettling = 32;
  static constexpr double kSettlingSeconds = 4e-3; ///< … until it runs as far behind as it ever does, or the most
  static constexpr unsigned kCalls = 4; ///< measured each way in a round, or more …
  static constexpr unsigned kMostCalls = 64;
  static constexpr double kSeconds = 8e-3; ///< … until they have taken so long
  static constexpr unsigned kRelearningCalls = 8; ///< with the graph, after it has not been used for long
  static constexpr uint64_t kFirstPatience = 1024, kMostPatience = 32768; ///< calls between a verdict and the next look

private:
  enum class Stage : uint8_t { Resting, Settling, Measuring };

  /// Calls one way. Of few long ones the most expensive does not count: a pause of the machine meets a single call. Of many
  /// short ones it does: Python waits for several regions at once.
  struct Block {
    unsigned calls = 0, begun = 0;
    double total = 0, most = 0, own = 0;
    void add(double cost, double ownSeconds);
    bool full() const { return calls >= kCalls && (total >= kSeconds || calls >= kMostCalls); }
    double mean() const { return calls < kCalls * 4 ? (total - most) / (calls - 1) : total / calls; }
  };

  void note(Clock clock);
  void nextStage(bool steady);
  bool settled();
  void beginRounds();
  void settle(Way way, unsigned calls);
  void endBlock();
  void endRound();
  bool decided();
  void conclude(Way verdict);
  void rest(Way verdict);
  /// Median over the rounds so far.
  double median(const std::array<double, kRounds> &values) const;

  Way way_ = Way::Graph, verdict_ = Way::Graph;
  Stage stage_ = Stage::Resting;
  uint64_t calls_ = 0, due_ = kWarmCalls, patience_ = kFirstPatience, forced_ = 0, eagerCalls_ = 0, verdicts_ = 0;
  uint64_t settleUntil_ = 0; ///< the calls before this one are not measured
  double settlingSince_ = 0;
  unsigned round_ = 0;
  bool enabled_, forcedNow_ = false;
  bool measuring_ = false; ///< the call before was one of the block's
  Clock started_, ended_;
  Block block_;
  double graphCost_ = 0; ///< of this round
  std::array<double, kRounds> graph_{}, eager_{},
      loss_{}; ///< of each round; the loss as a share of an eager call's own time
  double graphSeconds_ = 0, eagerSeconds_ = 0;
};

} // namespace terra::runtime
