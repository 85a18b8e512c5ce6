// The pace of a function, applied: which calls go with the graph, and what has to happen before one goes without.
#pragma once

#include "runtime/Pace.h"

#include <atomic>
#include <thread>

namespace terra::runtime {

class Runtime;
class Session;

class Pacing {
public:
  enum class Way : uint8_t {
    Graph, ///< begin a region
    Eager, ///< run it without one; what the function had queued has been computed
    Inside ///< another thread is in a call of the function: as `Eager`, and not counted
  };

  Pacing(Runtime &runtime, Session &session);

  /// A call begins. After Graph and Eager, `leave` follows. Throws the error of a region that failed unseen.
  Way enter();
  /// The call is over. `whole`: it was a region or an eager call, and no exception left it.
  void leave(bool whole);

  Pace::Summary summary() const { return pace_.summary(); }
  /// So many calls are run eagerly, from the next one on.
  void forceEager(uint64_t calls) { pace_.force(calls); }

private:
  Pace::Way next();
  void waitForQueued();

  Runtime &runtime_;
  Session &session_;
  Pace pace_;
  std::atomic<bool> inCall_{false};
  bool graph_ = false;      ///< the call under way is a region
  uint64_t lastTicket_ = 0; ///< when the last region ended
  std::thread::id thread_;  ///< of the last call
};

} // namespace terra::runtime
