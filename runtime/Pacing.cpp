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
    : runtime_(runtime), session_(session),
      pace_(runtime.paceTurn(), session.options().neverSlower && !session.options().recordOnly) {}

Pacing::Way Pacing::enter() {
  if (inCall_.exchange(true, std::memory_order_acquire))
    return Way::Inside;
  graph_ = next() == Pace::Way::Graph;
  if (graph_)
    return Way::Graph;
  try {
    waitForQueued();
  } catch (...) {
    leave(false);
    throw;
  }
  return Way::Eager;
}

Pace::Way Pacing::next() {
  if (std::thread::id thread = std::this_thread::get_id(); thread != thread_) {
    pace_.interrupt();
    thread_ = thread;
  }
  return pace_.begin(clock(), session_.compileStats().pending.load() == 0);
}

void Pacing::leave(bool whole) {
  if (graph_)
    lastTicket_ = runtime_.runner().lastTicket();
  pace_.end(clock(), whole);
  inCall_.store(false, std::memory_order_release);
}

void Pacing::waitForQueued() {
  if (runtime_.runner().completedTicket() < lastTicket_) {
    runtime_.wait(lastTicket_);
    BlockCache::get().trim(); // memory of the graph's and of PyTorch's would be a higher peak than either
  }
  for (const auto &failure : runtime_.takeUndelivered())
    failure->deliver();
}

} // namespace terra::runtime
