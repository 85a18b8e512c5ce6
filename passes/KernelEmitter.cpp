#include "passes/KernelEmitter.h"

#include "passes/ExprBuilder.h"
#include "passes/View.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

using namespace mlir;

namespace terra::passes {

KernelEmitter::KernelEmitter(const KernelAnalysis &analysis, const KernelPlan &plan, Location loc, MLIRContext *context)
    : a_(analysis), plan_(plan), b_(context), math_(b_, loc), loc_(loc), ivs_(analysis.sizes.size()),
      keptExtent_(plan.keptExtent()) {
  collectPointers();
}

//===- Functions and pointers -------------------------------------------------------------------------------------===//

KernelPointer KernelEmitter::pointerOf(Operation *op) {
  if (auto feed = dyn_cast<ir::FeedOp>(op))
    return {Value(), int64_t(feed.getIndex()), -1, tensorType(feed.getResult()).getElementType()};
  if (auto accumulate = dyn_cast<ir::AccumulateOp>(op))
    return {accumulate.getScratch(), int64_t(accumulate.getOffset()), -1,
            tensorType(accumulate.getValue()).getElementType()};
  View view = isa<ir::ReadOp>(op) ? View::of(cast<ir::ReadOp>(op)) : View::of(cast<ir::WriteOp>(op));
  return {view.slot, view.feed >= 0 ? 0 : view.offset, view.feed, view.element};
}

unsigned KernelEmitter::pointerIndex(const KernelPointer &pointer) {
  return unsigned(llvm::find(pointers_, pointer) - pointers_.begin());
}

void KernelEmitter::collectPointers() {
  auto add = [&](Operation *op) {
    KernelPointer pointer = pointerOf(op);
    if (!llvm::is_contained(pointers_, pointer))
      pointers_.push_back(pointer);
  };
  for (const KernelNode &node : a_.nodes)
    if (isa<ir::ReadOp, ir::FeedOp>(node.op))
      add(node.op);
  for (const KernelWrite &write : a_.writes)
    add(write.op);
}

bool KernelEmitter::run(ModuleOp module, StringRef name) {
  Type pointer = LLVM::LLVMPointerType::get(b_.getContext());
  SmallVector<Type> inputs(pointers_.size(), pointer);
  inputs.append(2, b_.getI64Type());
  b_.setInsertionPointToEnd(module.getBody());
  body_ = func::FuncOp::create(b_, loc_, (name + "_body").str(), b_.getFunctionType(inputs, {}));
  body_.setPrivate();

  entry_ = body_.addEntryBlock();
  b_.setInsertionPointToStart(entry_);
  auto end = func::ReturnOp::create(b_, loc_);
  b_.setInsertionPoint(end);
  args_.assign(entry_->args_begin(), entry_->args_begin() + ptrdiff_t(pointers_.size()));
  begin_ = entry_->getArgument(unsigned(pointers_.size()));
  end_ = entry_->getArgument(unsigned(pointers_.size()) + 1);
  scopes_.emplace_back();
  if (plan_.shape == Shape::Map)
    emitMap();
  else if (plan_.shape == Shape::Rows)
    emitRows();
  else
    emitColumns();
  return ok_;
}

void KernelEmitter::finish(ModuleOp module, StringRef name, const llvm::BitVector &varying) {
  fixNumbers(varying);
  emitWrapper(module, name, varying);
}

/// Numbers that do not vary become constants of the body.
void KernelEmitter::fixNumbers(const llvm::BitVector &varying) {
  auto first = unsigned(pointers_.size()) + 2;
  llvm::BitVector fixed(entry_->getNumArguments());
  b_.setInsertionPointToStart(entry_);
  for (auto [i, number] : llvm::enumerate(numbers_)) {
    if (varying[unsigned(i)])
      continue;
    Value constant = isa<FloatType>(number.element)
                         ? math_.constant(llvm::bit_cast<double>(number.bits), number.element)
                         : math_.integerConstant(number.bits, number.element);
    number.argument.replaceAllUsesWith(constant);
    fixed.set(first + unsigned(i));
  }
  body_.setType(b_.getFunctionType(entry_->getArgumentTypes(), {}));
  (void)body_.eraseArguments(fixed);
  for (unsigned i = 0; i < pointers_.size(); ++i)
    body_.setArgAttr(i, "llvm.noalias", b_.getUnitAttr());
}

/// A number as `numbers` says it is passed.
Value KernelEmitter::fromBits(Value bits, Type element) {
  if (isa<FloatType>(element))
    return math_.cast(arith::BitcastOp::create(b_, loc_, b_.getF64Type(), bits), b_.getF64Type(), element);
  return math_.cast(bits, b_.getI64Type(), element);
}

/// The ABI's function: arguments come in an array.
void KernelEmitter::emitWrapper(ModuleOp module, StringRef name, const llvm::BitVector &varying) {
  Type pointer = LLVM::LLVMPointerType::get(b_.getContext());
  b_.setInsertionPointAfter(body_);
  auto wrapper =
      func::FuncOp::create(b_, loc_, name, b_.getFunctionType({pointer, b_.getI64Type(), b_.getI64Type()}, {}));
  b_.setInsertionPointToStart(wrapper.addEntryBlock());
  SmallVector<Value> arguments;
  int32_t next = 0;
  auto loadNext = [&](Type type) {
    Value address =
        LLVM::GEPOp::create(b_, loc_, pointer, pointer, wrapper.getArgument(0), ArrayRef<LLVM::GEPArg>{next++});
    return Value(LLVM::LoadOp::create(b_, loc_, type, address));
  };
  for (unsigned i = 0; i < pointers_.size(); ++i)
    arguments.push_back(loadNext(pointer));
  arguments.push_back(wrapper.getArgument(1));
  arguments.push_back(wrapper.getArgument(2));
  for (unsigned i : varying.set_bits())
    arguments.push_back(fromBits(loadNext(b_.getI64Type()), numbers_[i].element));
  func::CallOp::create(b_, loc_, body_, arguments);
  func::ReturnOp::create(b_, loc_);
}

//===- Scalars ----------------------------------------------------------------------------------------------------===//

Value KernelEmitter::i64(int64_t number) { return arith::ConstantOp::create(b_, loc_, b_.getI64IntegerAttr(number)); }

Value KernelEmitter::number(const void *key, int64_t bits, Type element) {
  auto [it, isNew] = numberOf_.try_emplace(key, unsigned(numbers_.size()));
  if (isNew)
    numbers_.push_back({bits, element, entry_->addArgument(ScalarMath::registerType(element), loc_)});
  return numbers_[it->second].argument;
}

Value KernelEmitter::size(const int64_t &number) { return this->number(&number, number, b_.getI64Type()); }

Type KernelEmitter::elementOf(unsigned node) const { return tensorType(a_.nodes[node].value).getElementType(); }

Value KernelEmitter::allocate(int64_t elements, Type element) {
  OpBuilder::InsertionGuard guard(b_);
  b_.setInsertionPointToStart(entry_);
  return LLVM::AllocaOp::create(b_, loc_, LLVM::LLVMPointerType::get(b_.getContext()), ScalarMath::memoryType(element),
                                i64(elements), 64);
}

Value KernelEmitter::index(ArrayRef<int64_t> strides) {
  Value sum;
  for (size_t d = 0; d < strides.size(); ++d) {
    Value iv = ivs_[d];
    if (!iv || strides[d] == 0)
      continue;
    Value term = strides[d] == 1 ? iv : Value(arith::MulIOp::create(b_, loc_, iv, size(strides[d])));
    sum = sum ? Value(arith::AddIOp::create(b_, loc_, sum, term)) : term;
  }
  return sum ? sum : i64(0);
}

Value KernelEmitter::index(const KernelWrite &write) {
  Value inside = index(write.strides);
  if (!write.perTask)
    return inside;
  return arith::AddIOp::create(b_, loc_, inside, arith::MulIOp::create(b_, loc_, task_, size(write.perTask)));
}

Value KernelEmitter::load(Value pointer, Value index, Type element) {
  Type stored = ScalarMath::memoryType(element);
  Value address = LLVM::GEPOp::create(b_, loc_, pointer.getType(), stored, pointer, ArrayRef<LLVM::GEPArg>{index});
  Value value = LLVM::LoadOp::create(b_, loc_, stored, address);
  if (element.isInteger(1))
    return arith::CmpIOp::create(b_, loc_, arith::CmpIPredicate::ne, value, math_.integerConstant(0, b_.getI8Type()));
  return value;
}

void KernelEmitter::store(Value value, Value pointer, Value index, Type element) {
  Type stored = ScalarMath::memoryType(element);
  if (element.isInteger(1))
    value = arith::ExtUIOp::create(b_, loc_, stored, value);
  Value address = LLVM::GEPOp::create(b_, loc_, pointer.getType(), stored, pointer, ArrayRef<LLVM::GEPArg>{index});
  LLVM::StoreOp::create(b_, loc_, value, address);
}

Value KernelEmitter::eval(unsigned n) {
  for (auto &scope : llvm::reverse(scopes_))
    if (auto it = scope.find(n); it != scope.end())
      return it->second;
  const KernelNode &node = a_.nodes[n];
  auto buffer = buffers_.find(n);
  bool isArray = plan_.shape == Shape::Columns;
  Value value;
  if (buffer != buffers_.end() && filled_.contains(n)) {
    value = load(buffer->second, tileIndex(), elementOf(n));
  } else {
    value = compute(node);
    if (value && buffer != buffers_.end() && !isArray) {
      store(value, buffer->second, tileIndex(), elementOf(n));
      filling_.insert(n);
    }
  }
  ok_ &= bool(value);
  if (!value) // keep the IR well-formed; the caller sees ok_
    value = math_.integerConstant(0, elementOf(n));
  return scopes_.back()[n] = value;
}

Value KernelEmitter::compute(const KernelNode &node) {
  Type element = tensorType(node.value).getElementType();
  if (auto constant = dyn_cast<ir::ConstantOp>(node.op)) {
    if (auto f = dyn_cast<FloatAttr>(constant.getValue())) {
      if (!isa<FloatType>(element))
        return math_.constant(f.getValueAsDouble(), element);
      Value real = number(node.op, llvm::bit_cast<int64_t>(f.getValueAsDouble()), element);
      // LLVM would turn max(a, where(c, -inf, x)) into where(c, a, max(a, x)), which it does not vectorise.
      bool hide = plan_.shape == Shape::Rows && f.getValue().isInfinity() &&
                  llvm::any_of(a_.nodes, [](const KernelNode &n) { return isa<ir::MaxOfNumbersOp>(n.op); });
      return hide ? throughMemory(real) : real;
    }
    int64_t integer = cast<IntegerAttr>(constant.getValue()).getInt();
    if (isa<FloatType>(element))
      return number(node.op, llvm::bit_cast<int64_t>(double(integer)), element);
    return element.isInteger(1) ? math_.integerConstant(integer, element) : number(node.op, integer, element);
  }
  if (isa<ir::FeedOp>(node.op))
    return load(args_[pointerIndex(pointerOf(node.op))], i64(0), element);
  if (isa<ir::ReadOp>(node.op))
    return load(args_[pointerIndex(pointerOf(node.op))], index(node.strides), element);
  if (isa<ir::IotaOp>(node.op))
    return index(node.strides);
  if (isa<ir::Reduction>(node.op))
    return {}; // accumulated by the loops; asking for it here means a wrong stage
  SmallVector<Value> operands;
  for (unsigned operand : node.operands)
    operands.push_back(eval(operand));
  if (isa<ir::ReshapeOp>(node.op))
    return operands.front();
  if (Value equal = compareWithIndex(node, operands))
    return equal;
  Type from = elementOf(node.operands.back());
  if (isa<ir::CastOp>(node.op))
    return math_.cast(operands.front(), from, element);
  return math_.primitive(node.op, from, operands);
}

/// Equality with an index below 2^31, in 32 bits: what does not fit is equal to none. Null where the node is something else.
Value KernelEmitter::compareWithIndex(const KernelNode &node, ArrayRef<Value> operands) {
  if (!isa<ir::EqOp, ir::NeOp>(node.op))
    return {};
  for (unsigned i : {0u, 1u}) {
    auto iota = dyn_cast<ir::IotaOp>(a_.nodes[node.operands[i]].op);
    if (!iota)
      continue;
    int64_t size = tensorType(iota).getDimSize(int64_t(iota.getDim()));
    if (size > INT32_MAX)
      return {};
    Type narrow = b_.getI32Type();
    Value number = operands[1 - i];
    Value limit = this->number(iota.getOperation(), size, b_.getI64Type());
    Value fits = arith::CmpIOp::create(b_, loc_, arith::CmpIPredicate::ult, number, limit);
    number = arith::SelectOp::create(b_, loc_, fits, arith::TruncIOp::create(b_, loc_, narrow, number),
                                     math_.integerConstant(-1, narrow));
    auto predicate = isa<ir::EqOp>(node.op) ? arith::CmpIPredicate::eq : arith::CmpIPredicate::ne;
    return arith::CmpIOp::create(b_, loc_, predicate, arith::TruncIOp::create(b_, loc_, narrow, operands[i]), number);
  }
  return {};
}

/// The same number, of which LLVM knows nothing any more.
Value KernelEmitter::throughMemory(Value number) {
  Value place = allocate(1, number.getType());
  LLVM::StoreOp::create(b_, loc_, number, place, /*alignment=*/0, /*isVolatile=*/true);
  return LLVM::LoadOp::create(b_, loc_, number.getType(), place, /*alignment=*/0, /*isVolatile=*/true);
}

/// Computes what is the same for all indices of the reduced dimensions, outside of their loops.
void KernelEmitter::evaluateKept(unsigned stage) {
  for (unsigned n = 0; n < a_.nodes.size(); ++n)
    if (a_.isKept(n) && a_.nodes[n].stage <= stage)
      eval(n);
}

/// Stores the results that span the domain, or the ones that span its kept part; all loads come first.
void KernelEmitter::write(bool full) {
  SmallVector<Value> values;
  for (const KernelWrite &w : a_.writes)
    if (w.full == full)
      values.push_back(eval(w.node));
  size_t i = 0;
  for (const KernelWrite &w : a_.writes) {
    if (w.full != full)
      continue;
    Value pointer = args_[pointerIndex(pointerOf(w.op))], at = index(w), value = values[i++];
    if (w.accumulates())
      value = math_.plus(elementOf(w.node), load(pointer, at, elementOf(w.node)), value);
    store(value, pointer, at, elementOf(w.node));
  }
}

SmallVector<unsigned> KernelEmitter::reductionsOfStage(unsigned stage) const {
  SmallVector<unsigned> found;
  for (unsigned n = 0; n < a_.nodes.size(); ++n)
    if (a_.isReduction(n) && a_.nodes[n].stage == stage + 1)
      found.push_back(n);
  return found;
}

} // namespace terra::passes
