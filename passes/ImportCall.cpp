#include "passes/ImportCall.h"

#include "passes/ExprBuilder.h"

#include <algorithm>

using namespace mlir;
using terra::graph::Alias;
using terra::graph::Arg;
using terra::graph::ArgKind;
using terra::graph::kNever;

namespace terra::passes {

Type elementType(MLIRContext *context, DType dtype) {
  switch (dtype) {
  case DType::Bool:
    return IntegerType::get(context, 1);
  case DType::UInt8:
    return IntegerType::get(context, 8, IntegerType::Unsigned);
  case DType::Int8:
    return IntegerType::get(context, 8);
  case DType::Int16:
    return IntegerType::get(context, 16);
  case DType::Int32:
    return IntegerType::get(context, 32);
  case DType::Int64:
    return IntegerType::get(context, 64);
  case DType::Float16:
    return Float16Type::get(context);
  case DType::BFloat16:
    return BFloat16Type::get(context);
  case DType::Float32:
    return Float32Type::get(context);
  case DType::Float64:
    return Float64Type::get(context);
  default:
    return {};
  }
}

namespace {

bool isPlainMeta(const TensorMeta &meta) {
  bool known = meta.dtype >= DType::Bool && meta.dtype <= DType::Float64;
  return known && meta.device.type == DeviceType::CPU && !meta.conj && !meta.neg && meta.numel() > 0;
}

/// No two indices share an element.
bool isDense(const TensorMeta &meta) {
  llvm::SmallVector<std::pair<int64_t, int64_t>> dims; // stride, size
  for (size_t i = 0; i < meta.rank(); ++i)
    if (meta.sizes()[i] != 1)
      dims.emplace_back(meta.strides()[i], meta.sizes()[i]);
  llvm::sort(dims);
  int64_t reach = 1;
  for (auto [stride, size] : dims) {
    if (stride < reach)
      return false;
    reach = stride * (size - 1) + reach;
  }
  return true;
}

/// Views of one storage that are equal or surely apart.
bool compatible(const graph::Operand &written, const graph::Operand &other) {
  if (written.storage != other.storage)
    return true;
  if (written.meta.dtype != other.meta.dtype || written.offsetVaries || other.offsetVaries)
    return written.meta.dtype == other.meta.dtype && written.meta.dims == other.meta.dims && &written == &other;
  if (written.meta.offset == other.meta.offset && written.meta.dims == other.meta.dims)
    return true;
  return written.meta.offset + written.meta.span() <= other.meta.offset ||
         other.meta.offset + other.meta.span() <= written.meta.offset;
}

} // namespace

const Arg &ImportCall::arg(unsigned n) const {
  static const Arg none;
  return n < event().args.size() ? event().args[n] : none;
}

bool ImportCall::isElementList(unsigned n) const {
  const Arg &a = arg(n);
  return (a.kind == ArgKind::TensorList || a.kind == ArgKind::DoubleList) && a.count == numElements();
}

unsigned ImportCall::numElements() const {
  bool onLists = event().op && StringRef(event().op->name).starts_with("aten::_foreach_");
  return onLists && arg(0).kind == ArgKind::TensorList ? arg(0).count : 0;
}

unsigned ImportCall::input(unsigned n) const {
  return arg(n).kind == ArgKind::TensorList ? arg(n).first + element_ : arg(n).first;
}

bool ImportCall::isTensor(unsigned n) const {
  bool tensor = arg(n).kind == ArgKind::Tensor || (arg(n).kind == ArgKind::TensorList && isElementList(n));
  return tensor && operand(n).storage != graph::kNoStorage;
}

bool ImportCall::isPlain() const {
  const graph::Event &e = event();
  if (e.kind != graph::EventKind::Call || !e.op || e.gate || e.results.empty() || e.op->has(graph::kOpRandom) ||
      e.op->has(graph::kOpGate) || e.op->has(graph::kOpFetch))
    return false;
  for (const graph::Operand &operand : e.inputs) {
    if (operand.storage == graph::kNoStorage)
      continue;
    if (!isPlainMeta(operand.meta))
      return false;
    if (operand.written && (!isDense(operand.meta) ||
                            !llvm::all_of(e.inputs, [&](const graph::Operand &o) { return compatible(operand, o); })))
      return false;
  }
  for (const graph::Result &result : e.results) {
    if (result.alias == Alias::Undefined)
      continue;
    if (result.alias == Alias::View || (result.alias == Alias::Fresh && !isDense(result.meta)))
      return false;
    if (result.alias == Alias::Same && !e.inputs[result.aliasOf].written)
      return false;
  }
  return true;
}

bool ImportCall::holds(const ir::Guard &guard) const {
  const Arg &a = arg(guard.index);
  if (guard.value == "None")
    return a.kind == ArgKind::None;
  if (a.varies)
    return false;
  if (guard.value.front() == '\'')
    return a.kind == ArgKind::String && "'" + a.string + "'" == guard.value;
  if (a.kind == ArgKind::Bool)
    return guard.value == (a.scalar.i ? "true" : "false");
  return a.kind == ArgKind::Int && std::to_string(a.scalar.i) == guard.value;
}

Value ImportCall::value(unsigned n) {
  const Arg &a = arg(n);
  if (a.kind == ArgKind::Tensor || a.kind == ArgKind::TensorList) {
    if (!isTensor(n))
      return {};
    const graph::Operand &operand = this->operand(n);
    graph::SlotRef ref = event_.inputs[input(n)];
    auto type = RankedTensorType::get(operand.meta.sizes(), elementType(b.getContext(), operand.meta.dtype));
    IntegerAttr feed = ref.offsetFeed == kNever ? IntegerAttr() : b.getI64IntegerAttr(ref.offsetFeed);
    return ir::ReadOp::create(b, loc, type, slots_[ref.slot], b.getI64IntegerAttr(operand.meta.offset),
                              b.getDenseI64ArrayAttr(operand.meta.strides()), feed);
  }
  bool isList = a.kind == ArgKind::DoubleList && isElementList(n);
  bool isFloat = a.kind == ArgKind::Double || a.kind == ArgKind::NumberDouble || isList;
  bool isInt = a.kind == ArgKind::Int || a.kind == ArgKind::NumberInt || a.kind == ArgKind::Bool ||
               a.kind == ArgKind::NumberBool;
  if (!isFloat && !isInt)
    return {};
  Type element = isFloat ? Type(b.getF64Type()) : Type(b.getI64Type());
  auto type = RankedTensorType::get({}, element);
  if (event_.scalarFeeds.size() > n && event_.scalarFeeds[n] != kNever)
    return ir::FeedOp::create(b, loc, type, b.getI64IntegerAttr(event_.scalarFeeds[n] + (isList ? element_ : 0)));
  double number = isList ? a.doubles[element_] : a.scalar.d;
  TypedAttr attr = isFloat ? TypedAttr(b.getF64FloatAttr(number)) : TypedAttr(b.getI64IntegerAttr(a.scalar.i));
  return ir::ConstantOp::create(b, loc, type, attr);
}

Value ImportCall::value(unsigned n, Type element) {
  Value v = value(n);
  if (!v)
    return {};
  if (auto constant = v.getDefiningOp<ir::ConstantOp>(); constant && !element.isInteger(1)) {
    auto f = dyn_cast<FloatAttr>(constant.getValue());
    if (f && isa<FloatType>(element))
      return makeConstant(b, loc, f.getValueAsDouble(), element);
    if (!f && isa<FloatType>(element))
      return makeConstant(b, loc, double(cast<IntegerAttr>(constant.getValue()).getInt()), element);
  }
  return makeCast(b, loc, v, element);
}

std::optional<int64_t> ImportCall::integer(unsigned n) const {
  const Arg &a = arg(n);
  if (a.kind != ArgKind::Int || a.varies)
    return std::nullopt;
  return a.scalar.i;
}

std::optional<double> ImportCall::number(unsigned n) const {
  const Arg &a = arg(n);
  if (a.varies || (a.kind != ArgKind::Double && a.kind != ArgKind::Int))
    return std::nullopt;
  return a.kind == ArgKind::Double ? a.scalar.d : double(a.scalar.i);
}

std::optional<bool> ImportCall::boolean(unsigned n) const {
  const Arg &a = arg(n);
  if (a.kind != ArgKind::Bool || a.varies)
    return std::nullopt;
  return a.scalar.i != 0;
}

bool ImportCall::hasResult(unsigned i) const {
  return onlyWrites() || event().results[result(i)].alias != Alias::Undefined;
}

const TensorMeta &ImportCall::resultMeta() const {
  return onlyWrites() ? operand(0).meta : event().results[result(0)].meta;
}

bool ImportCall::makesResult() const { return !onlyWrites() && event().results[result(0)].alias == Alias::Fresh; }

RankedTensorType ImportCall::resultType(unsigned i) {
  const TensorMeta &meta = onlyWrites() ? operand(0).meta : event().results[result(i)].meta;
  return RankedTensorType::get(meta.sizes(), elementType(b.getContext(), meta.dtype));
}

bool ImportCall::store(Value value, const TensorMeta &meta, graph::SlotRef ref) {
  if (!value || !isPlainMeta(meta))
    return false;
  auto target = RankedTensorType::get(meta.sizes(), elementType(b.getContext(), meta.dtype));
  value = makeCast(b, loc, value, target.getElementType());
  if (tensorType(value).getNumElements() == target.getNumElements() && value.getType() != target)
    value = ir::ReshapeOp::create(b, loc, target, value);
  if (value.getType() != target) // broadcast
    value = ir::CastOp::create(b, loc, target, value);
  IntegerAttr feed = ref.offsetFeed == kNever ? IntegerAttr() : b.getI64IntegerAttr(ref.offsetFeed);
  ir::WriteOp::create(b, loc, value, slots_[ref.slot], b.getI64IntegerAttr(meta.offset),
                      b.getDenseI64ArrayAttr(meta.strides()), feed);
  return true;
}

bool ImportCall::write(unsigned i, Value value) {
  if (onlyWrites())
    return writeArgument(0, value);
  const graph::Result &result = event().results[this->result(i)];
  if (result.alias == Alias::Same)
    return store(value, event().inputs[result.aliasOf].meta, event_.inputs[result.aliasOf]);
  return store(value, result.meta, event_.results[this->result(i)]);
}

bool ImportCall::writeArgument(unsigned n, Value value) {
  return store(value, operand(n).meta, event_.inputs[input(n)]);
}

} // namespace terra::passes
