// The order of instructions.
//
// The Python thread walks a segment event by event; an instruction may run once everything it needs has been recognised.
// Its *trigger* is the latest of
//   - its own events,
//   - the recorded deaths of the storages that it fuses away (until then Python could still read them), and
//   - the triggers of earlier instructions with which it has a hazard: it reads what they write, writes what they
//     read or write, or both draw random numbers; or they may fail and it does what could not be undone.
// Instructions are sorted by trigger, ties topologically by hazards, so that the GraphRunner, a queue, never holds an
// instruction whose inputs come from a later one. In program order with deferred groups a queue can deadlock: an
// instruction early in the list could wait for a death that only happens after Python has read a later one's output.
//
// A segment ends at every gate, fetch and branch, so "everything has triggered" holds when one is reached. The number of events is a
// trigger too: the end of the walk, which a region's last segment reaches when the region does (Session::advance).
#include "codegen/Executable.h"

#include "codegen/Compiler.h"
#include "graph/Guards.h"

#include <algorithm>
#include <iterator>
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

Effects effectsOf(const Segment &segment, uint32_t index) {
  Effects effects;
  const SegmentEvent &e = segment.events[index];
  if (onlyMakesViews(e))
    return effects;
  effects.random = e.event->op && e.event->op->has(graph::kOpRandom);
  for (size_t i = 0; i < e.inputs.size(); ++i) {
    if (e.inputs[i].slot == kNever)
      continue;
    (e.event->inputs[i].written ? effects.writes : effects.reads).push_back(e.inputs[i].slot);
  }
  for (size_t i = 0; i < e.results.size(); ++i)
    if (e.results[i].slot != kNever && e.event->results[i].alias == Alias::Fresh)
      effects.writes.push_back(e.results[i].slot);
  return effects;
}

/// Walks the events in program order and reports each pair with a hazard: it reads what the earlier one wrote, writes what
/// the earlier one read or wrote, or both draw random numbers. `report(earlier, later, slot)`; slot is kNever for draws.
template <typename Report> void forEachHazard(const Segment &segment, const Report &report) {
  struct Last {
    uint32_t write = kNever;
    std::vector<uint32_t> reads;
  };
  std::vector<Last> last(segment.slots.size());
  uint32_t random = kNever;
  for (uint32_t event = 0; event < segment.events.size(); ++event) {
    Effects effects = effectsOf(segment, event);
    auto after = [&](uint32_t earlier, uint32_t slot) {
      if (earlier != kNever && earlier != event)
        report(earlier, event, slot);
    };
    for (uint32_t slot : effects.reads)
      after(last[slot].write, slot);
    for (uint32_t slot : effects.writes) {
      after(last[slot].write, slot);
      for (uint32_t read : last[slot].reads)
        after(read, slot);
    }
    if (effects.random)
      after(random, kNever);
    for (uint32_t slot : effects.reads)
      last[slot].reads.push_back(event);
    for (uint32_t slot : effects.writes)
      last[slot] = {event, {}};
    if (effects.random)
      random = event;
  }
}

/// Where data can make an event fail, what it would leave undone stays behind it: reports each such event with each later one
/// that draws random numbers or writes a storage from outside the segment.
template <typename Report> void forEachFallible(const Segment &segment, const Report &report) {
  std::vector<uint32_t> fallible;
  for (uint32_t event = 0; event < segment.events.size(); ++event) {
    Effects effects = effectsOf(segment, event);
    auto external = [&](uint32_t slot) { return segment.slots[slot].external; };
    if (effects.random || std::any_of(effects.writes.begin(), effects.writes.end(), external))
      for (uint32_t earlier : fallible)
        report(earlier, event);
    const graph::Op *op = segment.events[event].event->op;
    if (op && op->has(graph::kOpMayFailOnData))
      fallible.push_back(event);
  }
}

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

/// The instructions in an order that respects every hazard, with their triggers. On failure returns the index of a group
/// that has to be broken up (what it fuses away outlives the walk, or it depends on itself through others), else -1.
class Order {
public:
  Order(const Segment &segment, const graph::Deaths &deaths, std::vector<Instruction> &list)
      : segment_(segment), deaths_(deaths), list_(list), after_(list.size()), waitsFor_(list.size(), 0) {}

