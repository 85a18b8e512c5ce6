#include "frontend/torch/MatrixProduct.h"

#include "frontend/torch/Race.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <array>
#include <map>
#include <mutex>
#include <optional>

namespace at::native {
/// PyTorch's own entry to oneDNN's matrix products, which its headers do not declare: null where it has none.
[[gnu::weak]] void mkldnn_matmul(const Tensor &a, const Tensor &b, const Tensor &result, float beta, float alpha);
} // namespace at::native

namespace terra::frontend {

namespace {

/// Multiplications below which the call costs more than the work.
constexpr int64_t kLeastWork = 1 << 21;
constexpr size_t kMostShapes = 4096;

/// a × b + bias of matrices, or of batches of matrices; the bias may be undefined.
struct Product {
  at::Tensor a, b, bias;

  bool batched() const { return a.dim() == 3; }
  int64_t work() const { return a.numel() * b.size(-1); }
};

/// A matrix, or a batch of them one after the other, without gaps.
bool isDense(const at::Tensor &t, int64_t dims) {
  return t.defined() && t.dim() == dims && t.scalar_type() == at::kFloat && t.device().is_cpu() && !t.is_neg() &&
         (dims == 2 ? t.stride(0) == 1 || t.stride(1) == 1 : t.is_contiguous() || t.transpose(1, 2).is_contiguous());
}

bool isOne(const c10::IValue &value) {
  at::Scalar scalar = value.toScalar();
  return !scalar.isComplex() && scalar.to<double>() == 1;
}

std::optional<Product> productOf(const graph::Event &event, const torch::jit::Stack &stack) {
  Product p;
  if (event.op->name == "aten::mm") {
    p = {stack[0].toTensor(), stack[1].toTensor(), {}};
  } else if (event.op->name == "aten::addmm") {
    p = {stack[1].toTensor(), stack[2].toTensor(), stack[0].toTensor()};
    bool plain = p.bias.dim() == 1 && p.bias.is_contiguous() && p.bias.scalar_type() == at::kFloat && p.b.dim() == 2 &&
                 p.bias.size(0) == p.b.size(1) && isOne(stack[3]) && isOne(stack[4]);
    if (!plain)
      return std::nullopt;
  } else if (event.op->name == "aten::bmm" && at::native::mkldnn_matmul) {
    p = {stack[0].toTensor(), stack[1].toTensor(), {}};
  } else {
    return std::nullopt;
  }
  int64_t dims = event.op->name == "aten::bmm" ? 3 : 2;
  bool large = isDense(p.a, dims) && isDense(p.b, dims) && p.work() >= kLeastWork;
  return large ? std::optional(std::move(p)) : std::nullopt;
}

using Linear = at::Tensor(const at::Tensor &, const at::Tensor &, const std::optional<at::Tensor> &, std::string_view,
                          c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);

/// x · weightᵀ + bias through oneDNN, as torch.compile's code calls it; nothing where PyTorch was built without.
const std::optional<c10::TypedOperatorHandle<Linear>> &oneDnnLinear() {
  static const auto handle = []() -> std::optional<c10::TypedOperatorHandle<Linear>> {
    auto found = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!found || !found->hasKernelForDispatchKey(c10::DispatchKey::CPU))
      return std::nullopt;
    try {
      return found->typed<Linear>();
    } catch (const c10::Error &) { // another signature
      return std::nullopt;
    }
  }();
  return handle;
}

/// Sizes, which way each matrix lies, bias, threads.
using Key = std::array<int64_t, 6>;

Key keyOf(const Product &p) {
  int64_t layout = (p.a.stride(-1) == 1) | (p.b.stride(-1) == 1) << 1 | p.bias.defined() << 2 | p.batched() << 3;
  return {p.batched() ? p.a.size(0) : 1, p.a.size(-2), p.a.size(-1), p.b.size(-1), layout, at::get_num_threads()};
}

std::mutex mutex;
std::map<Key, Race> races;

Race *raceFor(const Product &p) {
  Key key = keyOf(p);
  std::lock_guard lock(mutex);
  auto found = races.find(key);
  if (found == races.end())
    found = races.size() < kMostShapes ? races.try_emplace(key).first : races.end();
  return found == races.end() ? nullptr : &found->second; // used by the runner's thread only
}

/// The entry of matrix products reads both ways that a matrix may lie; that of `linear` copies, but knows of a bias.
at::Tensor byOneDnn(const Product &p) {
  if (at::native::mkldnn_matmul && !p.bias.defined()) {
    at::DimVector sizes(p.a.sizes().begin(), p.a.sizes().end());
    sizes.back() = p.b.size(-1);
    at::Tensor result = at::empty(sizes, p.a.options());
    at::native::mkldnn_matmul(p.a, p.b, result, /*beta=*/0, /*alpha=*/1);
    return result;
  }
  std::optional<at::Tensor> bias = p.bias.defined() ? std::optional(p.bias) : std::nullopt;
  return oneDnnLinear()->call(p.a, p.b.t(), bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

at::Tensor byHost(const Product &p) { return p.bias.defined() ? at::addmm(p.bias, p.a, p.b) : at::mm(p.a, p.b); }

std::optional<at::Tensor> run(Race &race, const Product &p) {
  if (race.decided()) {
    if (race.next() == Race::kHost)
      return std::nullopt;
    return byOneDnn(p);
  }
  uint32_t runner = race.next();
  Stopwatch stopwatch(at::get_num_threads());
  try {
    at::Tensor result = runner == Race::kOther ? byOneDnn(p) : byHost(p);
    race.took(runner, stopwatch.seconds());
    return result;
  } catch (const c10::Error &) { // what this library cannot do; a real error comes again from the host
    race.refuse(Race::kOther);
    return std::nullopt;
  }
}

} // namespace

bool multiply(const graph::Event &event, torch::jit::Stack &stack) {
  std::optional<Product> product = productOf(event, stack);
  if (!product || !oneDnnLinear())
    return false;
  Race *race = raceFor(*product);
  std::optional<at::Tensor> result = race ? run(*race, *product) : std::nullopt;
  if (!result)
    return false;
  stack.clear();
  stack.emplace_back(std::move(*result));
  return true;
}

bool canMultiplyInto() {
  if (!at::native::mkldnn_matmul || !at::globalContext().userEnabledMkldnn())
    return false;
  at::Float32Precision precision =
      at::globalContext().float32Precision(at::Float32Backend::MKLDNN, at::Float32Op::MATMUL);
  return precision == at::Float32Precision::NONE || precision == at::Float32Precision::IEEE;
}

void multiplyInto(const at::Tensor &result, const at::Tensor &a, const at::Tensor &b, bool add) {
  at::native::mkldnn_matmul(a, b, result, /*beta=*/add ? 1 : 0, /*alpha=*/1);
}

} // namespace terra::frontend
