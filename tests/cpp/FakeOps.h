// A handful of tiny ops on 64-bit integers: what the fake host, the fake kernels and the plain interpreter compute with.
// Integers wrap around, so that every result is exact, and no op commutes with another, so that a wrong order shows.
#pragma once

#include "graph/Event.h"
#include "graph/Op.h"

#include <cstdint>
#include <vector>

namespace terra::fake {

/// The default generator: draws are a function of how many came before. Not synchronised: TSan shows a draw out of order.
struct Generator {
  uint64_t draws = 0;
};

/// Elements of a tensor.
struct Elements {
  int64_t *data = nullptr; ///< element 0 of the view
  const TensorMeta *meta = nullptr;

  int64_t numel() const { return meta->numel(); }
  int64_t &operator[](int64_t index) const;
};

enum class Shape : uint8_t {
  LikeFirst, ///< one fresh contiguous result shaped like the first operand
  InPlace, ///< returns its first operand
  Nothing, ///< returns nothing
  Pair, ///< two fresh results that share one storage
  View,
  Fetch,
  DataDependent,
  Composite ///< whatever the calls that it makes return
};

struct FakeOp;
struct Call;
struct Tensor;
class Frontend;
/// The calls that a composite makes.
using Body = std::vector<Tensor> (*)(Frontend &frontend, const Call &call);
/// Computes the part [begin, end) of the elements; only `elementwise` ops are called for less than all of them.
using Compute = void (*)(const std::vector<Elements> &in, const std::vector<Scalar> &scalars,
                         const std::vector<Elements> &out, int64_t begin, int64_t end, Generator &generator);

struct FakeOp {
  graph::Op op;
  Shape shape;
  bool elementwise;
  Compute compute; ///< null for views, gates and composites
  Body body = nullptr; ///< of composites
};

struct Ops {
  FakeOp add, mul, addInPlace, fill, uniform, foreachAdd, pair, select, slice, alias, item, odd;
};
/// One object a process: an op's identity is its address.
const Ops &ops();
inline const FakeOp &fakeOp(const graph::Event &event) { return *static_cast<const FakeOp *>(event.op->host); }

TensorMeta contiguous(const std::vector<int64_t> &sizes, int64_t offset = 0);
inline constexpr int64_t kElementBytes = 8;

/// Scalars of a call or event in the order of its arguments, lists flattened; `feeds` replaces those that vary.
std::vector<Scalar> scalarsOf(const graph::Event &event, const std::vector<uint32_t> &scalarFeeds,
                              const std::vector<Scalar> &feeds);

} // namespace terra::fake
