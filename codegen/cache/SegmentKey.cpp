#include "codegen/cache/SegmentCache.h"

namespace terra::codegen {

namespace {

// Every structure is taken apart by a structured binding: a new field does not compile until it is part of the key.

void add(Hasher &h, const Device &device) {
  const auto &[type, index] = device;
  h.add(type);
  h.add(index);
}

void add(Hasher &h, const TensorMeta &meta) {
  const auto &[dtype, device, conj, neg, requiresGrad, offset, dims] = meta;
  h.add(dtype);
  add(h, device);
  h.add(conj);
  h.add(neg);
  h.add(requiresGrad);
  h.add(offset);
  h.add(dims);
}

void add(Hasher &h, const graph::Arg &arg) {
  const auto &[kind, first, count, scalar, ints, doubles, string, varies] = arg;
  h.add(kind);
  h.add(first);
  h.add(count);
  h.add(scalar.i);
  h.add(ints);
  h.add(doubles);
  h.add(string);
  h.add(varies);
}

void add(Hasher &h, const graph::Operand &operand) {
  const auto &[storage, meta, written, offsetVaries] =
      operand; // the storage's number is its trace's: slots stand for it
  add(h, meta);
  h.add(written);
  h.add(offsetVaries);
}

void add(Hasher &h, const graph::Result &result) {
  const auto &[storage, meta, alias, aliasOf, storageBytes] = result;
  add(h, meta);
  h.add(alias);
  h.add(aliasOf);
  h.add(storageBytes);
}

void add(Hasher &h, const graph::SlotRef &ref) {
  const auto &[slot, offsetFeed] = ref;
  h.add(slot);
  h.add(offsetFeed);
}

void add(Hasher &h, const graph::Slot &slot) {
  const auto &[storage, external, producer, written, bytes, device, firstUse, lastUse] = slot;
  h.add(external);
  h.add(producer);
  h.add(written);
  h.add(bytes);
  add(h, device);
  h.add(firstUse);
  h.add(lastUse);
}

void add(Hasher &h, const graph::OpParam &param) {
  const auto &[name, written, domain] = param; // the domain follows from the names
  h.add(name);
  h.add(written);
}

void add(Hasher &h, const graph::SegmentEvent &e);

template <typename T> void addAll(Hasher &h, const std::vector<T> &list) {
  h.add(list.size());
  for (const T &element : list)
    add(h, element);
}

void add(Hasher &h, const graph::Op &op) {
  const auto &[name, flags, params, viewRule, host, dynamic] = op; // `dynamic` decides about gates, not about code
  h.add(name);
  h.add(flags);
  addAll(h, params);
  h.add(viewRule);
}

void add(Hasher &h, const graph::Event &event) {
  const auto &[kind, op, args, inputs, results, counts, context, whole, gate, trace, location, host, hostEqual] = event;
  h.add(kind);
  h.add(op != nullptr);
  if (op)
    add(h, *op);
  addAll(h, args);
  addAll(h, inputs);
  addAll(h, results);
  h.add(counts);
  h.add(context);
  h.add(gate);
}

void add(Hasher &h, const graph::SegmentEvent &e) {
  const auto &[event, inputs, results, scalarFeeds] = e;
  add(h, *event);
  addAll(h, inputs);
  addAll(h, results);
  h.add(scalarFeeds);
}

} // namespace

Key keyOf(const graph::Segment &segment, const graph::Deaths &deaths, const std::string &target) {
  const auto &[events, slots, numScalarFeeds, numOffsetFeeds] = segment;
  Hasher h("segment");
  h.add(target);
  addAll(h, events);
  addAll(h, slots);
  h.add(numScalarFeeds);
  h.add(numOffsetFeeds);
  h.add(deaths);
  return h.finish();
}

} // namespace terra::codegen
