#include "tracer/Rules.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace terra::tracer {

using graph::ArgKind;
using graph::ViewRule;

namespace {

/// Ops whose Scalar, float and integer-scalar arguments change values only, never shapes, dtypes or aliasing.
constexpr auto kElementwise = std::to_array<std::string_view>({"_foreach_add",
                                                               "_foreach_addcdiv",
                                                               "_foreach_addcmul",
                                                               "_foreach_div",
                                                               "_foreach_lerp",
                                                               "_foreach_mul",
                                                               "_foreach_pow",
                                                               "_foreach_sub",
                                                               "_fused_adagrad",
                                                               "_fused_adam",
                                                               "_fused_adamw",
                                                               "_fused_sgd",
                                                               "add",
                                                               "addbmm",
                                                               "addcdiv",
                                                               "addcmul",
                                                               "addmm",
                                                               "addmv",
                                                               "addr",
                                                               "arange",
                                                               "baddbmm",
                                                               "bernoulli",
                                                               "celu",
                                                               "clamp",
                                                               "clamp_max",
                                                               "clamp_min",
                                                               "div",
                                                               "elu",
                                                               "eq",
                                                               "exponential",
                                                               "fill",
                                                               "floor_divide",
                                                               "fmod",
                                                               "full",
                                                               "full_like",
                                                               "ge",
                                                               "gt",
                                                               "hardshrink",
                                                               "hardtanh",
                                                               "huber_loss",
                                                               "index_fill",
                                                               "le",
                                                               "leaky_relu",
                                                               "lerp",
                                                               "linspace",
                                                               "logspace",
                                                               "lt",
                                                               "masked_fill",
                                                               "mul",
                                                               "native_dropout",
                                                               "ne",
                                                               "new_full",
                                                               "normal",
                                                               "pow",
                                                               "randint",
                                                               "remainder",
                                                               "rrelu_with_noise",
                                                               "rsub",
                                                               "scatter",
                                                               "smooth_l1_loss",
                                                               "softplus",
                                                               "softshrink",
                                                               "sub",
                                                               "threshold",
                                                               "uniform",
                                                               "where",
                                                               "xlogy"});

/// Take a position, and have results whose shape does not depend on it.
constexpr auto kIndexedWrites =
    std::to_array<std::string_view>({"select_backward", "slice_backward", "select_scatter", "slice_scatter"});

bool isIndexedView(const graph::Event &event) {
  return event.op->viewRule == ViewRule::Select || event.op->viewRule == ViewRule::Slice;
}

int64_t clampIndex(int64_t index, int64_t size) {
  if (index < 0)
    index += size;
  return std::clamp<int64_t>(index, 0, size);
}

int64_t dimension(const ArgView &arg, uint32_t rank) { return arg.scalar.i < 0 ? arg.scalar.i + rank : arg.scalar.i; }

/// aten::slice.Tensor(self, dim, start?, end?, step): normalised bounds.
struct Slice {
  int64_t start, length;
};
Slice sliceOf(const CallView &call) {
  const TensorView &self = call.tensors[0];
  int64_t size = self.sizes[dimension(call.args[1], self.rank)];
  int64_t start = call.args[2].kind == ArgKind::None ? 0 : clampIndex(call.args[2].scalar.i, size);
  int64_t end = call.args[3].kind == ArgKind::None ? size : clampIndex(call.args[3].scalar.i, size);
  int64_t step = call.args[4].scalar.i;
  return {start, end <= start ? 0 : (end - start + step - 1) / step};
}

} // namespace

bool mayVary(const graph::Event &event, uint32_t index) {
  std::string_view name = event.name();
  bool own = name.starts_with("terra::"); // numbers of operators of our own are values
  if (!own && !name.starts_with("aten::"))
    return false;
  std::string_view base = graph::baseName(name);
  switch (event.args[index].kind) {
  case ArgKind::NumberInt:
  case ArgKind::NumberDouble:
  case ArgKind::Double:
  case ArgKind::DoubleList:
    if (base.find("batch_norm") != std::string_view::npos)
      return event.op->params[index].name == "momentum"; // a cumulative average has another one in every step
    return own || std::find(kElementwise.begin(), kElementwise.end(), base) != kElementwise.end();
  case ArgKind::Int: {
    const std::string &param = event.op->params[index].name;
    if (event.op->viewRule == ViewRule::Select)
      return param == "index";
    if (event.op->viewRule == ViewRule::Slice)
      return param == "start" || param == "end";
    if (std::find(kIndexedWrites.begin(), kIndexedWrites.end(), base) != kIndexedWrites.end())
      return param == "index" || param == "start" || param == "end";
    // Scalars that happen to be integers; sizes, dims and dtypes have other names.
    constexpr auto scalars =
        std::to_array<std::string_view>({"alpha", "beta", "value", "other", "self", "exponent", "fill_value", "scalar",
                                         "weight", "min", "max", "start", "end", "low", "high"});
    return std::find(kElementwise.begin(), kElementwise.end(), base) != kElementwise.end() &&
           std::find(scalars.begin(), scalars.end(), std::string_view(param)) != scalars.end();
  }
  default:
    return false;
  }
}

bool keepsResultMetas(const graph::Event &event, const CallView &call) {
  if (!isIndexedView(event) || event.gate) // a gate runs at once, and may have raised when it was recorded
    return true;
  const TensorView &self = call.tensors[0];
  if (self.rank != event.inputs[0].meta.rank())
    return false;
  int64_t dim = dimension(call.args[1], self.rank);
  if (event.op->viewRule == ViewRule::Slice)
    return sliceOf(call).length == event.results[0].meta.sizes()[size_t(dim)];
  int64_t index = call.args[2].scalar.i, size = self.sizes[dim];
  return index >= -size && index < size; // out of range: diverge, and let the op raise its own error
}

int64_t resultOffset(const graph::Event &event, const CallView &call, uint32_t index) {
  const graph::Result &result = event.results[index];
  const TensorView &self = call.tensors[result.aliasOf];
  switch (event.op->viewRule) {
  case ViewRule::AsStrided:
    return call.args[3].kind == ArgKind::None ? self.offset : call.args[3].scalar.i;
  case ViewRule::Slice:
    return self.offset + sliceOf(call).start * self.strides[dimension(call.args[1], self.rank)];
  case ViewRule::Select: {
    int64_t dim = dimension(call.args[1], self.rank), at = call.args[2].scalar.i;
    return self.offset + (at < 0 ? at + self.sizes[dim] : at) * self.strides[dim];
  }
  case ViewRule::None:
    break;
  }
  return self.offset + result.meta.offset - event.inputs[result.aliasOf].meta.offset;
}

} // namespace terra::tracer
