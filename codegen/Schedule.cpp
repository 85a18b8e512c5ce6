// The order of instructions.
//
// The Python thread walks a segment event by event; an instruction may run once everything it needs has been recognised.
// Its *trigger* is the latest of
//   - its own events,
//   - the recorded deaths of the storages that it fuses away (until then Python could still read them), and
//   - the triggers of earlier instructions with which it has a hazard: it reads what they write, writes what they
//     read or write, or both draw random numbers.
// Instructions are sorted by trigger, ties by their anchor (the last of their events), so that the GraphRunner, a queue, never holds an
// instruction whose inputs come from a later one. In program order with deferred groups a queue can deadlock: an
// instruction early in the list could wait for a death that only happens after Python has read a later one's output.
//
// A segment ends at every gate, fetch and branch, so "everything has triggered" holds when one is reached.
#include "codegen/Executable.h"

#include "codegen/Compiler.h"

#include <algorithm>
#include <unordered_set>

namespace terra::codegen {

using graph::Alias;
using graph::kNever;
using graph::Segment;
using graph::SegmentEvent;

namespace {

bool onlyMakesViews(const SegmentEvent &e) { return e.event->onlyMakesViews(); }

struct Effects {
  std::vector<uint32_t> reads, writes;
  bool random = false;
};

Effects effectsOf(const Segment &segment, const Instruction &instruction) {
  Effects effects;
  for (uint32_t index : instruction.events) {
    const SegmentEvent &e = segment.events[index];
    if (onlyMakesViews(e))
      continue;
    effects.random |= e.event->op && e.event->op->has(graph::kOpRandom);
    for (size_t i = 0; i < e.inputs.size(); ++i) {
      if (e.inputs[i].slot == kNever)
        continue;
      (e.event->inputs[i].written ? effects.writes : effects.reads).push_back(e.inputs[i].slot);
    }
    for (size_t i = 0; i < e.results.size(); ++i)
      if (e.results[i].slot != kNever && e.event->results[i].alias == Alias::Fresh)
        effects.writes.push_back(e.results[i].slot);
  }
  return effects;
}

/// For each slot: the triggers an access has to wait for.
struct Hazards {
  std::vector<uint32_t> lastWrite, lastRead;
  uint32_t lastRandom = 0;

  explicit Hazards(size_t slots) : lastWrite(slots, 0), lastRead(slots, 0) {}

