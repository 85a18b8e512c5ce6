#include "frontend/torch/Convolve.h"

#include "frontend/torch/Race.h"
#include "runtime/kernels/Convolution.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

namespace terra::frontend {

namespace {

using runtime::Convolution;
using runtime::DirectConvolution;
using Part = DirectConvolution::Part;

constexpr int64_t kMostWork = int64_t(1) << 28; ///< multiplications: above, the library's blocked layouts have paid
constexpr size_t kMostShapes = 4096;

/// The arguments that both operators have.
struct Call {
  at::Tensor images, weight; ///< the input; of a backward, `gradient` is that of the output
  at::Tensor gradient, bias;
  std::vector<int64_t> stride, padding, dilation, outputPadding;
  std::optional<std::vector<int64_t>> biasSizes;
  std::array<bool, 3> mask{};
  int64_t groups = 1;
  bool transposed = false;

  bool isBackward() const { return gradient.defined(); }
};

std::optional<Call> callOf(const graph::Event &event, const torch::jit::Stack &stack) {
  Call call;
  size_t at;
  if (event.op->name == "aten::convolution") {
    call.images = stack[0].toTensor();
    call.weight = stack[1].toTensor();
    call.bias = stack[2].isTensor() ? stack[2].toTensor() : at::Tensor();
    at = 3;
  } else if (event.op->name == "aten::convolution_backward") {
    call.gradient = stack[0].toTensor();
    call.images = stack[1].toTensor();
    call.weight = stack[2].toTensor();
    if (!stack[3].isNone())
      call.biasSizes = stack[3].toIntVector();
    c10::List<bool> mask = stack[10].toBoolList();
    call.mask = {mask[0], mask[1], mask[2]};
    at = 4;
  } else {
    return std::nullopt;
  }
  call.stride = stack[at].toIntVector();
  call.padding = stack[at + 1].toIntVector();
  call.dilation = stack[at + 2].toIntVector();
  call.transposed = stack[at + 3].toBool();
  call.outputPadding = stack[at + 4].toIntVector();
  call.groups = stack[at + 5].toInt();
  return call;
}

bool isDense(const at::Tensor &t) {
  return t.dim() == 4 && t.scalar_type() == at::kFloat && t.device().is_cpu() && t.layout() == at::kStrided &&
         t.is_contiguous() && t.numel() > 0 && !t.is_neg();
}

/// The convolution whose output (transposed: whose input's gradient) the call computes.
std::optional<Convolution> sizesOf(const Call &call) {
  bool plain = isDense(call.images) && isDense(call.weight) && (!call.isBackward() || isDense(call.gradient)) &&
               call.stride.size() == 2 && call.padding.size() == 2 && call.dilation.size() == 2 && call.groups > 0 &&
               (!call.bias.defined() || (call.bias.scalar_type() == at::kFloat && call.bias.is_contiguous()));
  if (!plain)
    return std::nullopt;
  const at::Tensor &x = call.images, &w = call.weight;
  Convolution c{x.size(0), call.groups, w.size(1), w.size(0) / call.groups, {}, {}, {}, {}, {}, {}};
  for (size_t i : {0, 1}) {
    int64_t size = x.size(int64_t(i) + 2), kernel = w.size(int64_t(i) + 2), stride = call.stride[i];
    int64_t padding = call.padding[i], reach = call.dilation[i] * (kernel - 1);
    c.kernel[i] = kernel, c.stride[i] = stride, c.padding[i] = padding, c.dilation[i] = call.dilation[i];
    if (stride < 1 || call.dilation[i] < 1 || padding < 0)
      return std::nullopt;
    c.in[i] = call.transposed ? (size - 1) * stride - 2 * padding + reach + 1 + call.outputPadding[i] : size;
    c.out[i] = call.transposed ? size : (size + 2 * padding - reach - 1) / stride + 1;
  }
  return c;
}

using Key = std::vector<int64_t>;

Key keyOf(const Call &call, const Convolution &c) {
  Key key{c.batch,         c.groups,          c.inChannels,         c.outChannels,
          call.transposed, call.isBackward(), call.bias.defined(),  call.mask[0],
          call.mask[1],    call.mask[2],      at::get_num_threads()};
  for (const Convolution::Pair &pair : {c.in, c.out, c.kernel, c.stride, c.padding, c.dilation})
    key.insert(key.end(), pair.begin(), pair.end());
  return key;
}

std::mutex mutex;
std::map<Key, Race> races;

Race *raceFor(const Call &call, const Convolution &c) {
  Key key = keyOf(call, c);
  std::lock_guard lock(mutex);
  auto found = races.find(key);
  if (found == races.end())
    found = races.size() < kMostShapes ? races.try_emplace(std::move(key)).first : races.end();
  return found == races.end() ? nullptr : &found->second; // used by the runner's thread only
}

/// Up to three results; no element: refused.
using Results = std::vector<at::Tensor>;

class Direct {
public:
  Direct(const Call &call, const Convolution &c) : call_(call), c_(c) {}

