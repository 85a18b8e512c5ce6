#include "graph/Guards.h"

#include <algorithm>

namespace terra::graph {

uint32_t guardedOperand(const Event &event) {
  return event.op && event.op->name == "aten::nll_loss_forward" ? 1 : kNoGuard;
}

/// Targets are classes, or the index that is ignored.
bool guardHolds(const Event &event, const void *data) {
  const auto *targets = static_cast<const int64_t *>(data);
  const TensorMeta &meta = event.inputs[1].meta;
  int64_t classes = event.inputs[0].meta.sizes().back(), ignored = event.args[4].scalar.i;
  return std::all_of(targets, targets + meta.numel(),
                     [&](int64_t t) { return t == ignored || (t >= 0 && t < classes); });
}

} // namespace terra::graph
