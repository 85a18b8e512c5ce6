#include "frontend/torch/Convolve.h"

#include "frontend/torch/ConvolutionCall.h"
#include "frontend/torch/ConvolutionWays.h"
#include "frontend/torch/MatrixProduct.h"
#include "frontend/torch/Race.h"

#include <ATen/Parallel.h>

#include <map>
#include <mutex>

namespace terra::frontend {

namespace {

using runtime::Convolution;
using Part = runtime::DirectConvolution::Part;

constexpr size_t kMostShapes = 4096;
constexpr ConvolutionWay kWays[] = {ConvolutionWay::Direct, ConvolutionWay::Images, ConvolutionWay::Columns};

/// A race between the host and the ways that support a part.
struct PartRace {
  std::vector<ConvolutionWay> ways;
  Race race{1};

  PartRace() = default;
  PartRace(Part part, const Convolution &sizes) {
    for (ConvolutionWay way : kWays)
      if (supports(way, part, sizes))
        ways.push_back(way);
    race = Race(1 + uint32_t(ways.size()));
  }

  bool isOver() const { return ways.empty() || race.decided(); }
  bool isHosts() const { return ways.empty() || race.next() == Race::kHost; }
};

using Key = std::vector<int64_t>;

Key keyOf(const ConvolutionCall &call, const ConvolutionPart &part, const Convolution &c) {
  Key key{c.batch,         c.groups,          c.inChannels,        c.outChannels,     int64_t(part.part),
          call.transposed, call.isBackward(), part.bias.defined(), canMultiplyInto(), at::get_num_threads()};
  for (const Convolution::Pair &pair : {c.in, c.out, c.kernel, c.stride, c.padding, c.dilation})
    key.insert(key.end(), pair.begin(), pair.end());
  return key;
}

std::mutex mutex;
std::map<Key, PartRace> races;

PartRace *raceFor(const ConvolutionCall &call, const ConvolutionPart &part, const Convolution &c) {
  Key key = keyOf(call, part, c);
  std::lock_guard lock(mutex);
  auto found = races.find(key);
  if (found == races.end() && races.size() < kMostShapes)
    found = races.try_emplace(std::move(key), part.part, c).first;
  return found == races.end() ? nullptr : &found->second; // used by the runner's thread only
}

at::Tensor forwardByHost(const ConvolutionCall &call) {
  std::optional<at::Tensor> bias = call.bias.defined() ? std::optional(call.bias) : std::nullopt;
  return at::convolution(call.images, call.weight, bias, call.stride, call.padding, call.dilation, call.transposed,
                         call.outputPadding, call.groups);
}

using Gradients = std::array<at::Tensor, 3>; ///< of input, weight and bias

Gradients backwardByHost(const ConvolutionCall &call, std::array<bool, 3> mask) {
  at::OptionalIntArrayRef biasSizes;
  if (call.biasSizes)
    biasSizes = at::IntArrayRef(*call.biasSizes);
  auto [input, weight, bias] =
      at::convolution_backward(call.gradient, call.images, call.weight, biasSizes, call.stride, call.padding,
                               call.dilation, call.transposed, call.outputPadding, call.groups, mask);
  return {input, weight, bias};
}

/// The part by one of the ways; undefined: refused.
at::Tensor tryWay(PartRace &race, uint32_t runner, const ConvolutionPart &part, const Convolution &sizes) {
  try {
    return compute(race.ways[runner - 1], part, sizes);
  } catch (const std::exception &) { // what the library cannot do; a real error comes again from the host
    race.race.refuse(runner);
    return {};
  }
}

/// The part by whoever has the turn.
template <class Host>
at::Tensor takeTurn(PartRace &race, const ConvolutionPart &part, const Convolution &sizes, const Host &host) {
  bool over = race.isOver();
  uint32_t runner = race.isHosts() ? Race::kHost : race.race.next();
  Stopwatch stopwatch(at::get_num_threads());
  at::Tensor result = runner == Race::kHost ? host() : tryWay(race, runner, part, sizes);
  if (!over)
    race.race.took(runner, stopwatch.seconds());
  return result.defined() ? result : host();
}

bool runForward(const ConvolutionCall &call, const Convolution &sizes, torch::jit::Stack &stack) {
  ConvolutionPart part = forwardPart(call);
  PartRace *race = raceFor(call, part, sizes);
  if (!race || (race->isOver() && race->isHosts()))
    return false;
  at::Tensor result = takeTurn(*race, part, sizes, [&] { return forwardByHost(call); });
  stack.clear();
  stack.emplace_back(std::move(result));
  return true;
}

/// Each gradient by whoever is the best for it; by one call of the host's where that is the best for both.
bool runBackward(const ConvolutionCall &call, const Convolution &sizes, torch::jit::Stack &stack) {
  const ConvolutionPart parts[] = {inputPart(call), weightPart(call)};
  PartRace *chosen[2] = {};
  bool hosts = true;
  for (size_t i : {0, 1})
    if (call.mask[i]) {
      chosen[i] = raceFor(call, parts[i], sizes);
      if (!chosen[i])
        return false;
      hosts &= chosen[i]->isOver() && chosen[i]->isHosts();
    }
  if (hosts)
    return false;
  Gradients results;
  for (size_t i : {0, 1})
    if (chosen[i])
      results[i] = takeTurn(*chosen[i], parts[i], sizes, [&] {
        std::array<bool, 3> mask{};
        mask[i] = true;
        return backwardByHost(call, mask)[i];
      });
  if (call.mask[2])
    results[2] = call.gradient.sum(at::IntArrayRef{0, 2, 3});
  stack.clear();
  for (at::Tensor &result : results)
    stack.emplace_back(std::move(result));
  return true;
}

} // namespace

bool convolve(const graph::Event &event, torch::jit::Stack &stack) {
  std::optional<ConvolutionCall> call = convolutionCallOf(event, stack);
  std::optional<Convolution> sizes = call ? convolutionOf(*call) : std::nullopt;
  if (!sizes)
    return false;
  return call->isBackward() ? runBackward(*call, *sizes, stack) : runForward(*call, *sizes, stack);
}

} // namespace terra::frontend
