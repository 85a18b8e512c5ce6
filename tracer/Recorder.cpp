#include "tracer/Recorder.h"

namespace terra::tracer {

using graph::Alias;
using graph::Event;
using graph::kNoStorage;

TensorMeta Recorder::metaOf(const TensorView &view) {
  TensorMeta meta;
  meta.dtype = view.dtype;
  meta.device = view.device;
  meta.conj = view.conj;
  meta.neg = view.neg;
  meta.requiresGrad = view.requiresGrad;
  meta.offset = view.offset;
  meta.dims.reserve(2 * view.rank);
  meta.dims.assign(view.sizes, view.sizes + view.rank);
  meta.dims.insert(meta.dims.end(), view.strides, view.strides + view.rank);
  return meta;
}

namespace {

graph::Arg argOf(const ArgView &view) {
  graph::Arg arg;
  arg.kind = view.kind;
  arg.first = view.first;
  arg.count = view.count;
  arg.scalar = view.scalar;
  if (view.ints)
    arg.ints.assign(view.ints, view.ints + view.count);
  if (view.doubles)
    arg.doubles.assign(view.doubles, view.doubles + view.count);
  arg.string = view.string;
  return arg;
}

/// The written operands: `written` is a property of the schema's parameter.
void markWritten(Event &event) {
  for (size_t i = 0; i < event.args.size() && i < event.op->params.size(); ++i) {
    if (!event.op->params[i].written)
      continue;
    const graph::Arg &arg = event.args[i];
    if (arg.kind == graph::ArgKind::Tensor || arg.kind == graph::ArgKind::TensorList)
      for (uint32_t k = 0; k < arg.count; ++k)
        event.inputs[arg.first + k].written = true;
  }
}

} // namespace

void Recorder::start(uint64_t epoch, uint64_t left) {
  epoch_ = epoch;
  left_ = left;
  known_.clear();
  nextStorage_ = 0;
  events_.clear();
}

std::pair<graph::StorageId, bool> Recorder::number(graph::StorageTag &tag) {
  bool fresh = tag.epoch != epoch_;
  if (fresh) {
    if (left_ != 0 && tag.epoch == left_)
      known_.emplace_back(tag.slot, nextStorage_);
    tag.epoch = epoch_;
    tag.slot = nextStorage_++;
  }
  return {tag.slot, fresh};
}

std::shared_ptr<Event> Recorder::copy(const CallView &call) {
  auto event = std::make_shared<Event>();
  event->op = call.op;
  event->context = call.context;
  event->args.reserve(call.numArgs);
  for (uint32_t i = 0; i < call.numArgs; ++i)
    event->args.push_back(argOf(call.args[i]));
  event->inputs.resize(call.numTensors);
  for (uint32_t i = 0; i < call.numTensors; ++i)
    if (call.tensors[i].storage)
      event->inputs[i].meta = metaOf(call.tensors[i]);
  markWritten(*event);
  return event;
}

std::shared_ptr<Event> Recorder::begin(const CallView &call) {
  std::shared_ptr<Event> event = copy(call);
  event->trace = uint32_t(epoch_);
  for (uint32_t i = 0; i < call.numTensors; ++i)
    if (call.tensors[i].storage)
      event->inputs[i].storage = number(*call.tensors[i].storage).first;
  return event;
}

graph::Result Recorder::makeResult(const Event &event, const ResultView &view) {
  graph::Result result;
  if (!view.tensor.storage)
    return result;
  auto [storage, fresh] = number(*view.tensor.storage);
  result.storage = storage;
  result.meta = metaOf(view.tensor);
  result.storageBytes = view.storageBytes;
  result.alias = Alias::Fresh;
  if (view.sameAs >= 0) {
    result.alias = Alias::Same;
    result.aliasOf = uint32_t(view.sameAs);
  } else if (!fresh) {
    for (uint32_t i = 0; i < event.inputs.size(); ++i)
      if (event.inputs[i].storage == storage) {
        result.alias = Alias::View;
        result.aliasOf = i;
        break;
      }
  }
  return result;
}

void Recorder::finish(std::shared_ptr<Event> event, const std::vector<ResultView> &results) {
  event->results.reserve(results.size());
  for (const ResultView &view : results)
    event->results.push_back(makeResult(*event, view));
  events_.push_back(std::move(event));
}

void Recorder::read(const TensorView *tensor) {
  auto event = std::make_shared<Event>();
  event->kind = graph::EventKind::Read;
  event->gate = true;
  event->trace = uint32_t(epoch_);
  if (tensor) {
    event->inputs.resize(1);
    event->inputs[0].storage = number(*tensor->storage).first;
    event->inputs[0].meta = metaOf(*tensor);
  }
  events_.push_back(std::move(event));
}

void Recorder::end() {
  auto event = std::make_shared<Event>();
  event->kind = graph::EventKind::End;
  event->trace = uint32_t(epoch_);
  events_.push_back(std::move(event));
}

} // namespace terra::tracer
