#include "runtime/Pace.h"

#include <algorithm>
#include <vector>

namespace terra::runtime {

namespace {
/// Shares of an eager call: the loss at which a function is given back, and what the graph has to win to have it again.
constexpr double kClearLoss = 0.1, kWorthReturning = 0.05;
/// A win in the first round that needs no further ones.
constexpr double kClearWin = 0.2;
} // namespace

void Pace::Block::add(double cost, double ownSeconds) {
  ++calls;
  total += cost;
  own += ownSeconds;
  most = std::max(most, cost);
}

Pace::Way Pace::begin(Clock clock, bool steady) {
  note(clock);
  started_ = clock;
  if (forced_) {
    --forced_;
    ++eagerCalls_;
    interrupt();
    forcedNow_ = true;
    return Way::Eager;
  }
  forcedNow_ = false;
  if (!enabled_)
    return Way::Graph;
  ++calls_;
  nextStage(steady);
  if (way_ == Way::Eager)
    ++eagerCalls_;
  return way_;
}

void Pace::nextStage(bool steady) {
  switch (stage_) {
  case Stage::Resting:
    if (calls_ > due_ && (steady || calls_ > due_ + kLatest))
      beginRounds();
    return;
  case Stage::Settling:
    if (settled())
      stage_ = Stage::Measuring;
    break;
  case Stage::Measuring:
    if (block_.full())
      return endBlock();
    if (block_.begun > 2 * kMostCalls)
      return rest(verdict_); // most of its calls end in exceptions
    break;
  }
  if (stage_ == Stage::Measuring)
    ++block_.begun;
}

bool Pace::settled() {
  if (calls_ < settleUntil_)
    return false;
  return way_ == Way::Eager || started_.now - settlingSince_ >= kSettlingSeconds ||
         calls_ >= settleUntil_ + kMostSettling;
}

/// The call before is known whole now.
void Pace::note(Clock clock) {
  if (measuring_ && stage_ == Stage::Measuring && clock.waited >= ended_.waited)
    block_.add(ended_.now - started_.now + clock.waited - ended_.waited, ended_.now - started_.now);
  measuring_ = false;
}

void Pace::end(Clock clock, bool countable) {
  ended_ = clock;
  measuring_ = countable && !forcedNow_ && stage_ == Stage::Measuring && clock.waited >= started_.waited;
}

void Pace::beginRounds() {
  round_ = 0;
  settle(Way::Graph, verdict_ == Way::Eager ? kRelearningCalls : kSettlingCalls);
}

void Pace::settle(Way way, unsigned calls) {
  way_ = way;
  stage_ = Stage::Settling;
  settleUntil_ = calls_ + calls;
  settlingSince_ = started_.now;
  block_ = {};
}

void Pace::endBlock() {
  if (way_ == Way::Graph) {
    graphCost_ = block_.mean();
    settle(Way::Eager, kSettlingCalls);
    return;
  }
  endRound();
}

void Pace::endRound() {
  graph_[round_] = graphCost_;
  eager_[round_] = block_.mean();
  loss_[round_] = (graphCost_ - block_.mean()) / std::max(block_.own / block_.calls, 1e-9);
  ++round_;
  if (!decided())
    settle(Way::Graph, kSettlingCalls);
}

bool Pace::decided() {
  double loss = median(loss_);
  if (round_ == 1 && loss < -kClearWin) {
    conclude(Way::Graph);
    return true;
  }
  if (round_ < kRounds)
    return false;
  auto losses = std::count_if(loss_.begin(), loss_.end(), [](double l) { return l > 0; });
  if (verdict_ == Way::Graph)
    conclude(loss > kClearLoss && losses + 1 >= long(kRounds) ? Way::Eager : Way::Graph);
  else
    conclude(loss < -kWorthReturning ? Way::Graph : Way::Eager);
  return true;
}

void Pace::conclude(Way verdict) {
  graphSeconds_ = median(graph_);
  eagerSeconds_ = median(eager_);
  patience_ = verdicts_ && verdict == verdict_ ? std::min(2 * patience_, kMostPatience) : kFirstPatience;
  ++verdicts_;
  rest(verdict);
}

void Pace::rest(Way verdict) {
  verdict_ = way_ = verdict;
  stage_ = Stage::Resting;
  due_ = calls_ + patience_;
}

double Pace::median(const std::array<double, kRounds> &values) const {
  std::vector<double> sorted(values.begin(), values.begin() + round_);
  std::sort(sorted.begin(), sorted.end());
  return (sorted[(round_ - 1) / 2] + sorted[round_ / 2]) / 2;
}

Pace::Summary Pace::summary() const {
  return {verdict_ == Way::Eager, eagerCalls_, verdicts_, graphSeconds_, eagerSeconds_};
}

} // namespace terra::runtime
