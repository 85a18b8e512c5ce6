#include "runtime/Pacing.h"

#include "runtime/BlockCache.h"
#include "runtime/Session.h"

#include <chrono>

namespace terra::runtime {

namespace {
Pace::Clock clock() {
  auto now = std::chrono::steady_clock::now().time_since_epoch();
  return {std::chrono::duration<double>(now).count(), Runtime::waitedSeconds()};
}
} // namespace

Pacing::Pacing(Runtime &runtime, Session &session)
    : runtime_(runtime), session_(session), pace_(session.options().neverSlower && !session.options().recordOnly) {}

Pacing::Way Pacing::enter() {
  if (inCall_.exchange(true, std::memory_order_acquire))
    return Way::Inside;
  if (pace_.begin(clock(), session_.steady()) == Pace::Way::Graph)
    return Way::Graph;
  try {
    waitForQueued();
  } catch (...) {
    leave(false);
    throw;
  }
  pace_.beginEager(clock());
  return Way::Eager;
}

void Pacing::leave(bool whole) {
  lastTicket_ = runtime_.runner().lastTicket();
  pace_.end(clock(), whole);
  inCall_.store(false, std::memory_order_release);
}

void Pacing::waitForQueued() {
  for (const auto &failure : runtime_.takeUndelivered())
    failure->deliver();
  if (runtime_.runner().completedTicket() >= lastTicket_)
    return;
  runtime_.wait(lastTicket_);
  BlockCache::get().trim(); // memory of the graph's and of PyTorch's would be a higher peak than either
}

} // namespace terra::runtime