  uint32_t before(const Effects &effects) const {
    uint32_t trigger = effects.random ? lastRandom : 0;
    for (uint32_t slot : effects.reads)
      trigger = std::max(trigger, lastWrite[slot]);
    for (uint32_t slot : effects.writes)
      trigger = std::max({trigger, lastWrite[slot], lastRead[slot]});
    return trigger;
  }
  void add(const Effects &effects, uint32_t trigger) {
    for (uint32_t slot : effects.reads)
      lastRead[slot] = std::max(lastRead[slot], trigger);
    for (uint32_t slot : effects.writes)
      lastWrite[slot] = std::max(lastWrite[slot], trigger);
    if (effects.random)
      lastRandom = std::max(lastRandom, trigger);
  }
};

Instruction externFor(const Segment &segment, uint32_t index) {
  Instruction instruction;
  const SegmentEvent &e = segment.events[index];
  instruction.kind = onlyMakesViews(e) ? Instruction::Kind::Nothing : Instruction::Kind::Extern;
  instruction.events = {index};
  for (size_t i = 0; i < e.results.size(); ++i) {
    uint32_t slot = e.results[i].slot;
    if (slot == kNever || e.event->results[i].alias != Alias::Fresh)
      continue;
    if (std::find(instruction.outputs.begin(), instruction.outputs.end(), slot) == instruction.outputs.end())
      instruction.outputs.push_back(slot);
  }
  return instruction;
}

/// Adds an extern for each event that no group covers.
void complete(const Segment &segment, std::vector<Instruction> &list) {
  std::vector<bool> covered(segment.events.size(), false);
  for (const Instruction &instruction : list)
    for (uint32_t index : instruction.events)
      covered[index] = true;
  for (uint32_t index = 0; index < segment.events.size(); ++index)
    if (!covered[index])
      list.push_back(externFor(segment, index));
}

/// A group works at its anchor: every member has been recognised there.
uint32_t anchor(const Instruction &instruction) { return instruction.events.back(); }

/// Triggers in program order of the anchors. Returns the index of a group that cannot trigger within the segment, or -1.
int computeTriggers(const Segment &segment, const graph::Deaths &deaths, std::vector<Instruction> &list) {
  std::stable_sort(list.begin(), list.end(),
                   [](const Instruction &a, const Instruction &b) { return anchor(a) < anchor(b); });
  uint32_t last = segment.events.empty() ? 0 : uint32_t(segment.events.size() - 1);
  Hazards hazards(segment.slots.size());
  for (size_t i = 0; i < list.size(); ++i) {
    Instruction &instruction = list[i];
    uint32_t trigger = anchor(instruction);
    for (uint32_t slot : instruction.fusedAway)
      trigger = std::max(trigger, deaths.empty() ? kNever : deaths[slot]);
    if (trigger > last)
      return int(i);
    Effects effects = effectsOf(segment, instruction);
    instruction.trigger = std::max(trigger, hazards.before(effects));
    hazards.add(effects, instruction.trigger);
  }
  return -1;
}

void breakUp(const Segment &segment, std::vector<Instruction> &list, size_t index) {
  Instruction group = std::move(list[index]);
  list.erase(list.begin() + ptrdiff_t(index));
  for (uint32_t event : group.events)
    list.push_back(externFor(segment, event));
}

/// Drops every slot after the last instruction that covers an event which touches it.
void computeReleases(const Segment &segment, std::vector<Instruction> &list) {
  std::vector<uint32_t> lastUser(segment.slots.size(), kNever);
  for (uint32_t i = 0; i < list.size(); ++i) {
    list[i].releases.clear();
    for (uint32_t index : list[i].events) {
      for (const graph::SlotRef &ref : segment.events[index].inputs)
        if (ref.slot != kNever)
          lastUser[ref.slot] = i;
      for (const graph::SlotRef &ref : segment.events[index].results)
        if (ref.slot != kNever)
          lastUser[ref.slot] = i;
    }
  }
  for (uint32_t slot = 0; slot < lastUser.size(); ++slot)
    if (lastUser[slot] != kNever)
      list[lastUser[slot]].releases.push_back(slot);
}

} // namespace

std::vector<Instruction> schedule(const Segment &segment, const graph::Deaths &deaths, Groups groups) {
  std::vector<Instruction> list = std::move(groups);
  complete(segment, list);
  for (int late; (late = computeTriggers(segment, deaths, list)) >= 0;)
    breakUp(segment, list, size_t(late));
  std::stable_sort(list.begin(), list.end(),
                   [](const Instruction &a, const Instruction &b) { return a.trigger < b.trigger; });
  computeReleases(segment, list);
  return list;
}

namespace {

std::string describe(const Segment &segment, const Instruction &instruction) {
  std::string text = "instruction of event " + std::to_string(instruction.events.back());
  return text + " (" + segment.events[instruction.events.back()].event->name() + ")";
}

class Verifier {
public:
  Verifier(const Segment &segment, const graph::Deaths &deaths, const std::vector<Instruction> &list)
      : segment_(segment), deaths_(deaths), list_(list), position_(segment.events.size(), kNever) {}

