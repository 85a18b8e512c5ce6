#include "frontend/dump/Stages.h"

#include "graph/Dot.h"

#include <algorithm>
#include <map>
#include <set>

namespace terra::dump {

using codegen::Instruction;
using codegen::KernelArg;
using codegen::KernelCall;
using graph::kNever;

namespace {

const char *kindName(const Instruction &instruction) {
  switch (instruction.kind) {
  case Instruction::Kind::Kernel:
    return "kernel";
  case Instruction::Kind::Extern:
    return "extern";
  case Instruction::Kind::Nothing:
    break;
  }
  return "views";
}

std::string slotList(const char *what, const std::vector<uint32_t> &slots) {
  std::string text = slots.empty() ? "" : what;
  for (uint32_t slot : slots)
    text += " %" + std::to_string(slot);
  return text;
}

std::string toText(const KernelArg &arg) {
  switch (arg.kind) {
  case KernelArg::Kind::Scalar:
    return "scalar feed " + std::to_string(arg.index);
  case KernelArg::Kind::Scratch:
    return "scratch + " + std::to_string(arg.byteOffset);
  case KernelArg::Kind::Number:
    return "number " + std::to_string(arg.byteOffset);
  case KernelArg::Kind::Tensor:
    break;
  }
  std::string text = "%" + std::to_string(arg.slot);
  if (arg.offsetFeed != kNever)
    return text + " + offset feed " + std::to_string(arg.offsetFeed) + " x " + std::to_string(arg.elementSize);
  return arg.byteOffset ? text + " + " + std::to_string(arg.byteOffset) : text;
}

std::string toText(const KernelCall &call) {
  std::string text = call.name + "(";
  for (size_t i = 0; i < call.args.size(); ++i)
    text += (i ? ", " : "") + toText(call.args[i]);
  text += ") over [0, " + std::to_string(call.extent) + ")";
  text += call.serial ? " at once" : " in parts of " + std::to_string(call.grain);
  return call.scratchBytes ? text + ", scratch " + std::to_string(call.scratchBytes) + " bytes" : text;
}

std::string title(const Instruction &instruction, size_t index) {
  return std::to_string(index) + " " + kindName(instruction) + ", on leaving event " +
         std::to_string(instruction.trigger);
}

std::string effects(const Instruction &instruction) {
  std::string text;
  for (const std::string &part :
       {slotList("stores", instruction.outputs), slotList("fuses away", instruction.fusedAway),
        slotList("releases", instruction.releases)})
    text += text.empty() || part.empty() ? part : ", " + part;
  return text;
}

const char *color(const Instruction &instruction) {
  return instruction.kind == Instruction::Kind::Kernel   ? "#c4e3bf"
         : instruction.kind == Instruction::Kind::Extern ? "#f6d5a8"
                                                         : "#e3e3e3";
}

struct Uses {
  std::set<uint32_t> reads, writes;
};

/// What an instruction reads and writes of what lies outside of it.
Uses usesOf(const graph::Segment &segment, const Instruction &instruction) {
  Uses uses;
  std::set<uint32_t> inside;
  for (uint32_t index : instruction.events) {
    const graph::SegmentEvent &e = segment.events[index];
    for (size_t i = 0; i < e.inputs.size(); ++i) {
      uint32_t slot = e.inputs[i].slot;
      if (slot == kNever)
        continue;
      if (!inside.count(slot))
        uses.reads.insert(slot);
      if (e.event->inputs[i].written)
        uses.writes.insert(slot);
    }
    for (size_t i = 0; i < e.results.size(); ++i)
      if (e.results[i].slot != kNever && e.event->results[i].alias == graph::Alias::Fresh)
        inside.insert(e.results[i].slot);
  }
  uses.writes.insert(inside.begin(), inside.end());
  for (uint32_t slot : instruction.fusedAway)
    uses.writes.erase(slot);
  return uses;
}

} // namespace

std::vector<std::pair<std::string, std::string>> kernelLines(const CompiledSegment &segment) {
  std::vector<std::pair<std::string, std::string>> lines;
  for (const Instruction &instruction : segment.executable->instructions)
    for (const KernelCall &call : instruction.kernels) {
      std::string text;
      std::set<std::string> seen;
      for (uint32_t index : instruction.events) {
        const graph::Event &event = *segment.segment.events[index].event;
        text += (text.empty() ? "" : "; ") + std::string(event.name());
        if (!event.location.empty() && seen.insert(event.location).second)
          text += " at " + event.location;
      }
      lines.emplace_back(call.name, text);
    }
  return lines;
}

std::string instructionText(const CompiledSegment &segment) {
  const codegen::Executable &executable = *segment.executable;
  std::string text = "  " + std::to_string(executable.instructions.size()) + " instructions, " +
                     std::to_string(executable.kernelCount) + " kernels, " + std::to_string(executable.externCount) +
                     " externs\n";
  for (size_t i = 0; i < executable.instructions.size(); ++i) {
    const Instruction &instruction = executable.instructions[i];
    std::string what = effects(instruction);
    text += "  " + title(instruction, i) + (what.empty() ? "" : ": " + what) + "\n";
    for (const KernelCall &call : instruction.kernels)
      text += "      call " + toText(call) + "\n";
    for (uint32_t event : instruction.events)
      text += "      event " + std::to_string(event) + ": " + toString(withSlots(segment.segment.events[event])) + "\n";
  }
  return text;
}

std::string instructionPicture(const CompiledSegment &segment, const std::string &prefix) {
  std::string text;
  std::map<uint32_t, size_t> writer; // slot → the instruction that wrote it last
  const std::vector<Instruction> &instructions = segment.executable->instructions;
  for (size_t i = 0; i < instructions.size(); ++i) {
    const Instruction &instruction = instructions[i];
    std::vector<graph::DotRow> rows;
    for (const KernelCall &call : instruction.kernels)
      rows.push_back({toText(call), ""});
    if (std::string what = effects(instruction); !what.empty())
      rows.push_back({what, ""});
    for (uint32_t event : instruction.events) {
      const graph::SegmentEvent &e = segment.segment.events[event];
      rows.push_back({graph::withoutLocation(withSlots(e)), e.event->location});
    }
    text += graph::dotTable(prefix + std::to_string(i), title(instruction, i), color(instruction), rows);
    Uses uses = usesOf(segment.segment, instruction);
    std::map<size_t, std::vector<uint32_t>> edges;
    for (uint32_t slot : uses.reads)
      if (auto it = writer.find(slot); it != writer.end())
        edges[it->second].push_back(slot);
    for (const auto &[from, slots] : edges)
      text += "  " + prefix + std::to_string(from) + " -> " + prefix + std::to_string(i) +
              " [label=" + graph::dotQuote(slotList("", slots)) + "];\n";
    for (uint32_t slot : uses.writes)
      writer[slot] = i;
  }
  return text;
}

} // namespace terra::dump