  int run() {
    buildEdges();
    // Among those that are free, the one whose events come first: ties keep program order.
    auto later = [this](uint32_t a, uint32_t b) { return list_[a].events.back() > list_[b].events.back(); };
    std::vector<uint32_t> free;
    for (uint32_t i = 0; i < list_.size(); ++i)
      if (waitsFor_[i] == 0)
        free.push_back(i);
    std::make_heap(free.begin(), free.end(), later);
    while (!free.empty()) {
      std::pop_heap(free.begin(), free.end(), later);
      uint32_t i = free.back();
      free.pop_back();
      order_.push_back(i);
      if (!settleTrigger(list_[i]))
        return int(i);
      for (uint32_t next : after_[i]) {
        list_[next].trigger = std::max(list_[next].trigger, list_[i].trigger);
        if (--waitsFor_[next] == 0) {
          free.push_back(next);
          std::push_heap(free.begin(), free.end(), later);
        }
      }
    }
    return order_.size() == list_.size() ? -1 : groupInCycle();
  }

  std::vector<Instruction> take() {
    std::vector<Instruction> sorted;
    for (uint32_t i : order_)
      sorted.push_back(std::move(list_[i]));
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const Instruction &a, const Instruction &b) { return a.trigger < b.trigger; });
    return sorted;
  }

private:
  void buildEdges() {
    std::vector<uint32_t> of(segment_.events.size());
    for (uint32_t i = 0; i < list_.size(); ++i) {
      list_[i].trigger = 0;
      for (uint32_t event : list_[i].events)
        of[event] = i;
    }
    auto order = [this](uint32_t a, uint32_t b) {
      if (a != b && (after_[a].empty() || after_[a].back() != b)) {
        after_[a].push_back(b);
        ++waitsFor_[b];
      }
    };
    forEachHazard(segment_, [&](uint32_t earlier, uint32_t later, uint32_t) { order(of[earlier], of[later]); });
    forEachFallible(segment_, [&](uint32_t earlier, uint32_t later) {
      if (list_[of[earlier]].kind == Instruction::Kind::Extern) // compiled code does not fail
        order(of[earlier], of[later]);
    });
  }

  bool settleTrigger(Instruction &instruction) {
    uint32_t trigger = std::max(instruction.trigger, instruction.events.back());
    for (uint32_t slot : instruction.fusedAway)
      trigger = std::max(trigger, deaths_.empty() ? kNever : deaths_[slot]);
    instruction.trigger = trigger;
    // Late only because of an earlier group: that one was broken up first.
    return trigger <= segment_.events.size();
  }

  int groupInCycle() const {
    for (uint32_t i = 0; i < list_.size(); ++i)
      if (waitsFor_[i] > 0 && list_[i].events.size() > 1)
        return int(i);
    return -1;
  }

  const Segment &segment_;
  const graph::Deaths &deaths_;
  std::vector<Instruction> &list_;
  std::vector<std::vector<uint32_t>> after_;
  std::vector<uint32_t> waitsFor_, order_;
};

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
  for (Instruction &group : list)
    std::sort(group.events.begin(), group.events.end());
  complete(segment, list);
  for (;;) {
    Order order(segment, deaths, list);
    int group = order.run();
    if (group < 0) {
      list = order.take();
      break;
    }
    breakUp(segment, list, size_t(group));
  }
  computeReleases(segment, list);
  for (Instruction &instruction : list)
    if (instruction.kind == Instruction::Kind::Kernel)
      std::copy_if(instruction.events.begin(), instruction.events.end(), std::back_inserter(instruction.guarded),
                   [&](uint32_t e) { return graph::guardedOperand(*segment.events[e].event) != graph::kNoGuard; });
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
      if (instruction.trigger > segment_.events.size())
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
    std::string error;
    forEachHazard(segment_, [&](uint32_t earlier, uint32_t later, uint32_t slot) {
      if (error.empty() && position_[earlier] > position_[later])
        error = "event " + std::to_string(later) + " runs before event " + std::to_string(earlier) +
                (slot == kNever ? " and draws random numbers out of order"
                                : ", with which it shares slot " + std::to_string(slot));
    });
    forEachFallible(segment_, [&](uint32_t earlier, uint32_t later) {
      if (error.empty() && position_[earlier] > position_[later] &&
          list_[position_[earlier]].kind == Instruction::Kind::Extern)
        error = "event " + std::to_string(later) + " runs before event " + std::to_string(earlier) + ", which may fail";
    });
    return error;
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
