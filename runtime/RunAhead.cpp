#include "runtime/RunAhead.h"

#include <algorithm>

namespace terra::runtime {

namespace {
constexpr double kQueuedSeconds = 2e-3;
}

uint64_t RunAhead::enter(uint64_t last, uint64_t completed, double busySeconds) {
  for (; !ends_.empty() && ends_.front() <= completed; ends_.pop_front())
    ++finished_;
  if (last > completed && (ends_.empty() || ends_.back() != last))
    ends_.push_back(last);
  if (ends_.size() <= limit_)
    return 0;
  if (finished_ != 0) {
    double each = std::max((busySeconds - busyBefore_) / double(finished_), 1e-6);
    limit_ = std::clamp(size_t(kQueuedSeconds / each), size_t(1), kMaxRegions);
  }
  finished_ = 0;
  busyBefore_ = busySeconds;
  size_t keep = std::max(limit_ / 2, size_t(1));
  return ends_.size() > keep ? ends_[ends_.size() - 1 - keep] : 0;
}

} // namespace terra::runtime
