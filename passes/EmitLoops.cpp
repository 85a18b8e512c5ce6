// Maps and row reductions.
#include "passes/KernelEmitter.h"

#include "passes/ExprBuilder.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;

namespace terra::passes {

namespace {
constexpr int64_t kChunk = 1024;        // elements summed before they join the total: bounds the rounding error
constexpr int64_t kFetchedAhead = 256;  // elements of the next row that are asked for at once: few enough not to wait
constexpr int64_t kMaxFetchedAhead = 1 << 18; // bytes of a row that a near cache holds twice
constexpr int64_t kTileColumns = 64;    // with KernelPlan's rows: what the nearest cache holds
constexpr int64_t kCacheLine = 64;      // bytes
constexpr int64_t kMaxBuffered = 8192;  // elements kept between two passes over a row
constexpr int64_t kSmallBuffer = 1024;  // two lengths of buffers: the code must not depend on each size of a row
} // namespace

KernelEmitter::Values KernelEmitter::emitFor(Value from, Value to, int64_t step, const Values &carried,
                                             const std::function<Values(Value, ValueRange)> &body) {
  auto loop = scf::ForOp::create(b_, loc_, from, to, i64(step), carried);
  OpBuilder::InsertionGuard guard(b_);
  Block *block = loop.getBody();
  if (carried.empty())
    block->getTerminator()->erase();
  b_.setInsertionPointToEnd(block);
  scopes_.emplace_back();
  Values results = body(loop.getInductionVar(), loop.getRegionIterArgs());
  scopes_.pop_back();
  scf::YieldOp::create(b_, loc_, results);
  return Values(loop.getResults());
}

Value KernelEmitter::emitFor(Value from, Value to, int64_t step, const std::function<void(Value)> &body) {
  emitFor(from, to, step, {}, [&](Value iv, ValueRange) -> Values {
    body(iv);
    return {};
  });
  return {};
}

void KernelEmitter::setIndices(ArrayRef<PlannedLoop> loops, Value flat) {
  for (size_t i = loops.size(); i-- > 0;) {
    if (i == 0) {
      ivs_[loops[i].dim] = flat;
      break;
    }
    Value length = size(loops[i].size);
    ivs_[loops[i].dim] = arith::RemUIOp::create(b_, loc_, flat, length);
    flat = arith::DivUIOp::create(b_, loc_, flat, length);
  }
}

void KernelEmitter::emitMap() {
  if (plan_.tileRows)
    return emitTiledMap();
  emitFor(begin_, end_, 1, [&](Value p) {
    setIndices(plan_.parallel(), p);
    if (plan_.innerIsParallel()) {
      write(true);
      return;
    }
    emitFor(i64(0), size(plan_.inner().size), 1, [&](Value k) {
      ivs_[plan_.inner().dim] = k;
      write(true);
    });
  });
}

/// Rows and columns in tiles, so that memory that is contiguous along the rows is used by whole cache lines.
void KernelEmitter::emitTiledMap() {
  const PlannedLoop &outer = plan_.outer(), &inner = plan_.inner();
  auto limited = [&](Value from, int64_t step, const int64_t &limit) -> Value {
    return arith::MinSIOp::create(b_, loc_, arith::AddIOp::create(b_, loc_, from, i64(step)), size(limit));
  };
  emitFor(begin_, end_, 1, [&](Value p) {
    Value rounded = arith::AddIOp::create(b_, loc_, size(outer.size), i64(plan_.tileRows - 1));
    Value tiles = arith::DivUIOp::create(b_, loc_, rounded, i64(plan_.tileRows));
    setIndices(plan_.parallel().drop_back(), arith::DivUIOp::create(b_, loc_, p, tiles));
    Value from = arith::MulIOp::create(b_, loc_, arith::RemUIOp::create(b_, loc_, p, tiles), i64(plan_.tileRows));
    Value to = limited(from, plan_.tileRows, outer.size);
    emitFor(i64(0), size(inner.size), kTileColumns, [&](Value column) {
      tileBegin_ = from;
      tileColumn_ = column;
      for (unsigned n = 0; n < a_.nodes.size(); ++n)
        if (isa<ir::ReadOp>(a_.nodes[n].op) && plan_.isTransposed(a_.nodes[n].strides))
          fillTile(n, from, to, column, limited(column, kTileColumns, inner.size));
      emitFor(from, to, 1, [&](Value row) {
        ivs_[outer.dim] = row;
        emitFor(column, limited(column, kTileColumns, inner.size), 1, [&](Value k) {
          ivs_[inner.dim] = k;
          write(true);
        });
      });
    });
  });
}

/// Copies a tile of what is contiguous along the rows, line by line.
void KernelEmitter::fillTile(unsigned n, Value rowBegin, Value rowEnd, Value columnBegin, Value columnEnd) {
  Value &tile = buffers_[n];
  if (!tile)
    tile = allocate(plan_.tileRows * kTileColumns, elementOf(n));
  emitFor(columnBegin, columnEnd, 1, [&](Value column) {
    ivs_[plan_.inner().dim] = column;
    emitFor(rowBegin, rowEnd, 1, [&](Value row) {
      ivs_[plan_.outer().dim] = row;
      store(compute(a_.nodes[n]), tile, tileIndex(), elementOf(n));
    });
  });
  filled_.insert(n);
}

/// The end of a task's part of a loop.
Value KernelEmitter::partEnd(Value from, const int64_t &limit) {
  return arith::MinSIOp::create(b_, loc_, arith::AddIOp::create(b_, loc_, from, size(plan_.part)), size(limit));
}

/// Takes the task from an index of the parallel loop, where the tasks divide what is reduced; returns the rest.
Value KernelEmitter::setTask(Value flat) {
  reducedBegin_ = i64(0);
  if (!plan_.reduced.empty())
    reducedEnd_ = size(plan_.reduced.front().size);
  if (!plan_.tasks)
    return flat;
  Value tasks = size(plan_.tasks);
  task_ = arith::RemUIOp::create(b_, loc_, flat, tasks);
  reducedBegin_ = arith::MulIOp::create(b_, loc_, task_, size(plan_.part));
  reducedEnd_ = partEnd(reducedBegin_, plan_.reduced.front().size);
  return arith::DivUIOp::create(b_, loc_, flat, tasks);
}

void KernelEmitter::emitRows() {
  chooseCached();
  emitFor(begin_, end_, 1, [&](Value p) {
    if (a_.accumulates()) {
      task_ = p;
      emitTask();
      return;
    }
    setIndices(plan_.parallel(), setTask(p));
    emitRow();
  });
}

/// Rows that add to the sums of one task.
void KernelEmitter::emitTask() {
  for (const KernelWrite &w : a_.writes)
    if (w.accumulates())
      emitFor(i64(0), size(w.perTask), 1, [&](Value k) {
        Value first = arith::MulIOp::create(b_, loc_, task_, size(w.perTask));
        store(math_.integerConstant(0, elementOf(w.node)), args_[pointerIndex(pointerOf(w.op))],
              arith::AddIOp::create(b_, loc_, first, k), elementOf(w.node));
      });
  Value from = arith::MulIOp::create(b_, loc_, task_, size(plan_.part));
  emitFor(from, partEnd(from, keptExtent_), 1, [&](Value row) {
    reducedBegin_ = i64(0);
    reducedEnd_ = size(plan_.reduced.front().size);
    setIndices(plan_.parallel(), row);
    emitRow();
  });
}

void KernelEmitter::emitRow() {
  bool fullWrites = llvm::any_of(a_.writes, [](const KernelWrite &w) { return w.full; });
  for (unsigned stage = 0; stage <= plan_.lastStage; ++stage) {
    stage_ = stage;
    evaluateKept(stage);
    bool last = stage == plan_.lastStage;
    SmallVector<unsigned> reductions = reductionsOfStage(stage);
    if (reductions.empty() && !(last && fullWrites))
      continue;
    Values results = emitReducedLoops(0, reductions, last && fullWrites);
    for (auto [n, value] : llvm::zip(reductions, results)) {
      bool anything = isa<ir::MaxOfNumbersOp>(a_.nodes[n].op); // poison where there is a NaN: from here on some number
      scopes_.back()[n] = anything ? throughMemory(value) : math_.finish(a_.nodes[n].op, elementOf(n), value);
    }
    filled_.insert(filling_.begin(), filling_.end()); // what this pass computed is there for the next ones
  }
  write(false);
}

/// The loops from `level` on; returns each reduction's accumulator over them.
KernelEmitter::Values KernelEmitter::emitReducedLoops(unsigned level, ArrayRef<unsigned> reductions, bool writes) {
  const PlannedLoop &loop = plan_.reduced[level];
  bool innermost = level + 1 == plan_.reduced.size();
  Value begin = level ? i64(0) : reducedBegin_, end = level ? size(loop.size) : reducedEnd_;
  Values identities;
  for (unsigned n : reductions)
    identities.push_back(math_.start(a_.nodes[n].op, elementOf(n)));
  auto combineAll = [&](ValueRange carried, const Values &values) {
    Values next;
    for (auto [n, a, x] : llvm::zip(reductions, carried, values))
      next.push_back(math_.join(a_.nodes[n].op, elementOf(n), a, x, false));
    return next;
  };
  if (!innermost)
    return emitFor(begin, end, 1, identities, [&](Value iv, ValueRange carried) {
      ivs_[loop.dim] = iv;
      return combineAll(carried, emitReducedLoops(level + 1, reductions, writes));
    });
  auto inner = [&](Value from, Value to) {
    return emitFor(from, to, 1, identities, [&](Value iv, ValueRange carried) {
      ivs_[loop.dim] = iv;
      return emitReducedBody(reductions, writes, carried);
    });
  };
  if (reductions.empty() || loop.size <= 4 * kChunk)
    return inner(begin, end);
  bool ahead = fetchesAhead();
  int64_t chunk = ahead ? kFetchedAhead : kChunk;
  return emitFor(begin, end, chunk, identities, [&](Value from, ValueRange carried) {
    Value to = arith::MinSIOp::create(b_, loc_, arith::AddIOp::create(b_, loc_, from, i64(chunk)), end);
    if (ahead)
      fetchNextRow(from, to);
    return combineAll(carried, inner(from, to));
  });
}

static int64_t bytesOf(const KernelNode &node) {
  return ScalarMath::memoryType(tensorType(node.value).getElementType()).getIntOrFloatBitWidth() / 8;
}

/// The first pass over a long row waits for memory, the next ones compute on what the caches have. So they ask for the
/// next row, as far as the caches have room for both and for what is written.
bool KernelEmitter::fetchesAhead() const {
  if (stage_ == 0 || plan_.reduced.size() != 1 || plan_.kept.empty() || task_)
    return false;
  int64_t bytes = 0;
  for (const KernelNode &node : a_.nodes)
    if (isRowRead(node))
      bytes += plan_.reducedNumel() * bytesOf(node);
  return bytes > 0 && bytes <= kMaxFetchedAhead;
}

bool KernelEmitter::isRowRead(const KernelNode &node) const {
  return isa<ir::ReadOp>(node.op) && node.strides[plan_.reduced.back().dim] == 1 &&
         node.strides[plan_.kept.back().dim] != 0;
}

void KernelEmitter::fetchNextRow(Value from, Value to) {
  unsigned column = plan_.reduced.back().dim, row = plan_.kept.back().dim;
  for (const KernelNode &node : a_.nodes) {
    if (!isRowRead(node))
      continue;
    Type element = ScalarMath::memoryType(tensorType(node.value).getElementType());
    emitFor(from, to, kCacheLine / bytesOf(node), [&](Value k) {
      ivs_[column] = k;
      Value next = arith::AddIOp::create(b_, loc_, index(node.strides), size(node.strides[row]));
      Value pointer = args_[pointerIndex(pointerOf(node.op))];
      Value address = LLVM::GEPOp::create(b_, loc_, pointer.getType(), element, pointer, ArrayRef<LLVM::GEPArg>{next});
      LLVM::Prefetch::create(b_, loc_, address, /*rw=*/0, /*hint=*/3, /*cache=*/1);
    });
  }
}

KernelEmitter::Values KernelEmitter::emitReducedBody(ArrayRef<unsigned> reductions, bool writes, ValueRange carried) {
  Values next;
  for (auto [n, a] : llvm::zip(reductions, carried)) {
    Value x = eval(a_.nodes[n].operands.front());
    next.push_back(math_.step(a_.nodes[n].op, elementOf(n), a, x));
  }
  if (writes)
    write(true);
  return next;
}

/// Expensive values that several passes over a row need get a buffer of the row's length.
void KernelEmitter::chooseCached() {
  if (plan_.reducedNumel() > kMaxBuffered)
    return;
  llvm::DenseMap<unsigned, unsigned> uses; // in how many passes
  for (unsigned stage = 0; stage <= plan_.lastStage; ++stage) {
    SmallVector<unsigned> work;
    for (unsigned n : reductionsOfStage(stage))
      work.push_back(a_.nodes[n].operands.front());
    if (stage == plan_.lastStage)
      for (const KernelWrite &w : a_.writes)
        if (w.full)
          work.push_back(w.node);
    llvm::DenseSet<unsigned> seen;
    while (!work.empty()) {
      unsigned n = work.pop_back_val();
      if (a_.isKept(n) || !seen.insert(n).second)
        continue;
      ++uses[n];
      work.append(a_.nodes[n].operands.begin(), a_.nodes[n].operands.end());
    }
  }
  for (auto [n, count] : uses)
    if (count > 1 && a_.nodes[n].op->hasTrait<ir::Expensive>())
      buffers_[n] = allocate(plan_.reducedNumel() <= kSmallBuffer ? kSmallBuffer : kMaxBuffered, elementOf(n));
}

} // namespace terra::passes
