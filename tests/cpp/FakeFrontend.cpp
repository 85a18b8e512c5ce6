#include "FakeFrontend.h"

#include <algorithm>

namespace terra::fake {

using graph::ArgKind;

namespace {
tracer::ArgView argument(ArgKind kind, uint32_t first = 0, uint32_t count = 0) {
  tracer::ArgView view;
  view.kind = kind;
  view.first = first;
  view.count = count;
  return view;
}

Elements elementsOf(const Tensor &tensor) {
  return {static_cast<int64_t *>(tensor.storage->buffer().data()) + tensor.meta.offset, &tensor.meta};
}
} // namespace

int64_t digest(const Tensor &tensor) {
  Elements elements = elementsOf(tensor);
  uint64_t sum = 17;
  for (int64_t i = 0; i < elements.numel(); ++i)
    sum = sum * 31 + uint64_t(elements[i]);
  return int64_t(sum);
}

Call::Call(const FakeOp &which, std::vector<Tensor> operands) : op(&which), tensors(std::move(operands)) {
  if (op->op.name.find("_foreach") != std::string::npos) {
    args.push_back(argument(ArgKind::TensorList, 0, uint32_t(tensors.size())));
    return;
  }
  for (uint32_t i = 0; i < tensors.size(); ++i)
    args.push_back(argument(ArgKind::Tensor, i, 1));
}

Call &Call::number(double value) {
  tracer::ArgView arg = argument(ArgKind::Double);
  arg.scalar.d = value;
  args.push_back(arg);
  return *this;
}

Call &Call::index(int64_t value) {
  tracer::ArgView arg = argument(ArgKind::Int);
  arg.scalar.i = value;
  args.push_back(arg);
  return *this;
}

Call &Call::list(std::vector<double> values) {
  doubles = std::move(values);
  args.push_back(argument(ArgKind::DoubleList, 0, uint32_t(doubles.size())));
  return *this;
}

graph::Event Call::shallowEvent() const {
  graph::Event event;
  event.op = &op->op;
  for (const tracer::ArgView &view : args) {
    graph::Arg arg;
    arg.kind = view.kind;
    arg.count = view.count;
    arg.scalar = view.scalar;
    if (view.kind == ArgKind::DoubleList)
      arg.doubles = doubles;
    event.args.push_back(std::move(arg));
  }
  return event;
}

Tensor Frontend::fresh(const TensorMeta &meta, int64_t bytes) {
  auto *buffer = new runtime::Buffer(allocate(size_t(bytes)), size_t(bytes), Device{});
  return {std::make_shared<Storage>(buffer, owner()), meta};
}

Tensor Frontend::make(const TensorMeta &meta, int64_t first) {
  Tensor tensor = fresh(meta, meta.numel() * kElementBytes);
  for (int64_t i = 0; i < meta.numel(); ++i)
    elementsOf(tensor)[i] = first + i;
  return tensor;
}

Tensor Frontend::view(const Call &call) {
  const TensorMeta &self = call.tensors[0].meta;
  TensorMeta meta = self;
  size_t rank = self.rank();
  if (call.op->op.viewRule == graph::ViewRule::Select) {
    int64_t at = call.args[2].scalar.i, size = self.sizes()[0];
    meta.offset += (at < 0 ? at + size : at) * self.strides()[0];
    meta.dims.erase(meta.dims.begin() + ptrdiff_t(rank));
    meta.dims.erase(meta.dims.begin());
  } else if (call.op->op.viewRule == graph::ViewRule::Slice) {
    int64_t start = call.args[2].scalar.i;
    meta.offset += start * self.strides()[0];
    meta.dims[0] = call.args[3].scalar.i - start;
  }
  return {call.tensors[0].storage, meta};
}

Tensor Frontend::odd(const Tensor &tensor) {
  std::vector<int64_t> found;
  Elements elements = elementsOf(tensor);
  for (int64_t i = 0; i < elements.numel(); ++i)
    if (elements[i] & 1)
      found.push_back(elements[i]);
  Tensor result = make(contiguous({int64_t(found.size())}), 0);
  for (size_t i = 0; i < found.size(); ++i)
    elementsOf(result)[int64_t(i)] = found[i];
  return result;
}

std::vector<Tensor> Frontend::compute(const Call &call) {
  const std::vector<Tensor> &in = call.tensors;
  std::vector<Tensor> results;
  std::vector<int64_t> sizes(in[0].meta.sizes().begin(), in[0].meta.sizes().end());
  switch (call.op->shape) {
  case Shape::View:
    return {view(call)};
  case Shape::DataDependent:
    return {odd(in[0])};
  case Shape::LikeFirst:
    results = {fresh(contiguous(sizes), in[0].meta.numel() * kElementBytes)};
    break;
  case Shape::Pair: {
    int64_t n = in[0].meta.numel();
    results = {fresh(contiguous({n}), 2 * n * kElementBytes)};
    results.push_back({results[0].storage, contiguous({n}, n)});
    break;
  }
  case Shape::InPlace:
    results = {in[0]};
    break;
  case Shape::Nothing:
  case Shape::Fetch:
  case Shape::Composite:
    break;
  }
  std::vector<Elements> inputs, outputs;
  std::transform(in.begin(), in.end(), std::back_inserter(inputs), elementsOf);
  if (call.op->shape == Shape::LikeFirst || call.op->shape == Shape::Pair)
    std::transform(results.begin(), results.end(), std::back_inserter(outputs), elementsOf);
  int64_t extent = outputs.empty() ? inputs[0].numel() : outputs[0].numel();
  call.op->compute(inputs, scalarsOf(call.shallowEvent(), {}, {}), outputs, 0, extent, generator_);
  return results;
}

std::vector<Tensor> Frontend::call(const Call &call) {
  return call.op->body ? call.op->body(*this, call) : event(call);
}
std::vector<Tensor> Frontend::event(const Call &call) { return compute(call); }
Tensor Frontend::uninitialised(const TensorMeta &meta) { return fresh(meta, meta.numel() * kElementBytes); }
int64_t Frontend::item(const Tensor &tensor) { return digest(tensor); }
int64_t Frontend::read(const Tensor &tensor) { return digest(tensor); }
void Frontend::callImmediately(const Call &call) { compute(call); }
uint64_t Frontend::readGenerator() { return generator_.draws; }

} // namespace terra::fake
