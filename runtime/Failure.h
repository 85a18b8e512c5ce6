// The error that ended a region's queued work.
#pragma once

#include <atomic>
#include <exception>
#include <string>
#include <thread>

namespace terra::runtime {

/// The first error that an instruction of a region raised. Later instructions of the region are dropped.
struct Failure {
  std::atomic<bool> failed{false};
  std::exception_ptr error; ///< valid once `failed`
  std::string op, location;
  /// Raised on the thread whose region failed, and on any thread. One that met the error first does not take it from the other.
  std::atomic<bool> delivered{false}, seen{false};
  const std::thread::id owner = std::this_thread::get_id();

  /// Whether the calling thread has still to be told.
  bool pending() const {
    return failed.load(std::memory_order_acquire) &&
           !(owner == std::this_thread::get_id() ? delivered.load() : seen.load());
  }
  void markDelivered() {
    seen.store(true);
    if (owner == std::this_thread::get_id())
      delivered.store(true);
  }
  [[noreturn]] void deliver() {
    markDelivered();
    std::rethrow_exception(error);
  }
};

} // namespace terra::runtime
