#include "frontend/torch/Bernoulli.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define TERRA_VECTORISED __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))
#else
#define TERRA_VECTORISED
#endif

namespace terra::frontend {

namespace {

constexpr int kState = at::MERSENNE_STATE_N, kMiddle = at::MERSENNE_STATE_M;
constexpr int kBits = 53; // of a uniform double

inline uint32_t twist(uint32_t u, uint32_t v) {
  return (((u & at::UMASK) | (v & at::LMASK)) >> 1) ^ (-(v & 1) & at::MATRIX_A);
}

/// The next 624 states in place.
TERRA_VECTORISED void nextStates(uint32_t *state) {
  for (int j = 0; j < kState - kMiddle; ++j)
    state[j] = state[j + kMiddle] ^ twist(state[j], state[j + 1]);
#pragma GCC ivdep // what is read was written 227 elements ago
  for (int j = kState - kMiddle; j < kState - 1; ++j)
    state[j] = state[j + kMiddle - kState] ^ twist(state[j], state[j + 1]);
  state[kState - 1] = state[kMiddle - 1] ^ twist(state[kState - 1], state[0]);
}

TERRA_VECTORISED void temper(const uint32_t *states, uint32_t *outputs, int count) {
  for (int i = 0; i < count; ++i) {
    uint32_t y = states[i];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    outputs[i] = y ^ (y >> 18);
  }
}

/// The first of two outputs is the upper half; 1 where the lower 53 bits are below `threshold`.
TERRA_VECTORISED void compare(const uint32_t *outputs, int64_t threshold, uint32_t *results, int count) {
  for (int i = 0; i < count; ++i) {
    uint64_t drawn = uint64_t(outputs[2 * i]) << 32 | outputs[2 * i + 1];
    int64_t uniform = int64_t(drawn & ((uint64_t(1) << kBits) - 1));
    results[i] = uniform < threshold ? std::bit_cast<uint32_t>(1.0f) : 0;
  }
}

/// The engine's outputs in order. `left_` counts down from 624 before an output is taken; at 1 new states are made.
void draw(at::mt19937_data_pod &data, uint32_t *outputs, int count) {
  while (count > 0) {
    int ready = data.left_ - 1;
    if (ready == 0) {
      nextStates(data.state_.data());
      data.next_ = 0;
      data.left_ = kState + 1;
      ready = kState;
    }
    int taken = std::min(ready, count);
    temper(data.state_.data() + data.next_, outputs, taken);
    data.next_ += uint32_t(taken);
    data.left_ -= taken;
    outputs += taken;
    count -= taken;
  }
}

/// `tensor` is contiguous and of f32. The generator's lock is held.
void fill(const at::Tensor &tensor, double p, at::CPUGeneratorImpl &generator) {
  constexpr int64_t kChunk = 2 * kState;
  std::array<uint32_t, 2 * kChunk> outputs;
  at::mt19937 engine = generator.engine();
  at::mt19937_data_pod data = engine.data();
  auto threshold = int64_t(std::ceil(std::ldexp(p, kBits)));
  auto *results = reinterpret_cast<uint32_t *>(tensor.mutable_data_ptr<float>());
  for (int64_t done = 0, count = tensor.numel(); done < count; done += kChunk) {
    int now = int(std::min(kChunk, count - done));
    draw(data, outputs.data(), 2 * now);
    compare(outputs.data(), threshold, results + done, now);
  }
  engine.set_data(data);
  generator.set_engine(engine);
}

/// Whether eager's kernel uses the generator and its numbers as `fill` does.
bool equalsEager() {
  for (auto [seed, p, size] :
       {std::tuple(1, 0.9, 3001), std::tuple(2, 0.5, 624), std::tuple(3, 1e-3, 77), std::tuple(4, 1.0, 5)}) {
    at::Generator theirs = at::detail::createCPUGenerator(uint64_t(seed)),
                  ours = at::detail::createCPUGenerator(uint64_t(seed));
    at::Tensor expected = at::empty({size}, at::kFloat), found = at::empty({size}, at::kFloat);
    for (int turn = 0; turn < 2; ++turn) {
      expected.bernoulli_(p, theirs);
      fill(found, p, *at::check_generator<at::CPUGeneratorImpl>(ours));
      if (!at::equal(expected, found) || !at::equal(theirs.get_state(), ours.get_state()))
        return false;
    }
  }
  return true;
}

} // namespace

bool drawBernoulli(const graph::Event &event, torch::jit::Stack &stack) {
  if (event.op->name != "aten::bernoulli_.float" || stack.size() != 3 || !stack[2].isNone())
    return false;
  const at::Tensor &tensor = stack[0].toTensor();
  double p = stack[1].toDouble();
  if (tensor.scalar_type() != at::kFloat || !tensor.is_cpu() || !tensor.is_contiguous() || !(p >= 0 && p <= 1))
    return false;
  static const bool equal = equalsEager();
  if (!equal)
    return false;
  auto &generator = *at::check_generator<at::CPUGeneratorImpl>(at::detail::getDefaultCPUGenerator());
  {
    std::lock_guard lock(generator.mutex_);
    fill(tensor, p, generator);
  }
  torch::jit::drop(stack, 2); // the result is the tensor
  return true;
}

} // namespace terra::frontend