  std::string run() {
    for (auto check : {&Verifier::coverage, &Verifier::triggers, &Verifier::hazards, &Verifier::fusedAway})
      if (std::string error = (this->*check)(); !error.empty())
        return error;
    return {};
  }

private:
  std::string coverage() {
    for (uint32_t i = 0; i < list_.size(); ++i)
      for (uint32_t event : list_[i].events) {
        if (event >= position_.size() || position_[event] != kNever)
          return "event " + std::to_string(event) + " belongs to two instructions or to none";
        position_[event] = i;
      }
    for (uint32_t event = 0; event < position_.size(); ++event)
      if (position_[event] == kNever)
        return "event " + std::to_string(event) + " belongs to no instruction";
    return {};
  }

  std::string triggers() {
    uint32_t previous = 0;
    for (const Instruction &instruction : list_) {
      if (instruction.trigger < previous)
        return describe(segment_, instruction) + " is not sorted by trigger";
      previous = instruction.trigger;
      if (instruction.trigger >= segment_.events.size())
        return describe(segment_, instruction) + " triggers after the segment";
      if (instruction.trigger < instruction.events.back())
        return describe(segment_, instruction) + " triggers before its last event";
      for (uint32_t slot : instruction.fusedAway)
        if (deaths_.empty() || deaths_[slot] > instruction.trigger)
          return describe(segment_, instruction) + " fuses away slot " + std::to_string(slot) + " before its death";
    }
    return {};
  }

  /// Every pair of events with a hazard runs in program order, or inside one instruction.
  std::string hazards() {
    struct Last {
      uint32_t write = kNever;
      std::vector<uint32_t> reads;
    };
    std::vector<Last> last(segment_.slots.size());
    uint32_t random = kNever;
    for (uint32_t event = 0; event < segment_.events.size(); ++event) {
      Instruction one;
      one.events = {event};
      Effects effects = effectsOf(segment_, one);
      auto ordered = [&](uint32_t earlier) { return earlier == kNever || position_[earlier] <= position_[event]; };
      for (uint32_t slot : effects.reads)
        if (!ordered(last[slot].write))
          return "event " + std::to_string(event) + " reads slot " + std::to_string(slot) + " before it is written";
      for (uint32_t slot : effects.writes) {
        bool ok = ordered(last[slot].write);
        for (uint32_t read : last[slot].reads)
          ok &= ordered(read);
        if (!ok)
          return "event " + std::to_string(event) + " overwrites slot " + std::to_string(slot) + " too early";
      }
      if (effects.random && !ordered(random))
        return "event " + std::to_string(event) + " draws random numbers out of order";
      for (uint32_t slot : effects.reads)
        last[slot].reads.push_back(event);
      for (uint32_t slot : effects.writes)
        last[slot] = {event, {}};
      if (effects.random)
        random = event;
    }
    return {};
  }

  std::string fusedAway() {
    for (uint32_t i = 0; i < list_.size(); ++i)
      for (uint32_t slot : list_[i].fusedAway) {
        if (segment_.slots[slot].external)
          return describe(segment_, list_[i]) + " fuses away an external slot";
        for (uint32_t event = 0; event < segment_.events.size(); ++event)
          for (const graph::SlotRef &ref : segment_.events[event].inputs)
            if (ref.slot == slot && position_[event] != i && !onlyMakesViews(segment_.events[event]))
              return describe(segment_, list_[i]) + " fuses away slot " + std::to_string(slot) + " that event " +
                     std::to_string(event) + " reads";
      }
    return {};
  }

  const Segment &segment_;
  const graph::Deaths &deaths_;
  const std::vector<Instruction> &list_;
  std::vector<uint32_t> position_;
};

} // namespace

std::string verify(const Segment &segment, const graph::Deaths &deaths, const std::vector<Instruction> &instructions) {
  return Verifier(segment, deaths, instructions).run();
}

std::shared_ptr<const Executable> interpretOnly(const Segment &segment) {
  auto executable = std::make_shared<Executable>();
  executable->instructions = schedule(segment, {}, {});
  for (const Instruction &instruction : executable->instructions)
    executable->externCount += instruction.kind == Instruction::Kind::Extern;
  return executable;
}

} // namespace terra::codegen
