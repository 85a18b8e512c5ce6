#include "FakeComposites.h"

namespace terra::fake {

namespace {

double numberOf(const Call &call) { return call.args.back().scalar.d; }

Tensor add(Frontend &f, const Tensor &a, const Tensor &b, double number) {
  return f.call(Call(ops().add, {a, b}).number(number))[0];
}
Tensor mul(Frontend &f, const Tensor &a, const Tensor &b) { return f.call(Call(ops().mul, {a, b}))[0]; }
void addTo(Frontend &f, const Tensor &a, const Tensor &b, double number) {
  f.call(Call(ops().addInPlace, {a, b}).number(number));
}
void fill(Frontend &f, const Tensor &a, double number) { f.call(Call(ops().fill, {a}).number(number)); }

/// New contiguous memory, shaped like `tensor`.
Tensor emptyLike(Frontend &f, const Tensor &tensor) {
  return f.uninitialised(contiguous({tensor.meta.sizes().begin(), tensor.meta.sizes().end()}));
}

std::vector<Tensor> chain(Frontend &f, const Call &call) {
  const Tensor &a = call.tensors[0], &b = call.tensors[1];
  Tensor product = mul(f, a, b);
  Tensor sum = add(f, product, b, numberOf(call));
  return {add(f, sum, a, 2)};
}

std::vector<Tensor> views(Frontend &f, const Call &call) {
  const Tensor &a = call.tensors[0], &b = call.tensors[1];
  Tensor hidden = add(f, a, b, numberOf(call));
  Tensor part = partOf(f, hidden, 1);
  addTo(f, part, b, 3);
  addTo(f, hidden, a, 2);
  return {mul(f, part, hidden)};
}

std::vector<Tensor> noisy(Frontend &f, const Call &call) {
  const Tensor &a = call.tensors[0], &b = call.tensors[1];
  Tensor noise = f.call(Call(ops().uniform, {a}).number(numberOf(call)))[0];
  return {add(f, noise, b, 4)};
}

std::vector<Tensor> several(Frontend &f, const Call &call) {
  const Tensor &a = call.tensors[0], &b = call.tensors[1];
  Tensor hidden = add(f, a, b, numberOf(call));
  std::vector<Tensor> results = f.call(Call(ops().pair, {hidden}));
  results.push_back(mul(f, results[1], hidden));
  return results;
}

std::vector<Tensor> update(Frontend &f, const Call &call) {
  const Tensor &a = call.tensors[0], &b = call.tensors[1];
  Tensor scaled = mul(f, a, b);
  f.call(Call(ops().foreachAdd, {scaled, scaled}).list({1, 2}));
  addTo(f, a, scaled, numberOf(call));
  return {};
}

std::vector<Tensor> filled(Frontend &f, const Call &call) {
  Tensor result = emptyLike(f, call.tensors[0]);
  fill(f, result, numberOf(call));
  addTo(f, result, call.tensors[1], 5);
  addTo(f, result, call.tensors[0], 1);
  return {result};
}

std::vector<Tensor> padded(Frontend &f, const Call &call) {
  Tensor scratch = emptyLike(f, call.tensors[0]);
  fill(f, scratch, numberOf(call));
  addTo(f, scratch, call.tensors[0], 2);
  return {mul(f, scratch, call.tensors[1])};
}

std::vector<Tensor> nested(Frontend &f, const Call &call) {
  const Tensor &a = call.tensors[0], &b = call.tensors[1];
  Tensor first = f.call(Call(composites().chain, {a, b}).number(numberOf(call)))[0];
  return f.call(Call(composites().padded, {first, b}).number(1));
}

std::vector<Tensor> choosy(Frontend &f, const Call &call) {
  const Tensor &a = call.tensors[0], &b = call.tensors[1];
  if (int64_t(numberOf(call)) % 2 == 0)
    return {mul(f, a, b)};
  return {add(f, mul(f, b, a), b, 1)};
}

std::vector<Tensor> same(Frontend &f, const Call &call) {
  addTo(f, call.tensors[0], call.tensors[1], numberOf(call));
  return {call.tensors[0]};
}

std::vector<Tensor> peeking(Frontend &f, const Call &call) {
  Tensor hidden = add(f, call.tensors[0], call.tensors[1], numberOf(call));
  double seen = f.read(hidden) & 1 ? 2 : 3;
  return {add(f, hidden, call.tensors[1], seen)};
}

std::vector<Tensor> picking(Frontend &f, const Call &call) {
  Tensor one = add(f, call.tensors[0], call.tensors[1], numberOf(call));
  Tensor other = mul(f, one, call.tensors[1]);
  return {f.read(other) >> 3 & 1 ? one : other};
}

std::vector<Tensor> fetching(Frontend &f, const Call &call) {
  Tensor hidden = mul(f, call.tensors[0], call.tensors[1]);
  double seen = f.item(hidden) & 1 ? numberOf(call) : 3;
  return {add(f, hidden, call.tensors[0], seen)};
}

FakeOp make(const char *name, Body body, bool writes = false) {
  return {{name, 0, {{"self", writes}, {"other"}, {"number"}}}, Shape::Composite, false, nullptr, body};
}

} // namespace

Tensor partOf(Frontend &frontend, const Tensor &tensor, int64_t at) {
  int64_t size = tensor.meta.rank() ? tensor.meta.sizes()[0] : 0;
  if (tensor.meta.rank() == 2 && size > 0) {
    int64_t index = at % size;
    return frontend.call(Call(ops().select, {tensor}).index(0).index(at & 4 ? index - size : index))[0];
  }
  if (size < 2)
    return frontend.call(Call(ops().alias, {tensor}))[0];
  int64_t start = at % (size - size / 2);
  return frontend.call(Call(ops().slice, {tensor}).index(0).index(start).index(start + size / 2).index(1))[0];
}

const Composites &composites() {
  static const Composites *all = new Composites{
      make("fake::chain", &chain),      make("fake::views", &views),         make("fake::noisy", &noisy),
      make("fake::several", &several),  make("fake::update", &update, true), make("fake::filled", &filled),
      make("fake::padded", &padded),    make("fake::nested", &nested),       make("fake::choosy", &choosy),
      make("fake::same", &same, true),  make("fake::peeking", &peeking),     make("fake::picking", &picking),
      make("fake::fetching", &fetching)};
  return *all;
}

std::vector<const FakeOp *> allComposites() {
  const Composites &c = composites();
  return {&c.chain,  &c.views,  &c.noisy, &c.several, &c.update,  &c.filled,  &c.padded,
          &c.nested, &c.choosy, &c.same,  &c.peeking, &c.picking, &c.fetching};
}

} // namespace terra::fake
