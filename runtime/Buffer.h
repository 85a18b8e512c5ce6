// A storage as the graph sees it: identity, memory and state, shared by the program's storage and by queued work.
#pragma once

#include "graph/StorageTag.h"
#include "graph/Types.h"
#include "runtime/Failure.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace terra::runtime {

/// Memory with its owner. `release(owner)` frees it.
struct Memory {
  void *data = nullptr;
  void *owner = nullptr;
  void (*release)(void *) = nullptr;
};

/// Where the storages of one run note the first event that found them dropped by the program.
using DeathTable = std::vector<std::atomic<uint32_t>>;

/// Reference counted; the program's storage holds one reference, every run that uses the storage another.
///
/// Two things look at a buffer: the program, through its own storage object, on Python's threads; and the GraphRunner. The runner
/// never touches the program's storage object. A buffer made by the graph starts `Pending`; the runner gives it memory
/// and turns it `Ready` (or `Failed`); whoever in the program needs the data waits for that and then installs `data` in its
/// storage object.
class Buffer final : public graph::StorageTag {
public:
  enum class State : uint8_t { Ready, Pending, Failed };

  /// Memory that exists already (a storage of the program).
  Buffer(Memory memory, size_t bytes, Device device) : memory_(memory), bytes_(bytes), device_(device) {}
  /// Promised by the graph.
  Buffer(size_t bytes, Device device) : state_(State::Pending), bytes_(bytes), device_(device) {}
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;

  static void *operator new(size_t size);
  static void operator delete(void *block);

  void retain() { refs_.fetch_add(1, std::memory_order_relaxed); }
  void release() {
    if (refs_.fetch_sub(1, std::memory_order_acq_rel) == 1)
      delete this;
  }

  State state() const { return state_.load(std::memory_order_acquire); }
  void *data() const { return memory_.data; }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

  /// By the runner: the promise is kept.
  void fulfil(Memory memory) {
    memory_ = memory;
    state_.store(State::Ready, std::memory_order_release);
  }
  /// By the runner: memory first, so that a kernel can fill it; `ready` follows.
  void setMemory(Memory memory) { memory_ = memory; }
  void ready() { state_.store(State::Ready, std::memory_order_release); }
  void fail(std::shared_ptr<Failure> failure) {
    failure_ = std::move(failure);
    state_.store(State::Failed, std::memory_order_release);
  }
  const std::shared_ptr<Failure> &failure() const { return failure_; }

  /// The program's storage object is gone; `event` is the position of the event under way, which may have needed it.
  void die(uint32_t event) {
    if (deaths_)
      (*deaths_)[deathSlot_].store(event + 1, std::memory_order_relaxed);
    alive_.store(false, std::memory_order_release);
  }
  bool alive() const { return alive_.load(std::memory_order_acquire); }
  void noteDeathIn(std::shared_ptr<DeathTable> deaths, uint32_t slot) {
    deaths_ = std::move(deaths);
    deathSlot_ = slot;
  }

  /// Ticket of the last run that uses this storage; work outside the queue waits for it.
  std::atomic<uint64_t> lastUse{0};
  /// Ticket of the last run that writes it after it was made.
  std::atomic<uint64_t> lastWrite{0};
  /// The runner's own handle on the storage (owned by the host), made when first needed.
  void *hostStorage = nullptr;
  void (*freeHostStorage)(void *) = nullptr;
  /// The program's storage object has been given `data`.
  std::atomic<bool> installed{false};
  /// Made or written by a recorded or recognised event.
  bool graphBorn = false;
  /// Its memory was handed to someone who can write it without an op (a NumPy array).
  bool exposed = false;
  /// The last region in which an event touched it.
  uint64_t region = 0;

private:
  ~Buffer();

  std::atomic<uint32_t> refs_{1};
  std::atomic<State> state_{State::Ready};
  std::atomic<bool> alive_{true};
  std::shared_ptr<DeathTable> deaths_;
  uint32_t deathSlot_ = 0;
  Memory memory_;
  size_t bytes_;
  Device device_;
  std::shared_ptr<Failure> failure_;
};

} // namespace terra::runtime
