#include "runtime/Pace.h"

#include <algorithm>

namespace terra::runtime {

namespace {
/// What the challenger has to win in the median.
constexpr double kMargin = 0.05;
/// A loss of the challenger at first glance that needs no rounds.
constexpr double kClearLoss = 0.2;
/// Comparing may take this share of the time.
constexpr double kShare = 0.01;

double median(std::vector<double> values) {
  size_t half = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + half, values.end());
  return values[half];
}
} // namespace

void Pace::Block::add(double cost) {
  ++calls;
  total += cost;
  most = std::max(most, cost);
}

Pace::Way Pace::begin(Clock clock, bool ready) {
  note(clock);
  started_ = clock;
  forcedNow_ = forced_ != 0;
  if (forcedNow_) {
    --forced_;
    ++eagerCalls_;
    return Way::Eager;
  }
  if (!enabled_)
    return Way::Graph;
  if (calls_++ == 0)
    due_ = clock.now + kWarmSeconds;
  bool free = turn_.free(this);
  if (comparing() && !turn_.has(this))
    giveUp();
  nextStage(clock, ready && free);
  eagerCalls_ += way_ == Way::Eager;
  return way_;
}

/// The call before is known whole now.
void Pace::note(Clock clock) {
  if (!counting_)
    return;
  counting_ = false;
  double cost = ended_.now - started_.now + clock.waited - ended_.waited;
  spent_ += cost;
  ++compared_;
  if (stage_ == Stage::Measuring)
    block_.add(cost);
}

void Pace::end(Clock clock, bool countable) {
  ended_ = clock;
  counting_ = countable && !forcedNow_ && comparing();
}

void Pace::nextStage(Clock clock, bool ready) {
  if (stage_ == Stage::Resting) {
    if (calls_ > kWarmCalls && clock.now >= due_ && ready)
      beginComparison(clock);
    return;
  }
  if (stage_ == Stage::Settling && settled(clock))
    stage_ = Stage::Measuring;
  else if (stage_ == Stage::Measuring && full())
    endBlock(clock);
  if (++block_.begun > 4 * kMostCalls)
    giveUp(); // most of its calls end in exceptions
}

void Pace::beginComparison(Clock clock) {
  turn_.take(this);
  compared_ = 0;
  spent_ = 0;
  second_ = false;
  gains_.clear();
  for (auto &means : means_)
    means.clear();
  beginBlock(verdict_, clock);
}

void Pace::beginBlock(Way way, Clock clock) {
  way_ = way;
  stage_ = Stage::Settling;
  block_ = {};
  blockSince_ = clock.now;
}

bool Pace::settled(Clock clock) const {
  if (way_ == Way::Eager)
    return block_.begun >= kSettlingCalls;
  bool firstUse = verdict_ == Way::Eager && means_[0].empty();
  unsigned least = firstUse ? kRelearningCalls : kSettlingCalls;
  return block_.begun >= least &&
         (clock.now - blockSince_ >= kSettlingSeconds || block_.begun >= least + kMostSettling);
}

bool Pace::full() const {
  bool glance = means_[0].empty() && way_ != verdict_;
  unsigned least = glance ? kGlance : kCalls + unsigned(gains_.size()) / 2 * 2;
  return block_.calls >= least && (block_.total >= (glance ? kGlanceSeconds : kSeconds) || block_.calls >= kMostCalls);
}

void Pace::endBlock(Clock clock) {
  mean_[size_t(way_)] = block_.mean();
  if (second_)
    return endRound(clock);
  second_ = true;
  beginBlock(way_ == Way::Graph ? Way::Eager : Way::Graph, clock);
}

void Pace::endRound(Clock clock) {
  bool glance = means_[0].empty();
  for (Way way : {Way::Graph, Way::Eager})
    means_[size_t(way)].push_back(mean_[size_t(way)]);
  double gain = 1 - mean_[size_t(challenger())] / std::max(mean_[size_t(verdict_)], 1e-9);
  if (!glance)
    gains_.push_back(gain);
  auto won = std::count_if(gains_.begin(), gains_.end(), [](double g) { return g > 0; });
  if ((glance && gain < -kClearLoss) || gains_.size() - won > kForgiven)
    return conclude(verdict_, clock);
  if (gains_.size() == kRounds)
    return conclude(median(gains_) > kMargin ? challenger() : verdict_, clock);
  second_ = false;
  beginBlock(way_, clock);
}

void Pace::conclude(Way verdict, Clock clock) {
  for (Way way : {Way::Graph, Way::Eager})
    seconds_[size_t(way)] = median(means_[size_t(way)]);
  patience_ = verdicts_ && verdict == verdict_ ? std::min(2 * patience_, kMostPatience) : kFirstPatience;
  ++verdicts_;
  verdict_ = verdict;
  rest(std::max(spent_ - double(compared_) * seconds_[size_t(verdict)], 0.0), clock);
}

/// `excess`: what the comparison has cost.
void Pace::rest(double excess, Clock clock) {
  turn_.release(this);
  stage_ = Stage::Resting;
  way_ = verdict_;
  due_ = clock.now + std::max(patience_, excess / kShare);
}

} // namespace terra::runtime
