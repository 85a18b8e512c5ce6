// Reductions over slow dimensions: the fast kept dimension is innermost, in tiles with one accumulator a column.
#include "passes/KernelEmitter.h"

#include "passes/ExprBuilder.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;

namespace terra::passes {

namespace {
constexpr int64_t kTile = 512;
constexpr int64_t kChunk = 512; // rows summed before they join the total: bounds the rounding error
} // namespace

/// Where an element of a buffer is: Rows buffer a whole row, Columns a tile of one row, Map a transposed tile.
Value KernelEmitter::tileIndex() {
  if (plan_.shape == Shape::Map) {
    Value column = arith::SubIOp::create(b_, loc_, ivs_[plan_.inner().dim], tileColumn_);
    Value row = arith::SubIOp::create(b_, loc_, ivs_[plan_.outer().dim], tileBegin_);
    return arith::AddIOp::create(b_, loc_, arith::MulIOp::create(b_, loc_, column, i64(plan_.tileRows)), row);
  }
  if (plan_.shape == Shape::Columns)
    return arith::SubIOp::create(b_, loc_, ivs_[plan_.inner().dim], tileBegin_);
  Value at;
  for (const PlannedLoop &loop : plan_.reduced) {
    Value iv = ivs_[loop.dim];
    at = at ? Value(arith::AddIOp::create(b_, loc_, arith::MulIOp::create(b_, loc_, at, size(loop.size)), iv)) : iv;
  }
  return at;
}

void KernelEmitter::emitColumns() {
  const PlannedLoop &inner = plan_.inner();
  auto tiles = [&](Value from, Value to) {
    emitFor(from, to, kTile, [&](Value begin) {
      Value end = arith::MinSIOp::create(b_, loc_, arith::AddIOp::create(b_, loc_, begin, i64(kTile)), to);
      emitTile(begin, end);
    });
  };
  if (plan_.innerIsParallel()) {
    setTask(begin_);
    tiles(begin_, end_);
    return;
  }
  emitFor(begin_, end_, 1, [&](Value p) {
    setIndices(plan_.parallel(), setTask(p));
    tiles(i64(0), size(inner.size));
  });
}

void KernelEmitter::emitTileLoop(const std::function<void()> &body) {
  emitFor(tileBegin_, tileEnd_, 1, [&](Value k) {
    ivs_[plan_.inner().dim] = k;
    body();
  });
}

void KernelEmitter::emitTile(Value from, Value to) {
  tileBegin_ = from;
  tileEnd_ = to;
  // Arrays for reductions, and for what is computed from them and used in later passes.
  for (unsigned n = 0; n < a_.nodes.size(); ++n)
    if (a_.isKept(n) && a_.nodes[n].stage > 0)
      buffers_[n] = allocate(kTile, elementOf(n));
  for (unsigned stage = 0; stage <= plan_.lastStage; ++stage)
    emitColumnStage(stage);
  emitTileLoop([&] { write(false); });
}

void KernelEmitter::emitColumnStage(unsigned stage) {
  SmallVector<unsigned> derived;
  for (unsigned n = 0; n < a_.nodes.size(); ++n)
    if (a_.isKept(n) && a_.nodes[n].stage == stage && stage > 0 && !a_.isReduction(n))
      derived.push_back(n);
  if (!derived.empty()) {
    emitTileLoop([&] {
      for (unsigned n : derived)
        store(eval(n), buffers_[n], tileIndex(), elementOf(n));
    });
    filled_.insert(derived.begin(), derived.end());
  }
  bool writes = stage == plan_.lastStage && llvm::any_of(a_.writes, [](const KernelWrite &w) { return w.full; });
  SmallVector<unsigned> reductions = reductionsOfStage(stage);
  if (reductions.empty() && !writes)
    return;
  emitTileLoop([&] {
    for (unsigned n : reductions)
      store(math_.identity(a_.nodes[n].op, elementOf(n)), buffers_[n], tileIndex(), elementOf(n));
  });
  emitColumnReducedLoops(0, reductions, writes);
  filled_.insert(reductions.begin(), reductions.end());
}

void KernelEmitter::emitColumnReducedLoops(unsigned level, ArrayRef<unsigned> reductions, bool writes) {
  if (level == plan_.reduced.size()) {
    emitTileLoop([&] { emitColumnBody(reductions, writes); });
    return;
  }
  const PlannedLoop &loop = plan_.reduced[level];
  Value begin = level ? i64(0) : reducedBegin_, end = level ? size(loop.size) : reducedEnd_;
  auto rows = [&](Value from, Value to) {
    emitFor(from, to, 1, [&](Value r) {
      ivs_[loop.dim] = r;
      emitColumnReducedLoops(level + 1, reductions, writes);
    });
  };
  if (level > 0 || reductions.empty() || loop.size <= 2 * kChunk)
    return rows(begin, end);
  for (unsigned n : reductions)
    partial_[n] = allocate(kTile, elementOf(n));
  emitFor(begin, end, kChunk, [&](Value from) {
    emitTileLoop([&] {
      for (unsigned n : reductions)
        store(math_.identity(a_.nodes[n].op, elementOf(n)), partial_[n], tileIndex(), elementOf(n));
    });
    rows(from, arith::MinSIOp::create(b_, loc_, arith::AddIOp::create(b_, loc_, from, i64(kChunk)), end));
    emitTileLoop([&] {
      for (unsigned n : reductions) {
        Value total = load(buffers_[n], tileIndex(), elementOf(n)), part = load(partial_[n], tileIndex(), elementOf(n));
        store(math_.combine(a_.nodes[n].op, elementOf(n), total, part), buffers_[n], tileIndex(), elementOf(n));
      }
    });
  });
  partial_.clear();
}

void KernelEmitter::emitColumnBody(ArrayRef<unsigned> reductions, bool writes) {
  SmallVector<Value> next;
  for (unsigned n : reductions) {
    Value buffer = partial_.contains(n) ? partial_[n] : buffers_[n];
    Value x = eval(a_.nodes[n].operands.front());
    next.push_back(math_.combine(a_.nodes[n].op, elementOf(n), load(buffer, tileIndex(), elementOf(n)), x));
  }
  for (auto [n, value] : llvm::zip(reductions, next)) {
    Value buffer = partial_.contains(n) ? partial_[n] : buffers_[n];
    store(value, buffer, tileIndex(), elementOf(n));
  }
  if (writes)
    write(true);
}

} // namespace terra::passes
