#include "tracer/Loops.h"

#include "graph/Hash.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace terra::tracer {

namespace {

using graph::mix;

/// What stays the same from turn to turn: op, context, enclosing call and shapes; scalars and offsets may vary.
uint64_t signature(const graph::Event &event) {
  uint64_t hash = mix(uint64_t(event.kind), reinterpret_cast<uintptr_t>(event.op));
  hash = mix(hash, event.context);
  hash = mix(hash, event.whole);
  for (const graph::Arg &arg : event.args)
    hash = mix(hash, uint64_t(arg.kind) << 32 | arg.count);
  for (const graph::Operand &operand : event.inputs) {
    hash = mix(hash, uint64_t(operand.meta.dtype));
    for (int64_t dim : operand.meta.dims)
      hash = mix(hash, uint64_t(dim));
  }
  return hash;
}

/// Storages that the events from `begin` to `end` make.
std::unordered_set<graph::StorageId> madeIn(const Trace &events, size_t begin, size_t end) {
  std::unordered_set<graph::StorageId> made;
  for (size_t i = begin; i < end; ++i)
    for (const graph::Result &result : events[i]->results)
      if (result.alias == graph::Alias::Fresh)
        made.insert(result.storage);
  return made;
}

/// Whether the turn from `first` works on the state that the turn before it worked on or left behind. Data that is new in every
/// turn is allowed as long as it is not the greater part.
bool carriesState(const Trace &events, size_t first, size_t length) {
  auto made = madeIn(events, first, first + length), before = madeIn(events, first - length, first);
  std::unordered_set<graph::StorageId> carried, others;
  for (size_t i = first; i < first + length; ++i)
    for (size_t j = 0; j < events[i]->inputs.size(); ++j) {
      graph::StorageId storage = events[i]->inputs[j].storage;
      if (storage == graph::kNoStorage || made.contains(storage))
        continue;
      bool same = storage == events[i - length]->inputs[j].storage;
      (same || before.contains(storage) ? carried : others).insert(storage);
    }
  return others.size() <= 1 || others.size() <= carried.size();
}

/// What does the same to one set of storages after another (an optimizer to its parameters, the equal layers of a model) is no
/// loop of the program. Looks at the end of the trace.
bool isLoop(const Trace &events, size_t length) {
  size_t turns = std::max<size_t>(2, kLeastRepetition / length) - 1;
  for (size_t turn = 1; turn <= turns; ++turn)
    if (!carriesState(events, events.size() - turn * length, length))
      return false;
  return true;
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
  std::unordered_map<size_t, std::vector<size_t>> refused; ///< by what the repetition covers: periods without a loop
  for (size_t p = 1; 3 * p <= n; ++p) {
    size_t covered = z[p] + p;
    if (covered < std::max(3 * p, kLeastRepetition))
      continue;
    auto &shorter = refused[covered];
    if (std::any_of(shorter.begin(), shorter.end(), [p](size_t q) { return p % q == 0; }))
      continue;
    if (isLoop(events, p))
      return Period{n - covered, p};
    shorter.push_back(p);
  }
  return std::nullopt;
}

} // namespace terra::tracer
