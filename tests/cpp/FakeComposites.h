// Ops whose work is the calls of other ops that they make: with values that nobody else sees, views of them, writes to them.
#pragma once

#include "FakeFrontend.h"

namespace terra::fake {

/// All take two tensors and a number.
struct Composites {
  FakeOp chain; ///< two values that nobody else sees
  FakeOp views; ///< writes to a hidden value through a view of it
  FakeOp noisy; ///< draws random numbers
  FakeOp several; ///< three results, two of which share a storage
  FakeOp update; ///< writes its first operand, returns nothing
  FakeOp filled; ///< its result is memory of its own that it fills
  FakeOp padded; ///< uses memory of its own that nobody else sees
  FakeOp nested; ///< calls composites
  FakeOp choosy; ///< its number decides what it does
  FakeOp same; ///< returns its first operand: never a span
  FakeOp peeking; ///< looks at data and acts on it: never a span
  FakeOp picking; ///< looks at what it made and returns one or the other: never a span
  FakeOp fetching; ///< fetches data and acts on it: never a span
};
/// One object a process: an op's identity is its address.
const Composites &composites();
/// Those that look at no data (the others do).
inline constexpr size_t kPureComposites = 10;
std::vector<const FakeOp *> allComposites();

/// A view of part of a tensor.
Tensor partOf(Frontend &frontend, const Tensor &tensor, int64_t at);

} // namespace terra::fake
