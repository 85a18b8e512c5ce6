#include "passes/KernelPlan.h"

using namespace mlir;

namespace terra::passes {

namespace {

using Strides = ArrayRef<int64_t>;

constexpr int64_t kTileRows = 32;
constexpr int64_t kWorthTiles = 16; // elements of a cache line

/// The access that decides the order: the first write of the whole domain, else the read that varies most.
Strides primaryAccess(const KernelAnalysis &a) {
  for (const KernelWrite &write : a.writes)
    if (write.full && !write.accumulates())
      return write.strides;
  const KernelNode *best = nullptr;
  for (const KernelNode &node : a.nodes)
    if (!node.strides.empty() && (!best || llvm::popcount(node.varies) > llvm::popcount(best->varies)))
      best = &node;
  if (best)
    return best->strides;
  return a.writes.empty() ? Strides() : Strides(a.writes.front().strides);
}

bool mergeable(const KernelAnalysis &a, unsigned outer, unsigned inner) {
  auto fits = [&](Strides s) { return s.empty() || s[outer] == s[inner] * a.sizes[inner]; };
  return llvm::all_of(a.nodes, [&](const KernelNode &n) { return fits(n.strides); }) &&
         llvm::all_of(a.writes, [&](const KernelWrite &w) { return fits(w.strides); });
}

SmallVector<PlannedLoop, 4> loops(const KernelAnalysis &a, Strides primary, bool reduced) {
  SmallVector<unsigned> dims;
  for (unsigned d = 0; d < a.sizes.size(); ++d)
    if (a.sizes[d] > 1 && bool(a.reduced >> d & 1) == reduced)
      dims.push_back(d);
  auto key = [&](unsigned d) { return primary.empty() || primary[d] == 0 ? INT64_MAX : primary[d]; };
  llvm::stable_sort(dims, [&](unsigned x, unsigned y) { return key(x) > key(y); });
  SmallVector<PlannedLoop, 4> result;
  for (unsigned d : dims) {
    // A merged pair must have strides in the proportion of the inner one's size, counted over the merged size.
    if (!result.empty() && mergeable(a, result.back().dim, d))
      result.back() = {result.back().size * a.sizes[d], d};
    else
      result.push_back({a.sizes[d], d});
  }
  return result;
}

int64_t product(ArrayRef<PlannedLoop> loops) {
  int64_t n = 1;
  for (const PlannedLoop &loop : loops)
    n *= loop.size;
  return n;
}

} // namespace

ArrayRef<PlannedLoop> KernelPlan::parallel() const {
  if (shape == Shape::Rows)
    return kept;
  return innerIsParallel() ? ArrayRef<PlannedLoop>(kept) : ArrayRef<PlannedLoop>(kept).drop_back();
}

int64_t KernelPlan::keptExtent() const { return product(parallel()); }
int64_t KernelPlan::reducedNumel() const { return product(reduced); }

bool KernelPlan::isTransposed(ArrayRef<int64_t> strides) const {
  return !strides.empty() && strides[outer().dim] == 1 && strides[inner().dim] > kWorthTiles;
}

/// Whether tiles are worth their loops.
bool KernelPlan::isTransposed(const KernelAnalysis &a) const {
  if (shape != Shape::Map || kept.size() < 2 || outer().size < kWorthTiles || inner().size < kWorthTiles)
    return false;
  return llvm::any_of(a.nodes, [&](const KernelNode &n) { return isTransposed(n.strides); }) ||
         llvm::any_of(a.writes, [&](const KernelWrite &w) { return isTransposed(w.strides); });
}

KernelPlan::KernelPlan(const KernelAnalysis &a) {
  Strides primary = primaryAccess(a);
  kept = loops(a, primary, false);
  reduced = loops(a, primary, true);
  if (kept.empty() && reduced.empty())
    kept.push_back({1, 0});
  if (!reduced.empty()) {
    bool keptIsFaster = !kept.empty() && kept.back().size >= 8 && primary[kept.back().dim] != 0 &&
                        primary[kept.back().dim] < primary[reduced.back().dim];
    shape = keptIsFaster ? Shape::Columns : Shape::Rows;
  }
  tasks = a.tasks;
  extent = keptExtent();
  if (isTransposed(a)) {
    tileRows = kTileRows;
    extent = extent / outer().size * llvm::divideCeil(outer().size, tileRows);
  }
  if (tasks) {
    int64_t divided = a.accumulates() ? extent : reduced.front().size;
    part = (divided + tasks - 1) / tasks;
    extent = a.accumulates() ? tasks : extent * tasks;
  }
  constexpr int64_t worthAThread = 32768; // elements
  int64_t each = std::max<int64_t>(1, product(kept) * product(reduced) / extent);
  grain = std::max<int64_t>(innerIsParallel() ? 64 : 1, (worthAThread + each - 1) / each);
  for (const KernelNode &node : a.nodes)
    if (isa<ir::Reduction>(node.op))
      lastStage = std::max(lastStage, node.stage - 1);
  for (const KernelWrite &write : a.writes)
    if (write.full)
      lastStage = std::max(lastStage, a.nodes[write.node].stage);
}

} // namespace terra::passes
