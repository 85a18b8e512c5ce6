#include "FakeCall.h"

namespace terra::fake {

tracer::TensorView viewOf(const Tensor &tensor) {
  tracer::TensorView view;
  view.storage = &tensor.storage->buffer();
  view.rank = uint32_t(tensor.meta.rank());
  view.sizes = tensor.meta.dims.data();
  view.strides = tensor.meta.dims.data() + view.rank;
  view.dtype = tensor.meta.dtype;
  view.offset = tensor.meta.offset;
  return view;
}

BuiltCall::BuiltCall(Call what, graph::Context context) : call(std::move(what)), args(call.args) {
  for (const Tensor &tensor : call.tensors)
    tensors.push_back(tensor ? viewOf(tensor) : tracer::TensorView());
  for (tracer::ArgView &arg : args)
    if (arg.kind == graph::ArgKind::DoubleList)
      arg.doubles = call.doubles.data();
  view.op = &call.op->op;
  view.args = args.data();
  view.numArgs = uint32_t(args.size());
  view.tensors = tensors.data();
  view.numTensors = uint32_t(tensors.size());
  view.context = context;
}

std::vector<Tensor> recordCall(tracer::Recorder &recorder, const Call &call, const tracer::CallView &view,
                               const std::function<std::vector<Tensor>()> &real) {
  std::shared_ptr<const graph::Event> expected = recorder.expected(view);
  std::shared_ptr<graph::Event> event = expected ? nullptr : recorder.begin(view);
  bool gate = call.op->op.has(graph::kOpGate);
  std::vector<Tensor> results = real();
  std::vector<tracer::ResultView> views;
  for (const Tensor &tensor : results) {
    tracer::ResultView &result = views.emplace_back();
    result.tensor = viewOf(tensor);
    result.storageBytes = int64_t(tensor.storage->buffer().bytes());
    if (call.op->shape == Shape::InPlace)
      result.sameAs = 0;
  }
  if (call.op->shape == Shape::Fetch)
    views.emplace_back(); // a number, not a tensor
  std::vector<int32_t> counts(views.size(), -1);
  if (expected && expected->gate == gate && expected->resultCounts == counts &&
      recorder.finishExpected(expected, views))
    return results;
  if (!event)
    event = recorder.renew(*expected);
  event->gate = gate;
  event->resultCounts = std::move(counts);
  recorder.finish(std::move(event), views);
  return results;
}

std::vector<Tensor> Recording::event(const Call &call) {
  BuiltCall built(call, context);
  built.view.whole = whole;
  return recordCall(recorder_, call, built.view, [&] { return compute(call); });
}

int64_t Recording::item(const Tensor &tensor) {
  Call call(ops().item, {tensor});
  BuiltCall built(call, context);
  recordCall(recorder_, call, built.view, [] { return std::vector<Tensor>(); });
  return digest(tensor);
}

int64_t Recording::read(const Tensor &tensor) {
  tracer::TensorView view = viewOf(tensor);
  recorder_.read(&view);
  return digest(tensor);
}

} // namespace terra::fake
