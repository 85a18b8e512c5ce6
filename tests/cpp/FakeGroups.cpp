#include "FakeGroups.h"

#include "FakeOps.h"

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <utility>

namespace terra::fake {

using codegen::Instruction;
using codegen::KernelArg;
using codegen::KernelCall;
using graph::Alias;
using graph::kNever;
using graph::Segment;
using graph::SegmentEvent;

namespace {

constexpr size_t kEntries = 1024;
std::array<KernelBody, kEntries> bodies;
std::vector<size_t> freeEntries;
std::mutex tableLock;

template <size_t I> void entry(void *const *args, int64_t begin, int64_t end) { bodies[I](args, begin, end); }
template <size_t... I> constexpr std::array<codegen::KernelFn, kEntries> makeEntries(std::index_sequence<I...>) {
  return {&entry<I>...};
}
constexpr auto kFunctions = makeEntries(std::make_index_sequence<kEntries>());

} // namespace

codegen::KernelFn KernelTable::add(KernelBody body) {
  std::lock_guard lock(tableLock);
  static size_t used = 0;
  if (freeEntries.empty() && used == kEntries)
    return nullptr;
  size_t index = used;
  if (freeEntries.empty()) {
    ++used;
  } else {
    index = freeEntries.back();
    freeEntries.pop_back();
  }
  bodies[index] = std::move(body);
  entries_.push_back(index);
  return kFunctions[index];
}

KernelTable::~KernelTable() {
  std::lock_guard lock(tableLock);
  for (size_t index : entries_) {
    bodies[index] = nullptr;
    freeEntries.push_back(index);
  }
}

namespace {

/// One event inside a kernel: where its tensors and its fed scalars are among the kernel's arguments.
struct Step {
  std::shared_ptr<const graph::Event> event;
  std::vector<uint32_t> in, out;
  std::vector<std::pair<uint32_t, uint32_t>> fedScalars; ///< index among the event's scalars → kernel argument
  std::vector<Scalar> scalars;

  void run(void *const *args, int64_t begin, int64_t end) const {
    std::vector<Elements> inputs, outputs;
    for (size_t i = 0; i < in.size(); ++i)
      inputs.push_back({static_cast<int64_t *>(args[in[i]]), &event->inputs[i].meta});
    for (size_t i = 0; i < out.size(); ++i)
      outputs.push_back({static_cast<int64_t *>(args[out[i]]), &event->results[i].meta});
    std::vector<Scalar> values = scalars;
    for (auto [index, arg] : fedScalars)
      values[index] = *static_cast<const Scalar *>(args[arg]);
    Generator none;
    fakeOp(*event).compute(inputs, values, outputs, begin, end, none);
  }

  int64_t extent() const { return out.empty() ? event->inputs[0].meta.numel() : event->results[0].meta.numel(); }
};

class GroupBuilder {
public:
  GroupBuilder(std::mt19937_64 &random, const Segment &segment, const graph::Deaths &deaths,
               std::vector<uint32_t> events)
      : random_(random), segment_(segment), deaths_(deaths) {
    group_.kind = Instruction::Kind::Kernel;
    group_.events = std::move(events);
  }

  /// False when the kernel table is full.
  bool build(KernelTable &table) {
    chooseSlots();
    bool apart = group_.fusedAway.empty() && random_() % 2; // scratch memory lives as long as one call
    std::vector<uint32_t> together;
    for (uint32_t event : group_.events) {
      if (segment_.events[event].event->onlyMakesViews())
        continue;
      if (!apart)
        together.push_back(event);
      else if (!addKernel(table, {event}))
        return false;
    }
    return apart || addKernel(table, together);
  }

  Instruction take() { return std::move(group_); }

private:
  bool contains(uint32_t event) const { return std::binary_search(group_.events.begin(), group_.events.end(), event); }

  void chooseSlots() {
    for (uint32_t slot = 0; slot < segment_.slots.size(); ++slot) {
      const graph::Slot &s = segment_.slots[slot];
      if (s.external || !contains(s.producer) || segment_.events[s.producer].event->gate)
        continue;
      (mayFuseAway(slot) && random_() % 5 ? group_.fusedAway : group_.outputs).push_back(slot);
    }
  }

  bool mayFuseAway(uint32_t slot) const {
    if (deaths_.empty() || deaths_[slot] == kNever)
      return false;
    for (uint32_t event = 0; event < segment_.events.size(); ++event) {
      const SegmentEvent &e = segment_.events[event];
      if (e.event->onlyMakesViews())
        continue;
      for (const graph::SlotRef &ref : e.inputs)
        if (ref.slot == slot && (!contains(event) || ref.offsetFeed != kNever))
          return false;
    }
    return true;
  }

  bool addKernel(KernelTable &table, const std::vector<uint32_t> &events) {
    call_ = {};
    scratch_.clear();
    auto steps = std::make_shared<std::vector<Step>>();
    for (uint32_t event : events)
      steps->push_back(step(segment_.events[event]));
    call_.serial = events.size() > 1 || !splittable(segment_.events[events[0]]);
    call_.extent = steps->front().extent();
    call_.grain = 1 + int64_t(random_() % 4);
    bool serial = call_.serial;
    call_.fn = table.add([steps, serial](void *const *args, int64_t begin, int64_t end) {
      kernelCalls.fetch_add(1, std::memory_order_relaxed);
      for (const Step &step : *steps)
        serial ? step.run(args, 0, step.extent()) : step.run(args, begin, end);
    });
    group_.kernels.push_back(std::move(call_));
    return group_.kernels.back().fn != nullptr;
  }

