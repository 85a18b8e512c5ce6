#include "frontend/torch/BackwardPiece.h"

#include <algorithm>
#include <list>

namespace terra::frontend {

BackwardPlan::BackwardPlan(const BackwardWalk &walk, bool retainGraph)
    : signature_(walk.signature()), retainGraph_(retainGraph) {
  for (const CallNode *call : walk.calls()) {
    addresses_.emplace_back(call->sharedSpan());
    addresses_.emplace_back(call->sharedSegment());
  }
}

std::shared_ptr<BackwardPlan> BackwardPlan::find(const BackwardWalk &walk, bool retainGraph) {
  constexpr size_t kRemembered = 64;
  static auto &plans = *new std::list<std::shared_ptr<BackwardPlan>>();
  auto it = std::find_if(plans.begin(), plans.end(), [&](const auto &plan) {
    return plan->retainGraph_ == retainGraph && plan->signature_ == walk.signature();
  });
  if (it != plans.end()) {
    plans.splice(plans.begin(), plans, it);
    return plans.front();
  }
  if (plans.size() == kRemembered)
    plans.pop_back();
  return plans.emplace_front(std::make_shared<BackwardPlan>(walk, retainGraph));
}

BackwardStation *BackwardPlan::start(const BackwardWalk &walk, size_t roots) {
  BackwardCut cut;
  cut.start = true;
  cut.numTensors = roots;
  return at(std::move(cut), walk);
}

BackwardStation *BackwardPlan::at(BackwardCut cut, const BackwardWalk &walk) {
  for (BackwardStation &station : stations_)
    if (station.cut == cut)
      return &station;
  BackwardStation &station = stations_.emplace_back();
  station.cut = std::move(cut);
  station.waitsForCall = station.cut.waitsForCall(walk);
  return &station;
}

BackwardStation *BackwardPlan::afterHooks(BackwardStation *station, const BackwardWalk &walk) {
  if (!station->afterHooks)
    station->afterHooks = at(station->cut.afterHooks(), walk);
  return station->afterHooks;
}

BackwardStation *BackwardPlan::afterLeaf(BackwardStation *station, const BackwardWalk &walk) {
  if (!station->afterLeaf) {
    std::vector<uint32_t> kept;
    station->afterLeaf = at(station->cut.afterLeaf(kept), walk);
    station->kept = std::move(kept);
  }
  return station->afterLeaf;
}

BackwardStation *BackwardPlan::afterRun(BackwardStation *station, const std::vector<bool> &defined,
                                        const BackwardWalk &walk) {
  if (!station->afterRun || station->afterRun->cut.ran->defined != defined) {
    std::vector<uint32_t> kept;
    station->afterRun = at(station->cut.afterRun(defined, kept), walk);
    station->kept = std::move(kept);
  }
  return station->afterRun;
}

} // namespace terra::frontend
