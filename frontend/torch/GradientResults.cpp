#include "frontend/torch/GradientResults.h"

#include "frontend/torch/SpanParts.h"
#include "tracer/Recorder.h"

namespace terra::frontend {

using graph::kNever;
using runtime::Buffer;

namespace {

at::Tensor madeTensor(Promiser &promiser, uint32_t slot, const TensorMeta &meta, uint32_t version) {
  at::Tensor made = makeTensor(promiser.storageOf(slot), meta, meta.offset);
  if (version)
    made.unsafeGetTensorImpl()->set_version_counter(c10::VariableVersion(version));
  return made;
}

/// Which of the tensors it is.
std::optional<uint32_t> indexIn(c10::ArrayRef<at::Tensor> tensors, const at::Tensor &tensor) {
  for (uint32_t i = 0; i < tensors.size(); ++i)
    if (tensors[i].is_same(tensor))
      return i;
  return std::nullopt;
}

} // namespace

bool GradientResults::learn(const runtime::SpanRange &range, c10::ArrayRef<at::Tensor> gradients,
                            c10::ArrayRef<at::Tensor> results) {
  using Kind = Result::Kind;
  std::vector<c10::intrusive_ptr<c10::TensorImpl>> operands;
  for (const at::Tensor &gradient : gradients)
    operands.push_back(gradient.getIntrusivePtr());
  // The engine runs without grad mode.
  ViewReader reader(operands, torch::autograd::CreationMeta::NO_GRAD_MODE, /*mayDetach=*/false);
  for (uint32_t i = 0; i < results.size(); ++i) {
    Result &result = results_.emplace_back();
    const at::Tensor &tensor = results[i];
    std::optional<uint32_t> gradient = indexIn(gradients, tensor), earlier = indexIn(results.slice(0, i), tensor);
    if (tensor.defined() && !gradient && !earlier) {
      if (!learnMade(range, tensor, reader, result))
        return false;
      continue;
    }
    reader.addSame();
    if (!tensor.defined())
      continue;
    result.kind = gradient ? Kind::Gradient : Kind::Earlier;
    result.of = gradient ? *gradient : *earlier;
  }
  views_ = std::move(reader.views);
  return !reader.returnsBase(results);
}

bool GradientResults::learnMade(const runtime::SpanRange &range, const at::Tensor &tensor, ViewReader &reader,
                                Result &result) const {
  const c10::TensorImpl &impl = *tensor.unsafeGetTensorImpl();
  if (!isPlain(impl) || tensor.requires_grad())
    return false;
  const Buffer *buffer = bufferOf(*impl.unsafe_storage().unsafeGetStorageImpl());
  if (!buffer || buffer->epoch != range.run->binding.epoch)
    return false;
  result.meta = tracer::Recorder::metaOf(viewOf(impl));
  if (madeIn(range, buffer->slot)) {
    result.kind = Result::Kind::Made;
    result.slot = buffer->slot;
    result.version = versionOf(impl);
    return reader.addOwn(tensor);
  }
  result.kind = Result::Kind::View;
  std::optional<uint32_t> gradient = reader.addShared(tensor);
  result.of = gradient.value_or(0);
  return gradient.has_value();
}

at::Tensor GradientResults::makeHidden(Promiser &promiser, uint32_t index) const {
  const HiddenBase &hidden = views_.hidden[index];
  return madeTensor(promiser, results_[*views_.resultOn(index)].slot, hidden.meta, hidden.version);
}

std::vector<at::Tensor> GradientResults::make(Promiser &promiser, c10::ArrayRef<at::Tensor> gradients) const {
  std::vector<at::Tensor> made, bases(views_.hidden.size());
  for (size_t i = 0; i < results_.size(); ++i) {
    const Result &result = results_[i];
    const ViewHistory *view = views_.of(i);
    at::Tensor &tensor = made.emplace_back();
    switch (result.kind) {
    case Result::Kind::Undefined:
      break;
    case Result::Kind::Gradient:
      tensor = gradients[result.of];
      break;
    case Result::Kind::Earlier:
      tensor = made[result.of];
      break;
    case Result::Kind::Made:
      if (!view) {
        tensor = madeTensor(promiser, result.slot, result.meta, result.version);
        break;
      }
      if (!bases[view->of].defined())
        bases[view->of] = makeHidden(promiser, view->of);
      tensor = CallViews::attach(*view, bases[view->of],
                                 makeView(*bases[view->of].unsafeGetTensorImpl(), result.meta, result.meta.offset));
      break;
    case Result::Kind::View: {
      const at::Tensor &gradient = gradients[result.of];
      tensor = CallViews::attach(*view, gradient,
                                 makeView(*gradient.unsafeGetTensorImpl(), result.meta, result.meta.offset));
      break;
    }
    }
  }
  return made;
}

} // namespace terra::frontend
