// Operators as Terra sees them, interned by schema.
#pragma once

#include "graph/Op.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <atomic>
#include <vector>

namespace terra::frontend {

enum class Route : uint8_t {
  Event,     ///< recorded and recognised
  Immediate, ///< runs for real at once and is no event (sparse constructors, …)
  Ignore     ///< looks at metadata only, makes uninitialised memory, or is none of our business: not even settled
};

struct OpEntry {
  graph::Op op;
  c10::OperatorHandle handle;
  const void *key = nullptr; ///< the schema's address
  Route route = Route::Event;
  uint32_t numArgs = 0;
  std::vector<bool> listArgs;     ///< the parameter is a list of (optional) tensors
  std::vector<bool> generatorArgs;
  bool indexesByMask = false;     ///< a gate when an index is a mask (`index.Tensor`)
  bool builtin = false;           ///< of PyTorch itself or of Terra: never unregistered
  bool makesUninitialised = false;///< `empty` and its like: real memory at once
  bool makesScalarsOnly = false;  ///< a factory of constants (`zeros`): at once when the result has no dimensions
  bool callsUnderAutocast =
      false;///< autocast makes other calls of it: casts operands, or meets it in what it is composed of
  mutable std::atomic<uint8_t> eligible{0}; ///< by recognition above autograd

  explicit OpEntry(c10::OperatorHandle h) : handle(std::move(h)) {}
};

/// The entry of an operator; made on first use, never freed. Thread-safe.
OpEntry &opEntry(const c10::OperatorHandle &handle);

} // namespace terra::frontend
