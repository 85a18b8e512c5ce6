#include "frontend/torch/CallBuilder.h"

#include "frontend/torch/Frontend.h"
#include "frontend/torch/HostCall.h"
#include "frontend/torch/WholeCalls.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

namespace terra::frontend {

using graph::ArgKind;
using runtime::Buffer;
using tracer::ArgView;
using tracer::TensorView;

namespace {
/// Foreign memory up to this size is copied when it is fed; an op on more runs at once.
constexpr size_t kMaxSnapshotBytes = 4u << 20;
thread_local bool numbersAreCopied = false;
thread_local std::vector<runtime::BufferRef> *notedNumbers = nullptr;
} // namespace

CallBuilder::Kind CallBuilder::build(const OpEntry &entry, const torch::jit::Stack &stack, graph::Context context) {
  args_.clear();
  tensors_.clear();
  impls_.clear();
  written_.clear();
  ints_.clear();
  doubles_.clear();
  snapshots_.clear();
  plain_ = onlyScalars_ = true;
  generator_ = anyTensor_ = false;
  viewOnly_ = entry.op.has(graph::kOpViewOnly);
  const c10::IValue *values = stack.data() + (stack.size() - entry.numArgs);
  for (uint32_t i = 0; i < entry.numArgs; ++i)
    addArg(entry, values[i], i);
  fixPointers();
  view_.op = &entry.op;
  view_.args = args_.data();
  view_.numArgs = entry.numArgs;
  view_.tensors = tensors_.data();
  view_.numTensors = uint32_t(tensors_.size());
  view_.context = context;
  view_.whole = currentWhole();
  view_.hostCall = values;
  view_.opaqueEqual = &opaqueEqual;
  bool scalarFactory =
      entry.makesScalarsOnly && !anyTensor_ && (args_[0].kind != ArgKind::IntList || args_[0].count == 0);
  if (!plain_ || (anyTensor_ && onlyScalars_) || scalarFactory || (generator_ && !anyTensor_))
    return Kind::Immediate;
  return generator_ ? Kind::Gate : Kind::Event;
}

c10::SmallVector<c10::intrusive_ptr<c10::TensorImpl>, 8> CallBuilder::holdOperands() const {
  c10::SmallVector<c10::intrusive_ptr<c10::TensorImpl>, 8> operands;
  operands.reserve(impls_.size());
  for (c10::TensorImpl *impl : impls_)
    operands.push_back(impl ? c10::intrusive_ptr<c10::TensorImpl>::reclaim_copy(impl)
                            : c10::intrusive_ptr<c10::TensorImpl>());
  return operands;
}

/// Lists were stored as offsets while the vectors could still move.
void CallBuilder::fixPointers() {
  for (ArgView &arg : args_) {
    if (arg.kind == ArgKind::IntList || arg.kind == ArgKind::BoolList)
      arg.ints = ints_.data() + arg.first;
    else if (arg.kind == ArgKind::DoubleList)
      arg.doubles = doubles_.data() + arg.first;
  }
}

bool CallBuilder::addNumber(const at::Tensor &tensor, ArgView &arg) {
  const c10::TensorImpl &impl = *tensor.unsafeGetTensorImpl();
  if (!impl.is_wrapped_number() || impl.dim() != 0)
    return false;
  const void *data = impl.data();
  switch (c10::typeMetaToScalarType(impl.dtype())) {
  case c10::ScalarType::Double:
    arg.kind = ArgKind::NumberDouble;
    std::memcpy(&arg.scalar.d, data, sizeof(double));
    return true;
  case c10::ScalarType::Long:
    arg.kind = ArgKind::NumberInt;
    std::memcpy(&arg.scalar.i, data, sizeof(int64_t));
    return true;
  case c10::ScalarType::Bool:
    arg.kind = ArgKind::NumberBool;
    arg.scalar.i = *static_cast<const bool *>(data);
    return true;
  default:
    return false;
  }
}

void CallBuilder::addArg(const OpEntry &entry, const c10::IValue &value, uint32_t index) {
  ArgView arg;
  bool written = entry.op.params[index].written;
  if (value.isTensor()) {
    const at::Tensor &tensor = value.toTensor();
    if (!tensor.defined()) {
      arg.kind = ArgKind::None;
    } else if (!written && addNumber(tensor, arg)) {
      anyTensor_ = true;
    } else {
      arg.kind = ArgKind::Tensor;
      arg.first = uint32_t(tensors_.size());
      arg.count = 1;
      addTensor(tensor, written);
    }
  } else if (entry.listArgs[index] && value.isList()) {
    arg.kind = ArgKind::TensorList;
    arg.first = uint32_t(tensors_.size());
    for (const c10::IValue &element : value.toListRef()) {
      static const at::Tensor undefined;
      addTensor(element.isTensor() ? element.toTensor() : undefined, written);
    }
    arg.count = uint32_t(tensors_.size()) - arg.first;
  } else if (value.isNone()) {
    arg.kind = ArgKind::None;
  } else if (value.isInt()) {
    arg.kind = ArgKind::Int;
    arg.scalar.i = value.toInt();
  } else if (value.isDouble()) {
    arg.kind = ArgKind::Double;
    arg.scalar.d = value.toDouble();
  } else if (value.isBool()) {
    arg.kind = ArgKind::Bool;
    arg.scalar.i = value.toBool();
  } else if (value.isList()) {
    addList(value, arg);
  } else if (value.isString()) {
    arg.kind = ArgKind::String;
    arg.string = value.toStringRef();
  } else {
    arg.kind = ArgKind::Opaque;
    if (entry.generatorArgs[index] && !isDefaultGenerator(value)) {
      generator_ = true; // the call is a gate: which generator does not matter
      arg.kind = ArgKind::String;
      arg.string = "a generator";
    } else if (value.isStorage()) { // `set_`: a gate, likewise
      arg.kind = ArgKind::String;
      arg.string = "a storage";
    } else if (value.isObject() && entry.op.has(graph::kOpGate)) { // a process group, a kind of reduction: likewise
      arg.kind = ArgKind::String;
      arg.string = "an object";
    }
  }
  args_.push_back(arg);
}

void CallBuilder::addList(const c10::IValue &value, ArgView &arg) {
  c10::ArrayRef<c10::IValue> elements = value.toListRef();
  arg.count = uint32_t(elements.size());
  arg.kind = ArgKind::IntList;
  arg.first = uint32_t(ints_.size());
  if (elements.empty())
    return;
  auto all = [&](auto is) { return std::all_of(elements.begin(), elements.end(), is); };
  if (all([](const c10::IValue &e) { return e.isInt(); })) {
    for (const c10::IValue &element : elements)
      ints_.push_back(element.toInt());
  } else if (all([](const c10::IValue &e) { return e.isBool(); })) {
    arg.kind = ArgKind::BoolList;
    for (const c10::IValue &element : elements)
      ints_.push_back(element.toBool());
  } else if (all([](const c10::IValue &e) { return e.isDouble(); })) {
    arg.kind = ArgKind::DoubleList;
    arg.first = uint32_t(doubles_.size());
    for (const c10::IValue &element : elements)
      doubles_.push_back(element.toDouble());
  } else {
    arg.kind = ArgKind::Opaque;
  }
}

void CallBuilder::addTensor(const at::Tensor &tensor, bool written) {
  c10::TensorImpl *impl = tensor.defined() ? tensor.unsafeGetTensorImpl() : nullptr;
  impls_.push_back(impl);
  written_.push_back(written);
  TensorView &view = tensors_.emplace_back();
  if (!impl)
    return;
  anyTensor_ = true;
  if (!isPlain(*impl)) {
    plain_ = onlyScalars_ = false;
    return;
  }
  view = viewOf(*impl);
  Buffer *buffer = adopt(*impl->unsafe_storage().unsafeGetStorageImpl());
  if (numbersAreCopied && buffer && !buffer->graphBorn && !written && !viewOnly_ && view.rank == 0 &&
      buffer->bytes() == impl->itemsize())
    buffer = nullptr;
  view.storage = buffer;
  if (!buffer) {
    if (written || viewOnly_)
      plain_ = false;
    else
      snapshot(*impl, view);
  }
  onlyScalars_ &= view.rank == 0 && !(buffer && buffer->graphBorn);
}

void CallBuilder::noteGradients() {
  for (size_t i = 0; i < impls_.size(); ++i)
    tensors_[i].requiresGrad = impls_[i] && impls_[i]->requires_grad();
}

/// Memory that others may write without an op is copied when it is read.
void CallBuilder::snapshot(c10::TensorImpl &impl, TensorView &view) {
  size_t bytes = impl.unsafe_storage().nbytes();
  if (bytes > kMaxSnapshotBytes) {
    plain_ = false;
    return;
  }
  settle(runtimeInstance(), impl, /*write=*/false);
  runtime::Memory memory = hostAllocate(bytes);
  if (bytes)
    std::memcpy(memory.data, impl.unsafe_storage().data(), bytes);
  auto *buffer = new Buffer(memory, bytes, Device{});
  snapshots_.push_back(runtime::BufferRef::adopt(buffer));
  if (notedNumbers)
    notedNumbers->push_back(runtime::BufferRef::retain(buffer));
  view.storage = buffer;
}

bool copyNumbers(bool on) {
  if (!on)
    notedNumbers = nullptr;
  return std::exchange(numbersAreCopied, on);
}

void noteNumbers(std::vector<runtime::BufferRef> *copies) { notedNumbers = copies; }

void stopNoting(const std::vector<runtime::BufferRef> *copies) {
  if (notedNumbers == copies)
    notedNumbers = nullptr;
}

namespace {
struct BuilderPool {
  std::vector<std::unique_ptr<CallBuilder>> builders;
  size_t depth = 0;
};
thread_local BuilderPool builderPool;
} // namespace

BuilderScope::BuilderScope() {
  BuilderPool &pool = builderPool;
  if (pool.builders.size() == pool.depth)
    pool.builders.push_back(std::make_unique<CallBuilder>());
  builder_ = pool.builders[pool.depth++].get();
}

BuilderScope::~BuilderScope() { --builderPool.depth; }

} // namespace terra::frontend
