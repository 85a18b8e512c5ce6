#include "frontend/torch/ViewHistory.h"

#include "frontend/torch/HostCall.h"
#include "frontend/torch/Storage.h"
#include "tracer/Recorder.h"

#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <typeinfo>

namespace terra::frontend {

using torch::autograd::CreationMeta;
using torch::autograd::DifferentiableViewMeta;
using torch::autograd::generated::ViewBackward0;

namespace {

const DifferentiableViewMeta *viewMeta(const at::Tensor &tensor) {
  return torch::autograd::impl::get_view_autograd_meta(tensor);
}

const at::Tensor &rootOf(const at::Tensor &tensor) {
  const DifferentiableViewMeta *meta = viewMeta(tensor);
  return meta && meta->has_bw_view() ? meta->get_backward_view().base_ : tensor;
}

/// As PyTorch's kernels make them on strided memory, and not written since.
bool isUsual(const at::Tensor &tensor) {
  const DifferentiableViewMeta *meta = viewMeta(tensor);
  return meta->shared_view_info() && !meta->get_backward_view().has_view_fn() &&
         meta->get_attr_version() == versionOf(*tensor.unsafeGetTensorImpl());
}

/// Both have no history, or that of one `view`.
bool isLinked(const at::Tensor &result, const at::Tensor &base) {
  if (!result.grad_fn() && !base.grad_fn())
    return !base.requires_grad();
  return result.grad_fn() && base.grad_fn() && typeid(*result.grad_fn()) == typeid(ViewBackward0) &&
         result.grad_fn()->next_edge(0) == torch::autograd::impl::gradient_edge(base);
}

at::Tensor tensorOf(const c10::intrusive_ptr<c10::TensorImpl> &impl) {
  return at::Tensor(c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>::reclaim_copy(impl.get()));
}

} // namespace

at::Tensor CallViews::attach(const ViewHistory &view, const at::Tensor &base, at::Tensor made) {
  if (view.kind != ViewHistory::Kind::Detached)
    return torch::autograd::as_view(base, made, true, true, nullptr, nullptr, view.creation);
  made.unsafeGetTensorImpl()->set_version_counter(torch::autograd::impl::version_counter(base));
  made.unsafeGetTensorImpl()->set_allow_tensor_metadata_change(false);
  return made;
}

std::optional<size_t> CallViews::resultOn(size_t index) const {
  for (size_t i = 0; i < results.size(); ++i)
    if (results[i].kind == ViewHistory::Kind::OfHidden && results[i].of == index)
      return i;
  return std::nullopt;
}

void CallViews::link(const at::Tensor &result, const at::Tensor &base, torch::autograd::Edge edge) {
  auto node = makeNode<ViewBackward0>();
  node->self_sym_sizes = base.sym_sizes().vec();
  node->set_next_edges({std::move(edge)});
  uint32_t index = node->add_input_metadata(result);
  torch::autograd::impl::set_gradient_edge(result, {std::move(node), index});
}

bool ViewReader::addOwn(const at::Tensor &result) {
  ViewHistory &view = views.results.emplace_back();
  if (!result.defined() || !viewMeta(result))
    return true;
  const at::Tensor &base = rootOf(result);
  if (!result.is_view() || !isUsual(result) || !isPlain(*base.unsafeGetTensorImpl()) ||
      !base.storage().is_alias_of(result.storage()) || !isLinked(result, base))
    return false;
  view = {ViewHistory::Kind::OfHidden, uint32_t(bases_.size()), viewMeta(result)->get_creation_meta()};
  for (uint32_t i = 0; i < bases_.size(); ++i)
    if (bases_[i] == base.unsafeGetTensorImpl())
      view.of = i;
  if (view.of == bases_.size()) {
    const c10::TensorImpl &impl = *base.unsafeGetTensorImpl();
    bases_.push_back(&impl);
    views.hidden.push_back({tracer::Recorder::metaOf(viewOf(impl)), versionOf(impl), base.requires_grad()});
  }
  return true;
}

std::optional<uint32_t> ViewReader::addShared(const at::Tensor &result) {
  ViewHistory &view = views.results.emplace_back();
  std::optional<uint32_t> operand = operandOf(result);
  if (!operand)
    return std::nullopt;
  view.of = *operand;
  if (!viewMeta(result)) {
    if (!mayDetach_)
      return std::nullopt;
    view.kind = ViewHistory::Kind::Detached;
    return operand;
  }
  if (!isUsual(result))
    return std::nullopt;
  view.kind = ViewHistory::Kind::OfOperand;
  view.creation = creation_;
  const DifferentiableViewMeta *before = viewMeta(tensorOf(operands_[*operand]));
  CreationMeta expected = before && before->has_bw_view()
                              ? torch::autograd::propagate_creation_meta(before->get_creation_meta(), view.creation)
                              : view.creation;
  return viewMeta(result)->get_creation_meta() == expected ? operand : std::nullopt;
}

bool ViewReader::nodesFit(c10::ArrayRef<at::Tensor> results, const std::vector<bool> &history) const {
  bool behindBases = !views.hidden.empty() && views.hidden.front().history;
  for (const HiddenBase &base : views.hidden)
    if (base.history != behindBases)
      return false;
  for (size_t i = 0; i < results.size(); ++i) {
    if (!history[i])
      continue;
    const ViewHistory *view = views.of(i);
    bool hidden = view && view->kind == ViewHistory::Kind::OfHidden;
    if (hidden != behindBases || (view && !hidden && results[i].output_nr() != int64_t(i)) ||
        (hidden && results[i]._base().output_nr() != int64_t(view->of)))
      return false;
  }
  return true;
}

bool ViewReader::returnsBase(c10::ArrayRef<at::Tensor> results) const {
  auto isBase = [&](const at::Tensor &result) {
    return std::find(bases_.begin(), bases_.end(), result.unsafeGetTensorImpl()) != bases_.end();
  };
  return std::any_of(results.begin(), results.end(), isBase);
}

std::optional<uint32_t> ViewReader::operandOf(const at::Tensor &result) const {
  bool detached = !viewMeta(result);
  for (uint32_t i = 0; i < operands_.size(); ++i)
    if (operands_[i] && operands_[i]->has_storage() && operands_[i]->storage().is_alias_of(result.storage()))
      if (at::Tensor operand = tensorOf(operands_[i]); detached || rootOf(operand).is_same(rootOf(result)))
        return i;
  return std::nullopt;
}

} // namespace terra::frontend
