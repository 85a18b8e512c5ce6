#include "frontend/torch/BackwardFeeds.h"

#include "runtime/Program.h"
#include "runtime/Run.h"

#include <algorithm>

namespace terra::frontend {

using graph::ArgKind;
using graph::kNever;

namespace {

bool isInteger(ArgKind kind) { return kind == ArgKind::Int || kind == ArgKind::NumberInt; }
bool isFloating(ArgKind kind) { return kind == ArgKind::Double || kind == ArgKind::NumberDouble; }

} // namespace

CallScalars scalarsOf(const std::vector<CallNode *> &calls) {
  CallScalars all;
  for (const CallNode *call : calls) {
    std::vector<CallScalar> &scalars = all.emplace_back();
    size_t next = 0;
    for (const graph::Arg &arg : call->span().call.event->args)
      if (arg.varies && next < call->scalars.size()) {
        Scalar value = call->scalars[next++];
        if (isInteger(arg.kind) || isFloating(arg.kind))
          scalars.push_back({value, isInteger(arg.kind)});
      }
  }
  return all;
}

bool BackwardFeeds::valueOf(const CallScalar &scalar, Function function, bool integer, Scalar &out) {
  if (integer) {
    bool known = function == Function::Same || function == Function::Negative || function == Function::MinusOne;
    if (!scalar.isInteger || !known)
      return false;
    out.i = function == Function::Negative ? -scalar.value.i : scalar.value.i - (function == Function::MinusOne);
    return true;
  }
  double value = scalar.isInteger ? double(scalar.value.i) : scalar.value.d;
  switch (function) {
  case Function::Same:
    out.d = value;
    break;
  case Function::Negative:
    out.d = -value;
    break;
  case Function::Inverse:
    out.d = 1 / value;
    break;
  case Function::OneMinus:
    out.d = 1 - value;
    break;
  case Function::MinusOne:
    out.d = value - 1;
    break;
  }
  return true;
}

bool BackwardFeeds::mayComeFrom(const CallScalars &scalars, double value) {
  for (const std::vector<CallScalar> &ofCall : scalars)
    for (const CallScalar &scalar : ofCall)
      for (Function function : kFunctions)
        if (Scalar made{0}; valueOf(scalar, function, /*integer=*/false, made) && made.d == value)
          return true;
  return false;
}

bool BackwardOwn::learn(FactoryWatch &watch, const runtime::SpanRange &range, const CallScalars &scalars) {
  std::optional<SpanMemory> all = watch.uninitialised(range);
  if (!all)
    return false;
  memory = std::move(*all);
  std::erase_if(memory, [](const auto &lent) { return lent.first == kNever; });
  bool fixed = std::all_of(scalars.begin(), scalars.end(), [](const auto &ofCall) { return ofCall.empty(); });
  constants = watch.constants(range, [&](double value) {
    // Derivatives' own numbers are these two.
    return fixed || ((value == 0 || value == 1) && !BackwardFeeds::mayComeFrom(scalars, value));
  });
  return true;
}

std::vector<uint32_t> BackwardOwn::slots() const {
  std::vector<uint32_t> slots;
  for (const auto &constant : constants)
    slots.push_back(constant.first);
  for (const auto &lent : memory)
    slots.push_back(lent.first);
  return slots;
}

void BackwardOwn::lend(runtime::Session &session, Promiser &promiser) const {
  promiser.lend(memory);
  lendConstants(session, constants);
}

bool BackwardFeeds::learnArg(const graph::Arg &arg, uint32_t index, Scalar value, const CallScalars &scalars) {
  if (!isInteger(arg.kind) && !isFloating(arg.kind))
    return false;
  Feed &feed = feeds_.emplace_back();
  feed.feed = index;
  feed.isInteger = isInteger(arg.kind);
  feed.seen = value;
  for (uint32_t call = 0; call < scalars.size(); ++call)
    for (uint32_t i = 0; i < scalars[call].size(); ++i)
      for (Function function : kFunctions)
        if (Scalar made{0}; valueOf(scalars[call][i], function, feed.isInteger, made) && made.i == value.i)
          feed.candidates.push_back({call, i, function});
  return !feed.candidates.empty();
}

bool BackwardFeeds::learn(const runtime::SpanRange &range, const CallScalars &scalars) {
  for (uint32_t i = range.first; i < range.first + range.count; ++i) {
    const graph::SegmentEvent &inner = range.segment->segment().events[i];
    for (uint32_t arg = 0; arg < inner.scalarFeeds.size(); ++arg)
      if (uint32_t feed = inner.scalarFeeds[arg]; feed != kNever)
        if (!learnArg(inner.event->args[arg], feed, range.run->binding.scalars[feed], scalars))
          return false;
  }
  return true;
}

bool BackwardFeeds::narrow(const BackwardFeeds &earlier) {
  if (feeds_.size() != earlier.feeds_.size())
    return false;
  for (size_t i = 0; i < feeds_.size(); ++i) {
    Feed &feed = feeds_[i];
    const Feed &before = earlier.feeds_[i];
    feed.varied = before.varied || before.seen.i != feed.seen.i;
    std::erase_if(feed.candidates, [&](const Candidate &candidate) {
      return std::find(before.candidates.begin(), before.candidates.end(), candidate) == before.candidates.end();
    });
    if (feed.feed != before.feed || feed.candidates.empty())
      return false;
  }
  return true;
}

bool BackwardFeeds::believed() const {
  return std::all_of(feeds_.begin(), feeds_.end(), [](const Feed &feed) { return feed.varied; });
}

bool BackwardFeeds::values(const CallScalars &scalars, std::vector<Scalar> &out) const {
  for (const Feed &feed : feeds_) {
    Scalar value{0};
    for (size_t i = 0; i < feed.candidates.size(); ++i) {
      const Candidate &candidate = feed.candidates[i];
      Scalar made{0};
      if (candidate.call >= scalars.size() || candidate.scalar >= scalars[candidate.call].size() ||
          !valueOf(scalars[candidate.call][candidate.scalar], candidate.function, feed.isInteger, made) ||
          (i > 0 && made.i != value.i))
        return false;
      value = made;
    }
    out.push_back(value);
  }
  return true;
}

void BackwardFeeds::apply(tracer::Binding &binding, const std::vector<Scalar> &values) const {
  for (size_t i = 0; i < feeds_.size(); ++i)
    binding.scalars[feeds_[i].feed] = values[i];
}

} // namespace terra::frontend
