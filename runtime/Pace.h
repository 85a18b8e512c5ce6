// Which is faster for a function: its graph, or no graph at all.
#pragma once

#include "runtime/PaceTurn.h"

#include <cstdint>
#include <vector>

namespace terra::runtime {

/// Decides for each call whether it goes with the graph or eagerly, from what calls have cost the calling thread.
///
/// Recorded calls are no measure of eager ones, so some calls are run the other way on purpose: a few the way that holds and a
/// few the other way make a *round*. The other way takes over only when it wins every round of nine but one, and in the
/// median by a margin: what hits single rounds (load, another phase of the program) decides nothing. Rounds end as soon as that
/// has become impossible, and a first glance, of two calls where calls are long, ends them before they begin when the
/// other way is far off. Which way comes first alternates and rounds grow, so that no rhythm of the program's keeps in step.
///
/// A comparison is followed by a hundred times the time that it has cost at least, and comparisons that keep ending the same way
/// become rare.
///
/// What a call costs is its own time and the waits for queued work until the next call begins: a graph that computes while
/// Python does something else costs nothing, and what Python does between calls is nobody's cost. Times are the
/// caller's, so that tests need no clock. Not thread-safe.
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
    double graphSeconds = 0, eagerSeconds = 0; ///< of a call, medians of the last comparison; 0 before the first
  };

  explicit Pace(PaceTurn &turn, bool enabled = true) : turn_(turn), enabled_(enabled) {}
  ~Pace() { turn_.release(this); }
  Pace(const Pace &) = delete;
  Pace &operator=(const Pace &) = delete;

  /// A call begins. `ready`: nothing is about to make the graph's calls cheaper.
  Way begin(Clock clock, bool ready);
  /// The call is over. `countable`: it ended as calls do.
  void end(Clock clock, bool countable);
  /// What the last call cost cannot be told any more: the next one is another thread's.
  void interrupt() { counting_ = false; }
  bool comparing() const { return stage_ != Stage::Resting; }

  /// So many calls are run eagerly, from the next one on.
  void force(uint64_t calls) { forced_ = calls; }

  Summary summary() const { return {verdict_ == Way::Eager, eagerCalls_, verdicts_, seconds_[0], seconds_[1]}; }

  static constexpr uint64_t kWarmCalls = 256; ///< before the first comparison, …
  static constexpr double kWarmSeconds = 1; ///< … and so long
  static constexpr unsigned kRounds = 9, kForgiven = 1;
  static constexpr unsigned kSettlingCalls = 2; ///< before what is measured; with the graph …
  static constexpr double kSettlingSeconds = 4e-3; ///< … until it runs as far behind as it ever does, …
  static constexpr unsigned kMostSettling = 32; ///< … or the most
  static constexpr unsigned kRelearningCalls = 8; ///< with the graph, when it has not been used for long
  static constexpr unsigned kGlance = 2; ///< measured calls of the other way at first glance, or more …
  static constexpr double kGlanceSeconds = 4e-3; ///< … until they have taken so long, or the most
  static constexpr unsigned kCalls = 4; ///< measured each way in a round, two more in every other round; or more …
  static constexpr double kSeconds = 20e-3; ///< … until they have taken so long, …
  static constexpr unsigned kMostCalls = 256; ///< … or the most
  static constexpr double kFirstPatience = 5, kMostPatience = 600; ///< seconds between a verdict and the next look

private:
  enum class Stage : uint8_t { Resting, Settling, Measuring };

  /// Calls one way. Of few long ones the most expensive does not count: a pause of the machine meets a single call. Of many
  /// short ones it does: Python waits for several regions at once.
  struct Block {
    unsigned calls = 0, begun = 0;
    double total = 0, most = 0;
    void add(double cost);
    double mean() const { return calls >= kCalls && calls < 16 ? (total - most) / (calls - 1) : total / calls; }
  };

  void giveUp() { rest(spent_, ended_); }
  void note(Clock clock);
  void nextStage(Clock clock, bool ready);
  void beginComparison(Clock clock);
  void beginBlock(Way way, Clock clock);
  bool settled(Clock clock) const;
  bool full() const;
  void endBlock(Clock clock);
  void endRound(Clock clock);
  void conclude(Way verdict, Clock clock);
  void rest(double excess, Clock clock);
  Way challenger() const { return verdict_ == Way::Graph ? Way::Eager : Way::Graph; }

  PaceTurn &turn_;
  Stage stage_ = Stage::Resting;
  Way way_ = Way::Graph, verdict_ = Way::Graph;
  uint64_t calls_ = 0, forced_ = 0, eagerCalls_ = 0, verdicts_ = 0;
  double due_ = 0, patience_ = kFirstPatience;
  bool enabled_, forcedNow_ = false;

  bool counting_ = false; ///< the call before was one of the comparison
  Clock started_, ended_; ///< of the call before
  uint64_t compared_ = 0; ///< calls of the comparison …
  double spent_ = 0; ///< … and what they cost
  bool second_ = false; ///< block of the round
  double blockSince_ = 0;
  Block block_;
  double mean_[2] = {}; ///< of this round, either way
  std::vector<double> means_[2]; ///< of each round
  std::vector<double> gains_; ///< of the challenger, as a share; without the glance
  double seconds_[2] = {};
};

} // namespace terra::runtime
