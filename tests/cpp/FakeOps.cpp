#include "FakeOps.h"

namespace terra::fake {

int64_t &Elements::operator[](int64_t index) const {
  int64_t at = 0;
  for (size_t dim = meta->rank(); dim-- > 0;) {
    int64_t size = meta->sizes()[dim];
    at += index % size * meta->strides()[dim];
    index /= size;
  }
  return data[at];
}

namespace {

using In = const std::vector<Elements> &;
using Scalars = const std::vector<Scalar> &;

uint64_t number(Scalar scalar) { return uint64_t(int64_t(scalar.d)); }
uint64_t get(const Elements &tensor, int64_t index) { return uint64_t(tensor[index]); }
/// Any shape broadcasts against any other.
uint64_t repeated(const Elements &tensor, int64_t index) {
  int64_t n = tensor.numel();
  return n == 0 ? 0 : get(tensor, index % n);
}

void add(In in, Scalars s, In out, int64_t begin, int64_t end, Generator &) {
  for (int64_t i = begin; i < end; ++i)
    out[0][i] = int64_t(get(in[0], i) * 3 + repeated(in[1], i) * number(s[0]) + 1);
}

void mul(In in, Scalars, In out, int64_t begin, int64_t end, Generator &) {
  for (int64_t i = begin; i < end; ++i)
    out[0][i] = int64_t(get(in[0], i) * repeated(in[1], i) + 11);
}

void addInPlace(In in, Scalars s, In, int64_t begin, int64_t end, Generator &) {
  for (int64_t i = begin; i < end; ++i)
    in[0][i] = int64_t(get(in[0], i) * 5 + repeated(in[1], i) * number(s[0]));
}

void fill(In in, Scalars s, In, int64_t begin, int64_t end, Generator &) {
  for (int64_t i = begin; i < end; ++i)
    in[0][i] = int64_t(number(s[0]) + uint64_t(i));
}

void uniform(In, Scalars s, In out, int64_t begin, int64_t end, Generator &generator) {
  uint64_t seed = generator.draws++ * 0x9e3779b97f4a7c15ull + number(s[0]);
  for (int64_t i = begin; i < end; ++i)
    out[0][i] = int64_t((seed + uint64_t(i)) * 0xbf58476d1ce4e5b9ull >> 13);
}

void foreachAdd(In in, Scalars s, In, int64_t, int64_t, Generator &) {
  for (size_t k = 0; k < in.size(); ++k)
    for (int64_t i = 0; i < in[k].numel(); ++i)
      in[k][i] = int64_t(get(in[k], i) * 7 + number(s[k]));
}

void pair(In in, Scalars, In out, int64_t begin, int64_t end, Generator &) {
  for (int64_t i = begin; i < end; ++i) {
    out[0][i] = int64_t(get(in[0], i) + 1);
    out[1][i] = int64_t(get(in[0], i) * 2);
  }
}

FakeOp make(const char *name, std::vector<graph::OpParam> params, Shape shape, Compute compute, bool elementwise,
            uint32_t flags = 0) {
  return {{name, flags, std::move(params), graph::viewRuleOf(name)}, shape, elementwise, compute};
}

Ops makeOps() {
  using graph::kOpFetch, graph::kOpGate, graph::kOpMayFailOnData, graph::kOpRandom, graph::kOpViewOnly;
  return {
      make("aten::add.Tensor", {{"self"}, {"other"}, {"alpha"}}, Shape::LikeFirst, &add, true),
      make("aten::mul.Tensor", {{"self"}, {"other"}}, Shape::LikeFirst, &mul, true),
      make("aten::add_.Tensor", {{"self", true}, {"other"}, {"alpha"}}, Shape::InPlace, &addInPlace, true),
      make("aten::fill_.Scalar", {{"self", true}, {"value"}}, Shape::InPlace, &fill, true),
      make("aten::uniform.default", {{"self"}, {"from"}}, Shape::LikeFirst, &uniform, false, kOpRandom),
      make("aten::_foreach_add_.ScalarList", {{"self", true}, {"scalars"}}, Shape::Nothing, &foreachAdd, false,
           kOpMayFailOnData),
      make("fake::pair", {{"self"}}, Shape::Pair, &pair, true, kOpMayFailOnData),
      make("aten::select.int", {{"self"}, {"dim"}, {"index"}}, Shape::View, nullptr, false, kOpViewOnly),
      make("aten::slice.Tensor", {{"self"}, {"dim"}, {"start"}, {"end"}, {"step"}}, Shape::View, nullptr, false,
           kOpViewOnly),
      make("aten::alias", {{"self"}}, Shape::View, nullptr, false, kOpViewOnly),
      make("fake::item", {{"self"}}, Shape::Fetch, nullptr, false, kOpGate | kOpFetch),
      make("fake::odd", {{"self"}}, Shape::DataDependent, nullptr, false, kOpGate),
  };
}

} // namespace

const Ops &ops() {
  static Ops *all = [] {
    auto *made = new Ops(makeOps());
    for (FakeOp *op : {&made->add, &made->mul, &made->addInPlace, &made->fill, &made->uniform, &made->foreachAdd,
                       &made->pair, &made->select, &made->slice, &made->alias, &made->item, &made->odd})
      op->op.host = op;
    return made;
  }();
  return *all;
}

TensorMeta contiguous(const std::vector<int64_t> &sizes, int64_t offset) {
  TensorMeta meta;
  meta.dtype = DType::Int64;
  meta.offset = offset;
  meta.dims = sizes;
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= sizes[i];
  }
  meta.dims.insert(meta.dims.end(), strides.begin(), strides.end());
  return meta;
}

std::vector<Scalar> scalarsOf(const graph::Event &event, const std::vector<uint32_t> &scalarFeeds,
                              const std::vector<Scalar> &feeds) {
  std::vector<Scalar> scalars;
  for (size_t i = 0; i < event.args.size(); ++i) {
    const graph::Arg &arg = event.args[i];
    bool list = arg.kind == graph::ArgKind::DoubleList;
    if (arg.kind == graph::ArgKind::Tensor || arg.kind == graph::ArgKind::TensorList)
      continue;
    for (uint32_t k = 0; k < (list ? arg.count : 1); ++k) {
      Scalar value = arg.scalar;
      if (arg.varies)
        value = feeds[scalarFeeds[i] + k];
      else if (list)
        value.d = arg.doubles[k];
      scalars.push_back(value);
    }
  }
  return scalars;
}

} // namespace terra::fake
