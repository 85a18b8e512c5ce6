#include "tracer/Dynamic.h"

namespace terra::tracer {

namespace {
std::atomic<bool> any{false};
}

void markDynamic(const graph::Op &op) {
  op.dynamic.store(true, std::memory_order_relaxed);
  any.store(true, std::memory_order_release);
}

bool anyDynamic() { return any.load(std::memory_order_relaxed); }

} // namespace terra::tracer
