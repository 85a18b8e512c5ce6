// What codegen hands to the runtime: a flat list of instructions in the order of their triggers.
#pragma once

#include "codegen/Abi.h"
#include "codegen/CompileCost.h"
#include "graph/Segment.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace terra::codegen {

/// One argument of a compiled kernel, resolved by the runtime to a pointer or a number.
struct KernelArg {
  enum class Kind : uint8_t {
    Tensor, ///< data of `slot`, moved by `byteOffset` and, when `offsetFeed` is set, by feed × `elementSize` instead
    Scalar, ///< pointer to the run's scalar feed `index`
    Scratch, ///< `byteOffset` into the kernel's scratch memory of `KernelCall::scratchBytes`
    Number ///< no pointer: the bits in `byteOffset` themselves, of an integer or a double
  } kind = Kind::Tensor;
  uint32_t slot = 0, index = 0, offsetFeed = graph::kNever;
  int64_t byteOffset = 0;
  uint32_t elementSize = 0;
};

struct KernelCall {
  KernelFn fn = nullptr;
  std::vector<KernelArg> args;
  int64_t extent = 0; ///< the kernel is called for disjoint ranges that cover [0, extent)
  int64_t grain = 1; ///< the least extent worth a thread of its own
  bool serial = false; ///< must be called once with [0, extent)
  int64_t scratchBytes = 0; ///< what one call leaves there, the next ones of the same instruction find
  std::string name; ///< symbol, for dumps and profiles
};

struct Instruction {
  enum class Kind : uint8_t { Extern, Kernel, Nothing /* all its events only make views */ } kind = Kind::Extern;
  /// Events computed by this instruction, ascending. An Extern has exactly one that touches data.
  std::vector<uint32_t> events;
  /// Slots that these events make and that the instruction does not store: they must be dead when it is enqueued.
  std::vector<uint32_t> fusedAway;
  /// Slots made here and stored (fresh memory is allocated before a kernel is called).
  std::vector<uint32_t> outputs;
  /// Kernel: several calls in a row are allowed (for example partial reductions, then a finish).
  std::vector<KernelCall> kernels;
  /// Filled by `schedule`: events with a guard (graph/Guards.h). Where one does not hold, the host runs all events.
  std::vector<uint32_t> guarded;
  /// Filled by `schedule`: enqueued on leaving this event.
  uint32_t trigger = 0;
  /// Filled by `schedule`: slots that no later instruction reads or writes.
  std::vector<uint32_t> releases;
};

/// Compiled segment. Immutable; `code` keeps the machine code alive.
struct Executable {
  std::vector<Instruction> instructions; ///< sorted by trigger
  std::shared_ptr<void> code;
  bool fast = false; ///< the host may run externs by other kernels than eager's, where they are faster
  CompileCost cost;
  uint32_t kernelCount = 0, externCount = 0;
};

/// A group of events to be computed by one instruction; everything not in a group becomes an Extern of its own.
using Groups = std::vector<Instruction>;

/// Completes `groups` with externs, computes triggers from events, deaths and hazards, and sorts. A group that
/// fuses away what outlives the walk is broken up into externs. Events that only make views belong to no
/// storage work: they become `Nothing` instructions or part of a group. See Schedule.cpp for why the order is right.
std::vector<Instruction> schedule(const graph::Segment &segment, const graph::Deaths &deaths, Groups groups);

/// Checks the contract of a scheduled list (each event exactly once, operands made before they are used, hazards in
/// program order, fused-away slots unused elsewhere). Returns an empty string or the first violation in words.
std::string verify(const graph::Segment &segment, const graph::Deaths &deaths,
                   const std::vector<Instruction> &instructions);

} // namespace terra::codegen