  /// No element is written that the computation of another one reads.
  static bool splittable(const SegmentEvent &e) {
    if (!fakeOp(*e.event).elementwise)
      return false;
    for (size_t i = 1; i < e.inputs.size(); ++i)
      if (e.inputs[i].slot == e.inputs[0].slot)
        return false;
    return true;
  }

  Step step(const SegmentEvent &e) {
    Step step;
    step.event = e.event;
    for (size_t i = 0; i < e.inputs.size(); ++i)
      step.in.push_back(tensor(e.inputs[i], e.event->inputs[i].meta.offset));
    for (size_t i = 0; i < e.results.size(); ++i)
      if (e.event->results[i].alias == Alias::Fresh)
        step.out.push_back(tensor(e.results[i], e.event->results[i].meta.offset));
    step.scalars = scalarsOf(*e.event, e.scalarFeeds, std::vector<Scalar>(segment_.numScalarFeeds));
    uint32_t index = 0;
    for (size_t i = 0; i < e.event->args.size(); ++i) {
      const graph::Arg &arg = e.event->args[i];
      for (uint32_t k = 0; k < arg.feeds(); ++k) {
        KernelArg fed;
        fed.kind = KernelArg::Kind::Scalar;
        fed.index = e.scalarFeeds[i] + k;
        step.fedScalars.emplace_back(index + k, add(fed));
      }
      if (arg.kind != graph::ArgKind::Tensor && arg.kind != graph::ArgKind::TensorList)
        index += arg.kind == graph::ArgKind::DoubleList ? arg.count : 1;
    }
    return step;
  }

  uint32_t tensor(const graph::SlotRef &ref, int64_t offset) {
    KernelArg arg;
    arg.byteOffset = offset * kElementBytes;
    if (std::find(group_.fusedAway.begin(), group_.fusedAway.end(), ref.slot) != group_.fusedAway.end()) {
      arg.kind = KernelArg::Kind::Scratch;
      auto [at, isNew] = scratch_.try_emplace(ref.slot, call_.scratchBytes);
      if (isNew)
        call_.scratchBytes += segment_.slots[ref.slot].bytes;
      arg.byteOffset += at->second;
    } else {
      arg.slot = ref.slot;
      arg.offsetFeed = ref.offsetFeed;
      arg.elementSize = uint32_t(kElementBytes);
    }
    return add(arg);
  }

  uint32_t add(const KernelArg &arg) {
    call_.args.push_back(arg);
    return uint32_t(call_.args.size() - 1);
  }

  std::mt19937_64 &random_;
  const Segment &segment_;
  const graph::Deaths &deaths_;
  Instruction group_;
  KernelCall call_;
  std::map<uint32_t, int64_t> scratch_;
};

/// Events that a kernel may compute, dealt to groups; neighbours more often to the same one.
std::vector<std::vector<uint32_t>> deal(std::mt19937_64 &random, const Segment &segment) {
  std::map<uint64_t, std::vector<uint32_t>> groups;
  uint64_t width = 1 + random() % 12;
  for (uint32_t event = 0; event < segment.events.size(); ++event) {
    const graph::Event &e = *segment.events[event].event;
    if (e.gate || e.op->has(graph::kOpRandom) || e.op->has(graph::kOpMayFailOnData) || random() % 4 == 0)
      continue;
    groups[(event + random() % width) / width].push_back(event);
  }
  std::vector<std::vector<uint32_t>> result;
  for (auto &[key, events] : groups)
    if (std::any_of(events.begin(), events.end(),
                    [&](uint32_t e) { return !segment.events[e].event->onlyMakesViews(); }))
      result.push_back(std::move(events));
  return result;
}

} // namespace

std::shared_ptr<const codegen::Executable> randomExecutable(std::mt19937_64 &random, const Segment &segment,
                                                            const graph::Deaths &deaths) {
  auto table = std::make_shared<KernelTable>();
  codegen::Groups groups;
  for (std::vector<uint32_t> &events : deal(random, segment)) {
    GroupBuilder builder(random, segment, deaths, std::move(events));
    if (builder.build(*table))
      groups.push_back(builder.take());
  }
  if (groups.empty())
    return nullptr;
  auto executable = std::make_shared<codegen::Executable>();
  executable->instructions = codegen::schedule(segment, deaths, std::move(groups));
  executable->code = table;
  return executable;
}

graph::Deaths disturb(std::mt19937_64 &random, const Segment &segment, graph::Deaths deaths) {
  deaths.resize(segment.slots.size(), kNever);
  for (uint32_t slot = 0; slot < deaths.size(); ++slot) {
    const graph::Slot &s = segment.slots[slot];
    if (s.external)
      deaths[slot] = kNever;
    else if (random() % 4 == 0)
      deaths[slot] = s.producer + uint32_t(random() % (segment.events.size() + 1 - s.producer));
  }
  return deaths;
}

} // namespace terra::fake
