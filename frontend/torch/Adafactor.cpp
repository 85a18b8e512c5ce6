// Two operators in the place of what torch/optim/_adafactor.py does with values that it looks at in the middle of its step
// (`param.norm(2).item()`, `update.norm(2).item()`): they take the norms as tensors, and look when they run. Numbers are computed
// as Python computes them, or, with a learning rate that is a tensor of float32 (`single`), as PyTorch does.
#include "frontend/torch/OptimizerFormula.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/library.h>

#include <cmath>

namespace terra::frontend {

namespace {

/// Python's `max`: the first one, unless the second is larger.
double larger(double a, double b) { return b > a ? b : a; }

/// The negative step size of a parameter. `norm`: its own before the step.
double stepSize(const at::Tensor &norm, const at::Tensor &update, const at::Tensor &updateNorm, Rate rho, double eps2,
                double d) {
  double root = std::pow(double(update.numel()), 0.5);
  double alpha = rho.times(larger(eps2, norm.item<double>() / root)).value;
  return Rate{rho.kind, -alpha}.over(larger(1.0, updateNorm.item<double>() / (root * d))).value;
}

at::Tensor &add(at::Tensor &self, const at::Tensor &update, const at::Tensor &norm, const at::Tensor &updateNorm,
                double rho, double eps2, double d, bool single) {
  auto kind = single ? Rate::Kind::Float : Rate::Kind::Python;
  return self.add_(update, stepSize(norm, update, updateNorm, {kind, rho}, eps2, d));
}

void scale(at::TensorList updates, at::TensorList norms, at::TensorList updateNorms, at::ArrayRef<double> rhos,
           double eps2, double d) {
  std::vector<at::Scalar> sizes;
  for (size_t i = 0; i < updates.size(); ++i)
    sizes.emplace_back(stepSize(norms[i], updates[i], updateNorms[i], {Rate::Kind::Python, rhos[i]}, eps2, d));
  at::_foreach_mul_(updates, sizes);
}

/// The writes count, as they do for PyTorch's operators.
at::Tensor &countedAdd(c10::DispatchKeySet keys, at::Tensor &self, const at::Tensor &update, const at::Tensor &norm,
                       const at::Tensor &updateNorm, double rho, double eps2, double d, bool single) {
  static auto op = c10::Dispatcher::singleton().findSchemaOrThrow("terra::adafactor_add_", "").typed<decltype(add)>();
  {
    at::AutoDispatchBelowADInplaceOrView below;
    op.redispatch(keys & c10::after_ADInplaceOrView_keyset, self, update, norm, updateNorm, rho, eps2, d, single);
  }
  torch::autograd::impl::bump_version(self);
  return self;
}

void countedScale(c10::DispatchKeySet keys, at::TensorList updates, at::TensorList norms, at::TensorList updateNorms,
                  at::ArrayRef<double> rhos, double eps2, double d) {
  static auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("terra::adafactor_scale_", "").typed<decltype(scale)>();
  {
    at::AutoDispatchBelowADInplaceOrView below;
    op.redispatch(keys & c10::after_ADInplaceOrView_keyset, updates, norms, updateNorms, rhos, eps2, d);
  }
  for (const at::Tensor &update : updates)
    torch::autograd::impl::bump_version(update);
}

TORCH_LIBRARY(terra, library) {
  library.def("adafactor_add_(Tensor(a!) self, Tensor update, Tensor norm, Tensor update_norm, float rho, float eps2, "
              "float d, bool single=False) -> Tensor(a!)");
  library.def("adafactor_scale_(Tensor(a!)[] updates, Tensor[] norms, Tensor[] update_norms, float[] rhos, float eps2, "
              "float d) -> ()");
}

TORCH_LIBRARY_IMPL(terra, CompositeExplicitAutograd, library) {
  library.impl("adafactor_add_", &add);
  library.impl("adafactor_scale_", &scale);
}

TORCH_LIBRARY_IMPL(terra, ADInplaceOrView, library) {
  library.impl("adafactor_add_", &countedAdd);
  library.impl("adafactor_scale_", &countedScale);
}

} // namespace

} // namespace terra::frontend
