#include "passes/KernelAnalysis.h"

#include "passes/Domain.h"
#include "passes/ExprBuilder.h"

using namespace mlir;

namespace terra::passes {

FailureOr<KernelAnalysis> KernelAnalysis::run(ir::KernelOp kernel) {
  KernelAnalysis analysis;
  analysis.sizes.assign(kernel.getDomain().begin(), kernel.getDomain().end());
  if (analysis.sizes.size() > 16)
    return failure();
  for (int64_t dim : kernel.getReduced())
    analysis.reduced |= 1u << dim;
  analysis.tasks = kernel.getTasks().value_or(0);
  for (auto write : kernel.getBody().getOps<ir::WriteOp>())
    if (failed(analysis.addWrite(write)))
      return failure();
  for (auto accumulate : kernel.getBody().getOps<ir::AccumulateOp>())
    if (failed(analysis.addAccumulate(accumulate)))
      return failure();
  return analysis;
}

LogicalResult KernelAnalysis::addWrite(ir::WriteOp write) {
  ArrayRef<int64_t> shape = tensorType(write.getValue()).getShape();
  SmallVector<unsigned> all, kept;
  int64_t keptNumel = 1;
  for (unsigned d = 0; d < sizes.size(); ++d) {
    all.push_back(d);
    if (!(reduced >> d & 1)) {
      kept.push_back(d);
      keptNumel *= sizes[d];
    }
  }
  int64_t numel = numElements(shape);
  KernelWrite out;
  out.op = write;
  out.full = numel == numElements(sizes);
  if (!out.full && numel != keptNumel)
    return failure();
  FailureOr<Alignment> alignment = regroup(out.full ? all : kept, shape);
  if (failed(alignment))
    return failure();
  FailureOr<unsigned> node = visit(write.getValue(), *alignment);
  if (failed(node))
    return failure();
  out.node = *node;
  out.strides = stridesOf(write.getStrides(), *alignment);
  if (tasks && write.getSlot().getDefiningOp<ir::ScratchOp>())
    out.perTask = numel;
  writes.push_back(std::move(out));
  return success();
}

/// One element for each index of the reduced dimensions, in row-major order.
LogicalResult KernelAnalysis::addAccumulate(ir::AccumulateOp accumulate) {
  SmallVector<unsigned> all(llvm::to_vector(llvm::seq<unsigned>(0, unsigned(sizes.size()))));
  FailureOr<Alignment> alignment = regroup(all, tensorType(accumulate.getValue()).getShape());
  if (failed(alignment))
    return failure();
  FailureOr<unsigned> node = visit(accumulate.getValue(), *alignment);
  if (failed(node))
    return failure();
  KernelWrite out{accumulate, *node, true, SmallVector<int64_t, 4>(sizes.size(), 0), 1};
  for (unsigned d : llvm::reverse(all))
    if (reduced >> d & 1) {
      out.strides[d] = out.perTask;
      out.perTask *= sizes[d];
    }
  writes.push_back(std::move(out));
  return success();
}

FailureOr<Alignment> KernelAnalysis::regroup(ArrayRef<unsigned> dims, ArrayRef<int64_t> shape) const {
  Alignment alignment;
  for (int64_t size : shape) {
    DimList list;
    for (int64_t product = 1; product != size;) {
      if (dims.empty() || product > size)
        return failure();
      product *= sizes[dims.front()];
      list.push_back(dims.front());
      dims = dims.drop_front();
    }
    alignment.push_back(std::move(list));
  }
  for (unsigned rest : dims)
    if (sizes[rest] != 1)
      return failure();
  return alignment;
}

SmallVector<int64_t, 4> KernelAnalysis::stridesOf(ArrayRef<int64_t> strides, const Alignment &alignment) const {
  SmallVector<int64_t, 4> result(sizes.size(), 0);
  for (auto [stride, list] : llvm::zip(strides, alignment)) {
    int64_t step = stride;
    for (unsigned dim : llvm::reverse(list)) {
      result[dim] += step;
      step *= sizes[dim];
    }
  }
  return result;
}

/// What an index of each dimension adds to the address that is read, or to the number that is counted.
static SmallVector<int64_t> indexStrides(Operation *op) {
  if (auto read = dyn_cast<ir::ReadOp>(op))
    return SmallVector<int64_t>(read.getStrides());
  auto iota = cast<ir::IotaOp>(op);
  SmallVector<int64_t> strides(tensorType(iota.getResult()).getRank(), 0);
  strides[iota.getDim()] = 1;
  return strides;
}

FailureOr<unsigned> KernelAnalysis::visit(Value value, const Alignment &alignment) {
  auto key = std::pair(value.getAsOpaquePointer(), alignment);
  if (auto it = seen_.find(key); it != seen_.end())
    return it->second;
  KernelNode node;
  node.value = value;
  node.op = value.getDefiningOp();
  if (!node.op || failed(visitOperands(node, alignment)))
    return failure();
  for (unsigned operand : node.operands) {
    node.varies |= nodes[operand].varies;
    node.stage = std::max(node.stage, nodes[operand].stage);
  }
  if (isa<ir::ReadOp, ir::IotaOp>(node.op)) {
    node.strides = stridesOf(indexStrides(node.op), alignment);
    for (unsigned d = 0; d < sizes.size(); ++d)
      node.varies |= node.strides[d] != 0 ? 1u << d : 0;
  }
  if (isa<ir::Reduction>(node.op)) {
    node.varies &= ~reduced;
    node.stage += 1;
  }
  nodes.push_back(std::move(node));
  return seen_[key] = unsigned(nodes.size() - 1);
}

LogicalResult KernelAnalysis::visitOperands(KernelNode &node, const Alignment &alignment) {
  auto add = [&](Value operand, const Alignment &a) -> LogicalResult {
    FailureOr<unsigned> index = visit(operand, a);
    if (failed(index))
      return failure();
    node.operands.push_back(*index);
    return success();
  };
  if (isa<ir::ReadOp, ir::ConstantOp, ir::FeedOp, ir::IotaOp>(node.op))
    return success();
  if (auto reshape = dyn_cast<ir::ReshapeOp>(node.op)) {
    SmallVector<unsigned> flat;
    for (const DimList &list : alignment)
      flat.append(list.begin(), list.end());
    FailureOr<Alignment> inner = regroup(flat, tensorType(reshape.getInput()).getShape());
    return failed(inner) ? failure() : add(reshape.getInput(), *inner);
  }
  if (isa<ir::Reduction>(node.op)) {
    // The operand spans the whole domain; what is kept must be where the result says.
    SmallVector<unsigned> all(llvm::to_vector(llvm::seq<unsigned>(0, unsigned(sizes.size()))));
    FailureOr<Alignment> inner = regroup(all, tensorType(node.op->getOperand(0)).getShape());
    if (failed(inner))
      return failure();
    uint32_t mine = 0;
    ArrayRef<int64_t> dims = cast<ir::Reduction>(node.op).getDims();
    for (auto [d, list] : llvm::enumerate(*inner)) {
      if (!llvm::is_contained(dims, int64_t(d))) {
        if (list != alignment[d])
          return failure();
        continue;
      }
      for (unsigned dim : list)
        mine |= 1u << dim;
    }
    for (unsigned d = 0; d < sizes.size(); ++d)
      if (sizes[d] != 1 && ((mine ^ reduced) >> d & 1))
        return failure();
    return add(node.op->getOperand(0), *inner);
  }
  if (!isa<ir::Elementwise, ir::CastOp>(node.op))
    return failure();
  for (Value operand : node.op->getOperands()) {
    ArrayRef<int64_t> shape = tensorType(operand).getShape();
    Alignment inner(alignment.end() - ptrdiff_t(shape.size()), alignment.end());
    for (auto [size, list] : llvm::zip(shape, inner))
      if (size == 1)
        list.clear();
    if (failed(add(operand, inner)))
      return failure();
  }
  return success();
}

} // namespace terra::passes