  bool supported() const {
    if (!call_.isBackward())
      return DirectConvolution::supports(forward(), c_);
    return (!call_.mask[0] || DirectConvolution::supports(backward(), c_)) &&
           (!call_.mask[1] || DirectConvolution::supports(Part::WeightGradient, c_));
  }

  Results run() const {
    if (!call_.isBackward()) {
      at::Tensor result = images(forward(), call_.images, call_.bias);
      return result.defined() ? Results{result} : Results{};
    }
    Results results(3);
    if (call_.mask[0] && !(results[0] = images(backward(), call_.gradient, {})).defined())
      return {};
    if (call_.mask[1] && !(results[1] = weights()).defined())
      return {};
    if (call_.mask[2])
      results[2] = call_.gradient.sum(at::IntArrayRef{0, 2, 3});
    return results;
  }

private:
  Part forward() const { return call_.transposed ? Part::InputGradient : Part::Output; }
  Part backward() const { return call_.transposed ? Part::Output : Part::InputGradient; }

  static void parallelFor(int64_t extent, int64_t grain, const std::function<void(int64_t, int64_t)> &body) {
    at::parallel_for(0, extent, grain, body);
  }

  at::Tensor scratchFor(const DirectConvolution &direct) const {
    return at::empty({int64_t(direct.scratchFloats())}, call_.weight.options());
  }

  at::Tensor images(Part part, const at::Tensor &from, const at::Tensor &bias) const {
    DirectConvolution direct(part, c_);
    const Convolution::Pair &size = part == Part::Output ? c_.out : c_.in;
    int64_t channels = c_.groups * (part == Part::Output ? c_.outChannels : c_.inChannels);
    at::Tensor result = at::empty({c_.batch, channels, size[0], size[1]}, from.options()), scratch = scratchFor(direct);
    bool done = direct.run(from.const_data_ptr<float>(), call_.weight.const_data_ptr<float>(),
                           bias.defined() ? bias.const_data_ptr<float>() : nullptr, result.mutable_data_ptr<float>(),
                           scratch.mutable_data_ptr<float>(), parallelFor);
    return done ? result : at::Tensor();
  }

  at::Tensor weights() const {
    DirectConvolution direct(Part::WeightGradient, c_);
    at::Tensor result = at::empty_like(call_.weight, at::MemoryFormat::Contiguous), scratch = scratchFor(direct);
    const at::Tensor &gradient = call_.transposed ? call_.images : call_.gradient;
    const at::Tensor &input = call_.transposed ? call_.gradient : call_.images;
    bool done = direct.runWeight(gradient.const_data_ptr<float>(), input.const_data_ptr<float>(),
                                 result.mutable_data_ptr<float>(), scratch.mutable_data_ptr<float>(), parallelFor);
    return done ? result : at::Tensor();
  }

  const Call &call_;
  const Convolution &c_;
};

Results byHost(const Call &call) {
  if (!call.isBackward()) {
    std::optional<at::Tensor> bias = call.bias.defined() ? std::optional(call.bias) : std::nullopt;
    return {at::convolution(call.images, call.weight, bias, call.stride, call.padding, call.dilation, call.transposed,
                            call.outputPadding, call.groups)};
  }
  at::OptionalIntArrayRef biasSizes;
  if (call.biasSizes)
    biasSizes = at::IntArrayRef(*call.biasSizes);
  auto [input, weight, bias] =
      at::convolution_backward(call.gradient, call.images, call.weight, biasSizes, call.stride, call.padding,
                               call.dilation, call.transposed, call.outputPadding, call.groups, call.mask);
  return {input, weight, bias};
}

Results run(Race &race, const Call &call, const Convolution &c) {
  Direct direct(call, c);
  if (race.decided())
    return race.next() == Race::Runner::Host ? Results() : direct.run();
  Race::Runner runner = race.next();
  if (!direct.supported()) {
    race.refuse();
    return {};
  }
  auto start = std::chrono::steady_clock::now();
  Results results = runner == Race::Runner::Other ? direct.run() : byHost(call);
  race.took(runner, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return results;
}

} // namespace

bool convolve(const graph::Event &event, torch::jit::Stack &stack) {
  std::optional<Call> call = callOf(event, stack);
  std::optional<Convolution> sizes = call ? sizesOf(*call) : std::nullopt;
  if (!sizes || sizes->multiplications() > kMostWork)
    return false;
  Race *race = raceFor(*call, *sizes);
  Results results = race ? run(*race, *call, *sizes) : Results();
  if (results.empty())
    return false;
  stack.clear();
  for (at::Tensor &result : results)
    stack.emplace_back(std::move(result));
  return true;
}

} // namespace terra::frontend
