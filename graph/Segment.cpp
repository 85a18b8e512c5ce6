#include "graph/Segment.h"

#include <unordered_map>

namespace terra::graph {

namespace {
class Builder {
public:
  explicit Builder(Segment &segment) : segment_(segment) {}

  void add(const std::shared_ptr<const Event> &event) {
    index_ = uint32_t(segment_.events.size());
    SegmentEvent out;
    out.event = event;
    for (const Operand &operand : event->inputs)
      out.inputs.push_back(input(operand));
    for (const Result &result : event->results)
      out.results.push_back(this->result(result));
    for (const Arg &arg : event->args) {
      out.scalarFeeds.push_back(arg.varies ? segment_.numScalarFeeds : kNever);
      segment_.numScalarFeeds += arg.feeds();
    }
    segment_.events.push_back(std::move(out));
  }

private:
  SlotRef input(const Operand &operand) {
    if (operand.storage == kNoStorage)
      return {};
    uint32_t slot = slotOf(operand.storage, operand.meta.device, /*external=*/true);
    touch(slot);
    segment_.slots[slot].written |= operand.written;
    return {slot, operand.offsetVaries ? segment_.numOffsetFeeds++ : kNever};
  }

  SlotRef result(const Result &result) {
    if (result.alias == Alias::Undefined)
      return {};
    uint32_t slot = slotOf(result.storage, result.meta.device, /*external=*/false);
    if (!segment_.slots[slot].external && segment_.slots[slot].producer == index_ && result.storageBytes)
      segment_.slots[slot].bytes = result.storageBytes;
    touch(slot);
    return {slot, kNever};
  }

  uint32_t slotOf(StorageId storage, Device device, bool external) {
    auto [it, inserted] = slots_.try_emplace(storage, uint32_t(segment_.slots.size()));
    if (inserted) {
      Slot slot;
      slot.storage = storage;
      slot.external = external;
      slot.producer = external ? kNever : index_;
      slot.device = device;
      segment_.slots.push_back(slot);
    }
    return it->second;
  }

  void touch(uint32_t slot) {
    Slot &s = segment_.slots[slot];
    if (s.firstUse == kNever)
      s.firstUse = index_;
    s.lastUse = index_;
  }

  Segment &segment_;
  uint32_t index_ = 0;
  std::unordered_map<StorageId, uint32_t> slots_;
};
} // namespace

Segment makeSegment(const std::vector<std::shared_ptr<const Event>> &events) {
  Segment segment;
  segment.events.reserve(events.size());
  Builder builder(segment);
  for (const auto &event : events)
    builder.add(event);
  return segment;
}

std::string toString(const Segment &segment) {
  std::string text;
  for (const SegmentEvent &e : segment.events) {
    Event event = *e.event; // a copy whose storage numbers are the slots
    for (size_t i = 0; i < e.inputs.size(); ++i)
      event.inputs[i].storage = e.inputs[i].slot;
    for (size_t i = 0; i < e.results.size(); ++i)
      event.results[i].storage = e.results[i].slot;
    text += toString(event) + "\n";
  }
  return text;
}

} // namespace terra::graph
