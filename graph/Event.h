// One recorded op call: attributes, operands, results and how they share storage.
#pragma once

#include "graph/Op.h"
#include "graph/Types.h"

#include <memory>
#include <string>
#include <vector>

namespace terra::graph {

enum class ArgKind : uint8_t {
  None,       ///< Python's None or an absent optional
  Tensor,     ///< `count` is 1; the operand is `Event::inputs[first]`
  TensorList, ///< operands `first` … `first + count - 1`
  Int,
  Double,
  Bool,
  NumberInt,
  NumberDouble,
  NumberBool, ///< a Python number passed as a tensor (a wrapped number)
  IntList,
  DoubleList,
  BoolList,
  String,
  Opaque      ///< anything else: compared by the host
};

/// One argument of a recorded call. Undefined tensors inside a list are operands with dtype Undefined.
struct Arg {
  ArgKind kind = ArgKind::None;
  uint32_t first = 0, count = 0;
  Scalar scalar{0};
  std::vector<int64_t> ints;     ///< IntList, BoolList
  std::vector<double> doubles;
  std::string string;
  /// The value differed between recordings: it is fed on every run, in `Binding::scalars`. For Int, Double,
  /// Number*, and (one feed an element) DoubleList.
  bool varies = false;

  uint32_t feeds() const { return !varies ? 0 : kind == ArgKind::DoubleList ? count : 1; }
};

/// Number of a storage within one trace; the numbering has no meaning across traces.
using StorageId = uint32_t;
inline constexpr StorageId kNoStorage = ~0u;

struct Operand {
  StorageId storage = kNoStorage;  ///< kNoStorage: an undefined tensor
  TensorMeta meta;
  bool written = false;
  bool offsetVaries = false;       ///< the storage offset differed between recordings and is fed on every run
};

enum class Alias : uint8_t {
  Undefined, ///< the op returned an undefined tensor here
  Fresh,     ///< new storage (several results may share one)
  View,      ///< new tensor on the storage of operand `aliasOf`
  Same       ///< the very tensor passed as operand `aliasOf` (in-place, `out=`)
};

struct Result {
  StorageId storage = kNoStorage;
  TensorMeta meta;
  Alias alias = Alias::Undefined;
  uint32_t aliasOf = 0;
  int64_t storageBytes = 0;        ///< size of a fresh storage, in bytes
};

enum class EventKind : uint8_t { Call, Read /* data looked at without an op */, End };

/// Everything outside the operands that decides what a call does: grad mode, deterministic flags, threads, …
using Context = uint64_t;

/// A call that makes many events, a backward or an optimizer's step: the number of its kind in the session. 0: none, or a kind
/// without a number. Calls of different kinds share no node of a TraceGraph, even where their events agree: where paths part or
/// meet a segment ends, and a call that is cut in two cannot be recognised as a whole.
using Whole = uint32_t;

struct Event {
  EventKind kind = EventKind::Call;
  const Op *op = nullptr;
  std::vector<Arg> args;
  std::vector<Operand> inputs;
  std::vector<Result> results; ///< lists flattened; see `resultCounts`
  std::vector<int32_t> resultCounts; ///< one number for each return: -1 for a tensor, n for a list of n
  Context context = 0;
  Whole whole = 0; ///< the event is part of such a call
  bool gate = false; ///< runs on the Python thread, its results are real
  uint32_t trace = 0; ///< which trace the storage ids belong to
  std::string location; ///< "file.py:12 in forward", outermost last; may be empty
  std::shared_ptr<void> host; ///< the frontend's prepared call
  /// Compares opaque argument `arg` of two events; set by the frontend where there is one.
  bool (*hostEqual)(const Event &a, const Event &b, uint32_t arg) = nullptr;

  const char *name() const;
  /// Touches no data: every result is a view of an operand or an operand itself, and nothing is written.
  bool onlyMakesViews() const;
};

/// "%3:f32[2x3] = aten::add.Tensor(%1:f32[2x3], %2:f32[3], alpha=1)  # train.py:12"
std::string toString(const Event &event);

} // namespace terra::graph
