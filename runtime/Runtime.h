// What a process has one of: the GraphRunner, the CompileQueue, the active session.
#pragma once

#include "runtime/CompileQueue.h"
#include "runtime/GraphRunner.h"
#include "runtime/PaceTurn.h"
#include "runtime/RegionLock.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

namespace terra::runtime {

class Session;

class Runtime {
public:
  explicit Runtime(Host &host) : runner_(host) {}
  ~Runtime() { shutdown(); }

  GraphRunner &runner() { return runner_; }
  CompileQueue &compileQueue() { return compileQueue_; }

  /// Epochs mark walks and traces; never 0.
  uint64_t newEpoch() { return epoch_.fetch_add(1, std::memory_order_relaxed); }

  /// Held while a session looks at an event, and by whoever flushes it from another thread.
  RegionLock &lock() { return lock_; }

  /// At most one region co-executes or records at a time; others run as eager. False when there is one already.
  bool activate(Session *session);
  void deactivate() { active_.store(nullptr, std::memory_order_release); }
  /// While some thread does without the hook no region begins anywhere. Not possible while work is queued, nor once several threads
  /// have begun regions: what one promises reaches the others.
  bool beginUnhooked();
  void endUnhooked() { unhooked_.fetch_sub(1); }
  PaceTurn &paceTurn() { return paceTurn_; }
  Session *active() const { return active_.load(std::memory_order_acquire); }

  /// Before work outside the queue reads (or writes) a storage: waits for the queued writes (and reads) of it, flushing the
  /// active session where they have not been queued yet. Throws the error of a region that failed to compute it.
  void settle(Buffer &buffer, bool write);
  /// Before the default generator is used or looked at outside the queue.
  void settleRandom();
  bool settled(const Buffer &buffer, bool write) const;
  /// Waits for all queued work. `synchronize` also raises the error of a region that failed unseen.
  void drain();
  void synchronize();
  /// True while some work is queued or not yet queued.
  bool pending() const { return active() || !runner_.idle(); }

  void noteRandom(uint64_t ticket) { lastRandom_.store(ticket, std::memory_order_release); }
  /// What a blocking thread does around a wait (gives back the interpreter's lock) and during it (checks for signals).
  struct Blocking {
    void *(*begin)() = nullptr;
    void (*end)(void *) = nullptr;
    GraphRunner::Poll poll;
  };
  void setBlocking(Blocking blocking) { blocking_ = std::move(blocking); }
  /// Seconds that the calling thread has waited in `settle` and friends so far.
  static double waitedSeconds();
  /// Gives the processor up at once: the graph has more than this to do.
  void wait(uint64_t ticket);
  /// The same while `lock()` is held: never asks for the interpreter's lock, whose owner may be waiting for `lock()`.
  void waitLocked(uint64_t ticket);

  /// Keeps a region's failure until it has been delivered; `takeUndelivered` lists what nobody waited for.
  void keepFailure(std::shared_ptr<Failure> failure);
  std::vector<std::shared_ptr<Failure>> takeUndelivered();

  /// Position of the event under way, for deaths.
  std::atomic<uint32_t> eventIndex{0};
  /// The frontend's running number of autograd nodes made on this thread; null when it has none.
  uint64_t (*sequence)() = nullptr;
  /// The frontend's: the spans of `from` for a segment `to` of the same structure and other sizes, by first event, from its recorded
  /// calls. Nothing when some cannot be told for certain; null when the frontend has none.
  std::optional<std::vector<std::vector<std::shared_ptr<const Span>>>> (*carrySpans)(
      const CompiledSegment &from, const CompiledSegment &to) = nullptr;

  void shutdown();
  /// In a child after fork, where the threads do not exist: everything runs as eager from now on. Drain before forking.
  void forget();

private:
  void waitBuffer(Buffer &buffer);
  /// Work that was dropped because its region failed has left older data behind: raises the error, once, for who is about to
  /// look at what the run `lastTicket` was to compute.
  void raiseDropped(uint64_t lastTicket);
  /// Reports whether the active session had to be flushed.
  void flushIfOpen(uint64_t ticketOrEpoch, bool byEpoch);

  GraphRunner runner_;
  CompileQueue compileQueue_;
  RegionLock lock_;
  std::atomic<Session *> active_{nullptr};
  std::atomic<int> unhooked_{0};
  std::atomic<const void *> firstThread_{nullptr}; ///< that began a region
  std::atomic<bool> severalThreads_{false};
  PaceTurn paceTurn_;
  bool disabled_ = false;
  std::atomic<uint64_t> epoch_{1}, lastRandom_{0};
  Blocking blocking_;
  std::mutex failuresLock_;
  std::vector<std::shared_ptr<Failure>> failures_;
};

} // namespace terra::runtime
