#include "tracer/Recorder.h"

#include "tracer/Compare.h"

#include <algorithm>
#include <tuple>

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
  trace_ = {};
  trace_.number = uint32_t(epoch);
  due_ = 0;
  asBefore_ = left == 0;
}

void Recorder::clear() {
  bool whole = left_ == 0 && !trace_.empty() && trace_.back()->kind == graph::EventKind::End;
  if (whole) {
    if (trace_.merged == Trace::Place())
      trace_.merged = trace_.repeats;
    expected_ = std::move(trace_);
  }
  trace_ = {};
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
  event->whole = call.whole;
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
  event->trace = trace_.number;
  for (uint32_t i = 0; i < call.numTensors; ++i)
    if (call.tensors[i].storage)
      event->inputs[i].storage = number(*call.tensors[i].storage).first;
  return event;
}

std::pair<Alias, uint32_t> Recorder::aliasOf(const Event &event, const ResultView &view, graph::StorageId storage,
                                             bool fresh) {
  if (view.sameAs >= 0)
    return {Alias::Same, uint32_t(view.sameAs)};
  for (uint32_t i = 0; !fresh && i < event.inputs.size(); ++i)
    if (event.inputs[i].storage == storage)
      return {Alias::View, i};
  return {Alias::Fresh, 0};
}

graph::Result Recorder::makeResult(const Event &event, const ResultView &view) {
  graph::Result result;
  if (!view.tensor.storage)
    return result;
  auto [storage, fresh] = number(*view.tensor.storage);
  result.storage = storage;
  result.meta = metaOf(view.tensor);
  result.storageBytes = view.storageBytes;
  std::tie(result.alias, result.aliasOf) = aliasOf(event, view, storage, fresh);
  return result;
}

void Recorder::finish(std::shared_ptr<Event> event, const std::vector<ResultView> &results) {
  event->results.reserve(results.size());
  for (const ResultView &view : results)
    event->results.push_back(makeResult(*event, view));
  asBefore_ = false;
  push(std::move(event));
}

bool Recorder::sameOperands(const Event &event, const CallView &call) {
  for (uint32_t i = 0; i < call.numTensors; ++i) {
    const TensorView &view = call.tensors[i];
    const graph::Operand &operand = event.inputs[i];
    if (!view.storage || operand.storage == kNoStorage) {
      if (view.storage || operand.storage != kNoStorage)
        return false;
    } else if (number(*view.storage).first != operand.storage || !sameMeta(operand.meta, view) ||
               (operand.meta.offset != view.offset && !operand.offsetVaries)) {
      return false;
    }
  }
  return true;
}

std::shared_ptr<const Event> Recorder::expected(const CallView &call) {
  /// Events may be left out or come in addition: reads now and then, first times.
  constexpr size_t kAhead = 16;
  for (size_t i = due_; i < expected_.size() && i < due_ + kAhead; ++i) {
    const Event &event = *expected_[i];
    if (event.op != call.op || event.context != call.context || event.whole != call.whole ||
        event.args.size() != call.numArgs || event.inputs.size() != call.numTensors || !sameOperands(event, call))
      continue;
    uint32_t same = 0;
    while (same < call.numArgs && sameArg(event, call, same))
      ++same;
    if (same < call.numArgs)
      continue;
    asBefore_ &= i == due_;
    due_ = i;
    return expected_[i];
  }
  return nullptr;
}

namespace {
/// Where views begin may depend on what varies.
bool movesResults(const Event &event) {
  return std::any_of(event.args.begin(), event.args.end(), [](const graph::Arg &arg) { return arg.varies; }) ||
         std::any_of(event.inputs.begin(), event.inputs.end(), [](const graph::Operand &o) { return o.offsetVaries; });
}
} // namespace

bool Recorder::sameResult(const Event &event, const graph::Result &result, const ResultView &view) {
  if (!view.tensor.storage)
    return result.alias == Alias::Undefined;
  auto [storage, fresh] = number(*view.tensor.storage);
  return storage == result.storage && view.storageBytes == result.storageBytes && sameMeta(result.meta, view.tensor) &&
         (view.tensor.offset == result.meta.offset || movesResults(event)) &&
         aliasOf(event, view, storage, fresh) == std::pair(result.alias, result.aliasOf);
}

bool Recorder::finishExpected(const std::shared_ptr<const Event> &event, const std::vector<ResultView> &results) {
  if (event->results.size() != results.size())
    return false;
  for (size_t i = 0; i < results.size(); ++i)
    if (!sameResult(*event, event->results[i], results[i]))
      return false;
  pushExpected();
  return true;
}

void Recorder::pushExpected() { push(expected_[due_++]); }

std::shared_ptr<Event> Recorder::renew(const Event &event) const {
  auto own = std::make_shared<Event>(event);
  own->trace = trace_.number;
  own->results.clear();
  own->resultCounts.clear();
  return own;
}

void Recorder::read(const TensorView *tensor) {
  auto event = std::make_shared<Event>();
  event->kind = graph::EventKind::Read;
  event->gate = true;
  event->trace = trace_.number;
  if (tensor) {
    event->inputs.resize(1);
    event->inputs[0].storage = number(*tensor->storage).first;
    event->inputs[0].meta = metaOf(*tensor);
  }
  asBefore_ = false;
  push(std::move(event));
}

void Recorder::end() {
  if (asBefore_ && due_ + 1 == expected_.size() && expected_[due_]->kind == graph::EventKind::End) {
    pushExpected();
    trace_.repeats = expected_.merged;
    return;
  }
  auto event = std::make_shared<Event>();
  event->kind = graph::EventKind::End;
  event->trace = trace_.number;
  push(std::move(event));
}

} // namespace terra::tracer
