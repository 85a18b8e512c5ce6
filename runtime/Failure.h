// The error that ended a region's queued work.
#pragma once

#include <atomic>
#include <exception>
#include <string>

namespace terra::runtime {

/// The first error that an instruction of a region raised. Later instructions of the region are dropped.
struct Failure {
  std::atomic<bool> failed{false};
  std::exception_ptr error; ///< valid once `failed`
  std::string op, location;
  std::atomic<bool> delivered{false};

  [[noreturn]] void deliver() {
    delivered.store(true);
    std::rethrow_exception(error);
  }
};

} // namespace terra::runtime
