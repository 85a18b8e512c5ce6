#include "runtime/SideRun.h"

#include "graph/Op.h"
#include "runtime/Run.h"
#include "runtime/Session.h"

#include <algorithm>
#include <set>

namespace terra::runtime {

using graph::kNever;

namespace {

bool mayRunBeside(const graph::Event &event) {
  return event.kind == graph::EventKind::Call && event.op && !event.gate && event.whole == 0 &&
         !event.op->has(graph::kOpRandom) && !event.op->has(graph::kOpMayFailOnData) && !event.op->has(graph::kOpGate);
}

/// Never one whose externs may run by other kernels than eager's: those are the runner's.
const std::shared_ptr<const codegen::Executable> &eagerKernels() {
  static const auto &executable =
      *new std::shared_ptr<const codegen::Executable>(std::make_shared<codegen::Executable>());
  return executable;
}

} // namespace

std::optional<Slice> sliceOf(const graph::Segment &segment, uint32_t slot) {
  std::set<uint32_t> events, inputs, todo{slot};
  while (!todo.empty()) {
    uint32_t next = *todo.begin();
    todo.erase(todo.begin());
    const graph::Slot &info = segment.slots[next];
    if (info.written || info.device.type != DeviceType::CPU)
      return std::nullopt;
    if (info.external) {
      inputs.insert(next);
      continue;
    }
    if (info.bytes > kMostSliceBytes)
      return std::nullopt;
    if (!events.insert(info.producer).second)
      continue;
    const graph::SegmentEvent &producer = segment.events[info.producer];
    if (!mayRunBeside(*producer.event) || events.size() > kMostSliceEvents)
      return std::nullopt;
    for (const graph::SlotRef &input : producer.inputs)
      if (input.slot != kNever)
        todo.insert(input.slot);
  }
  return Slice{{events.begin(), events.end()}, {inputs.begin(), inputs.end()}};
}

std::optional<SideRun> Session::sideRunFor(const Buffer &buffer) {
  if (!behind_ || buffer.state() != Buffer::State::Pending)
    return std::nullopt;
  const std::vector<graph::StorageTag *> &slots = behind_->binding.slots; // the buffer's own number is the gate's
  auto slot = uint32_t(std::find(slots.begin(), slots.end(), &buffer) - slots.begin());
  const Slice *slice = slot < slots.size() ? behind_->compiled->sliceFor(slot) : nullptr;
  // Where the runner has come that far, waiting is shorter.
  if (!slice || runtime_.runner().completedTicket() + 1 >= behind_->ticket)
    return std::nullopt;
  auto run = std::make_shared<Run>();
  run->binding = behind_->binding;
  run->compiled = behind_->compiled;
  run->executable = eagerKernels();
  run->buffers.resize(behind_->segment().slots.size());
  for (uint32_t input : slice->inputs) {
    auto held = std::find_if(behind_->heldForReads.begin(), behind_->heldForReads.end(),
                             [&](const auto &one) { return one.first == input; });
    if (held == behind_->heldForReads.end()) // the slice is new
      return std::nullopt;
    Buffer &bound = *held->second.get();
    if (!runtime_.settled(bound, /*write=*/false) || int64_t(bound.bytes()) > kMostSliceBytes)
      return std::nullopt;
    run->buffers[input] = BufferRef::adopt(new Buffer(Memory{bound.data()}, bound.bytes(), bound.device()));
  }
  ++stats_.sideRuns;
  return SideRun{std::move(run), behind_, slice, slot};
}

} // namespace terra::runtime
