#include "tracer/Loops.h"

#include <algorithm>
#include <vector>

namespace terra::tracer {

namespace {

uint64_t mix(uint64_t hash, uint64_t value) { return (hash ^ value) * 0x9e3779b97f4a7c15ull + (hash >> 29); }

/// What stays the same from turn to turn: op, context and shapes; scalars and offsets may vary.
uint64_t signature(const graph::Event &event) {
  uint64_t hash = mix(uint64_t(event.kind), reinterpret_cast<uintptr_t>(event.op));
  hash = mix(hash, event.context);
  for (const graph::Arg &arg : event.args)
    hash = mix(hash, uint64_t(arg.kind) << 32 | arg.count);
  for (const graph::Operand &operand : event.inputs) {
    hash = mix(hash, uint64_t(operand.meta.dtype));
    for (int64_t dim : operand.meta.dims)
      hash = mix(hash, uint64_t(dim));
  }
  return hash;
}

} // namespace

std::optional<Period> findPeriod(const Trace &events) {
  size_t n = events.size();
  std::vector<uint64_t> s(n);
  for (size_t i = 0; i < n; ++i)
    s[i] = signature(*events[n - 1 - i]);
  // z[p]: how far the reversed trace agrees with itself moved by p.
  std::vector<size_t> z(n, 0);
  for (size_t i = 1, left = 0, right = 0; i < n; ++i) {
    if (i < right)
      z[i] = std::min(right - i, z[i - left]);
    while (i + z[i] < n && s[z[i]] == s[i + z[i]])
      ++z[i];
    if (i + z[i] > right)
      left = i, right = i + z[i];
  }
  // Short turns that repeat too little are no loop, and neither are several of them taken together.
  std::vector<size_t> refused;
  for (size_t p = 1; 3 * p <= n; ++p) {
    size_t covered = z[p] + p;
    if (covered < std::max(3 * p, kLeastRepetition))
      continue;
    if (std::any_of(refused.begin(), refused.end(), [&](size_t shorter) { return p % shorter == 0; }))
      continue;
    if (p >= kShortTurn || covered >= kLeastShortRepetition)
      return Period{n - covered, p};
    refused.push_back(p);
  }
  return std::nullopt;
}

} // namespace terra::tracer
