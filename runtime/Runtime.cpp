#include "runtime/Runtime.h"

#include "runtime/Session.h"

#include <algorithm>
#include <chrono>

namespace terra::runtime {

namespace {
thread_local double waited = 0;

class WaitTimer {
public:
  ~WaitTimer() { waited += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};
} // namespace

double Runtime::waitedSeconds() { return waited; }

bool Runtime::activate(Session *session) {
  if (disabled_)
    return false;
  const void *first = nullptr;
  if (!firstThread_.compare_exchange_strong(first, &waited) && first != &waited)
    severalThreads_ = true;
  Session *none = nullptr;
  if (!active_.compare_exchange_strong(none, session))
    return false;
  if (unhooked_.load() == 0)
    return true;
  deactivate();
  return false;
}

bool Runtime::beginUnhooked() {
  unhooked_.fetch_add(1);
  if (!active_.load() && !severalThreads_ && runner_.idle())
    return true;
  endUnhooked();
  return false;
}

namespace {
class BlockScope {
public:
  BlockScope(void *(*begin)(), void (*end)(void *)) : end_(end), state_(begin ? begin() : nullptr) {}
  ~BlockScope() {
    if (end_)
      end_(state_);
  }

private:
  void (*end_)(void *);
  void *state_;
};
} // namespace

void Runtime::wait(uint64_t ticket) {
  if (runner_.completedTicket() >= ticket)
    return;
  WaitTimer timer;
  BlockScope scope(blocking_.begin, blocking_.end);
  runner_.waitFor(ticket, blocking_.poll, false);
}

void Runtime::waitLocked(uint64_t ticket) {
  if (runner_.completedTicket() >= ticket)
    return;
  WaitTimer timer;
  runner_.waitFor(ticket, {});
}

void Runtime::waitBuffer(Buffer &buffer) {
  if (buffer.state() != Buffer::State::Pending)
    return;
  WaitTimer timer;
  BlockScope scope(blocking_.begin, blocking_.end);
  runner_.waitFor(buffer, blocking_.poll);
}

bool Runtime::settled(const Buffer &buffer, bool write) const {
  uint64_t last = (write ? buffer.lastUse : buffer.lastWrite).load(std::memory_order_acquire);
  return buffer.state() == Buffer::State::Ready && runner_.completedTicket() >= last;
}

void Runtime::flushIfOpen(uint64_t ticketOrEpoch, bool byEpoch) {
  std::lock_guard guard(lock_);
  if (Session *session = active(); session && session->holdsOpen(ticketOrEpoch, byEpoch))
    session->interrupt();
}

void Runtime::raiseDropped(uint64_t lastTicket) {
  uint64_t failed = runner_.failedTicket();
  if (failed == 0 || lastTicket < failed)
    return;
  for (const auto &failure : takeUndelivered())
    failure->deliver();
  std::lock_guard guard(failuresLock_);
  bool told = std::none_of(failures_.begin(), failures_.end(),
                           [](const auto &f) { return f->failed.load() && !f->delivered.load(); });
  if (told) // else another thread's region failed, and that thread does not know yet
    runner_.forgetFailed(failed);
}

void Runtime::settle(Buffer &buffer, bool write) {
  if (!settled(buffer, write)) {
    if (buffer.state() == Buffer::State::Pending)
      flushIfOpen(buffer.epoch, /*byEpoch=*/true);
    uint64_t last = (write ? buffer.lastUse : buffer.lastWrite).load(std::memory_order_acquire);
    if (runner_.completedTicket() < last) {
      flushIfOpen(last, /*byEpoch=*/false);
      wait(last);
    }
    waitBuffer(buffer);
    if (buffer.state() == Buffer::State::Failed)
      buffer.failure()->deliver();
  }
  raiseDropped(buffer.lastWrite.load(std::memory_order_relaxed));
}

void Runtime::settleRandom() {
  uint64_t ticket = lastRandom_.load(std::memory_order_acquire);
  if (runner_.completedTicket() < ticket) {
    flushIfOpen(ticket, /*byEpoch=*/false);
    wait(ticket);
  }
  raiseDropped(ticket);
}

void Runtime::drain() {
  flushIfOpen(runner_.lastTicket(), /*byEpoch=*/false);
  wait(runner_.lastTicket());
}

void Runtime::synchronize() {
  drain();
  for (const auto &failure : takeUndelivered())
    failure->deliver();
}

void Runtime::keepFailure(std::shared_ptr<Failure> failure) {
  std::lock_guard guard(failuresLock_);
  std::erase_if(failures_,
                [](const auto &f) { return f->delivered.load() || (!f->failed.load() && f.use_count() == 1); });
  failures_.push_back(std::move(failure));
}

std::vector<std::shared_ptr<Failure>> Runtime::takeUndelivered() {
  std::lock_guard guard(failuresLock_);
  std::vector<std::shared_ptr<Failure>> taken;
  for (const auto &failure : failures_)
    if (failure->pending())
      taken.push_back(failure);
  return taken;
}

void Runtime::shutdown() {
  compileQueue_.shutdown();
  runner_.shutdown();
}

void Runtime::forget() {
  compileQueue_.forget();
  runner_.forget();
  disabled_ = true;
  if (Session *session = active())
    session->abandon();
}

} // namespace terra::runtime
