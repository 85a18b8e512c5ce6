#include "CompilerProgram.h"

#include <gtest/gtest.h>

#include <cmath>

namespace terra::test {

using namespace graph;

Tensor contiguous(Sizes sizes, DType dtype) {
  Tensor t;
  t.meta.dtype = dtype;
  Sizes strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;)
    strides[i - 1] = strides[i] * sizes[i];
  t.meta.dims = sizes;
  t.meta.dims.insert(t.meta.dims.end(), strides.begin(), strides.end());
  return t;
}

namespace {

const Op *opNamed(const std::string &name, uint32_t flags) {
  static std::map<std::pair<std::string, uint32_t>, std::unique_ptr<Op>> ops;
  auto &op = ops[{name, flags}];
  if (!op) {
    op = std::make_unique<Op>();
    op->name = name;
    op->flags = flags;
  }
  return op.get();
}

float fromHalf(uint16_t h) {
  int exponent = (h >> 10) & 31, mantissa = h & 1023;
  double value = exponent == 0    ? std::ldexp(mantissa, -24)
                 : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                  : std::ldexp(1024 + mantissa, exponent - 25);
  return float(h & 0x8000 ? -value : value);
}

template <typename T> T loadAs(const std::byte *p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

double loadElement(const std::byte *p, DType dtype) {
  switch (dtype) {
  case DType::Bool:
  case DType::UInt8:
    return loadAs<uint8_t>(p);
  case DType::Int8:
    return loadAs<int8_t>(p);
  case DType::Int16:
    return loadAs<int16_t>(p);
  case DType::Int32:
    return loadAs<int32_t>(p);
  case DType::Int64:
    return double(loadAs<int64_t>(p));
  case DType::Float16:
    return fromHalf(loadAs<uint16_t>(p));
  case DType::BFloat16: {
    uint32_t bits = uint32_t(loadAs<uint16_t>(p)) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
  case DType::Float32:
    return loadAs<float>(p);
  default:
    return loadAs<double>(p);
  }
}

template <typename T> void storeAs(std::byte *p, T value) { std::memcpy(p, &value, sizeof(T)); }

void storeElement(std::byte *p, DType dtype, double value) {
  switch (dtype) {
  case DType::Bool:
    return storeAs<uint8_t>(p, value != 0);
  case DType::UInt8:
    return storeAs<uint8_t>(p, uint8_t(value));
  case DType::Int8:
    return storeAs<int8_t>(p, int8_t(value));
  case DType::Int16:
    return storeAs<int16_t>(p, int16_t(value));
  case DType::Int32:
    return storeAs<int32_t>(p, int32_t(value));
  case DType::Int64:
    return storeAs<int64_t>(p, int64_t(value));
  case DType::BFloat16: { // truncated: the inputs of tests need no rounding
    float f = float(value);
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    return storeAs<uint16_t>(p, uint16_t(bits >> 16));
  }
  case DType::Float16: { // powers of two and small multiples only
    int exponent;
    double mantissa = std::frexp(std::fabs(value), &exponent);
    uint16_t bits = value == 0 ? 0 : uint16_t((exponent + 14) << 10 | (int(mantissa * 2048) & 1023));
    return storeAs<uint16_t>(p, uint16_t(bits | (value < 0 ? 0x8000 : 0)));
  }
  case DType::Float32:
    return storeAs<float>(p, float(value));
  default:
    return storeAs<double>(p, value);
  }
}

/// Calls `f` with the storage index of each element, in row-major order.
void forEachElement(const TensorMeta &meta, const std::function<void(int64_t)> &f) {
  Sizes index(meta.rank(), 0);
  for (int64_t n = meta.numel(); n > 0; --n) {
    int64_t at = meta.offset;
    for (size_t d = 0; d < meta.rank(); ++d)
      at += index[d] * meta.strides()[d];
    f(at);
    for (size_t d = meta.rank(); d-- > 0;) {
      if (++index[d] < meta.sizes()[d])
        break;
      index[d] = 0;
    }
  }
}

} // namespace

StorageId Program::storage(int64_t bytes) {
  StorageId id = StorageId(data.size());
  data[id].resize(size_t(bytes));
  return id;
}

Tensor Program::input(Sizes sizes, DType dtype, double low, double high) {
  Tensor t = contiguous(std::move(sizes), dtype);
  t.storage = storage(t.meta.numel() * int64_t(elementSize(dtype)));
  std::uniform_real_distribution<double> uniform(low, high);
  std::vector<double> numbers;
  for (int64_t i = 0; i < t.meta.numel(); ++i)
    numbers.push_back(isFloatingPoint(dtype) ? uniform(random_) : std::floor(uniform(random_)));
  set(t, numbers);
  return t;
}

Tensor Program::view(Tensor base, Sizes sizes, Sizes strides, int64_t offset) {
  base.meta.dims = std::move(sizes);
  base.meta.dims.insert(base.meta.dims.end(), strides.begin(), strides.end());
  base.meta.offset = offset;
  return base;
}

std::shared_ptr<Event> Program::event(const std::string &op, std::vector<Argument> &args, uint32_t flags) {
  auto e = std::make_shared<Event>();
  e->op = opNamed(op, flags);
  e->location = "test.py:" + std::to_string(events_.size() + 1);
  for (Argument &argument : args) {
    Arg arg;
    if (auto *t = std::get_if<Tensor>(&argument)) {
      arg.kind = ArgKind::Tensor;
      arg.first = uint32_t(e->inputs.size());
      arg.count = 1;
      Operand operand;
      operand.storage = t->storage;
      operand.meta = t->meta;
      e->inputs.push_back(operand);
    } else if (auto *n = std::get_if<Number>(&argument)) {
      arg.kind = ArgKind::NumberDouble;
      arg.scalar.d = n->value;
    } else if (auto *v = std::get_if<Varying>(&argument)) {
      arg.kind = ArgKind::Double;
      arg.scalar.d = v->value;
      arg.varies = true;
      scalarFeeds.push_back(v->value);
    } else if (auto *i = std::get_if<int64_t>(&argument)) {
      arg.kind = ArgKind::Int;
      arg.scalar.i = *i;
    } else if (auto *d = std::get_if<double>(&argument)) {
      arg.kind = ArgKind::Double;
      arg.scalar.d = *d;
    } else if (auto *b = std::get_if<bool>(&argument)) {
      arg.kind = ArgKind::Bool;
      arg.scalar.i = *b;
    } else if (auto *list = std::get_if<Sizes>(&argument)) {
      arg.kind = ArgKind::IntList;
      arg.ints = *list;
    } else if (auto *s = std::get_if<std::string>(&argument)) {
      arg.kind = ArgKind::String;
      arg.string = *s;
    }
    e->args.push_back(std::move(arg));
  }
  events_.push_back(e);
  return e;
}

Tensor Program::viewEvent(Tensor base, Sizes sizes, Sizes strides, int64_t offset) {
  std::vector<Argument> args{base};
  auto e = event("aten::as_strided", args, kOpViewOnly);
  Tensor out = view(base, std::move(sizes), std::move(strides), offset);
  Result result;
  result.storage = base.storage;
  result.meta = out.meta;
  result.alias = Alias::View;
  e->results.push_back(result);
  e->resultCounts.push_back(-1);
  return out;
}

std::vector<Tensor> Program::calls(const std::string &op, std::vector<Argument> args, std::vector<Tensor> results,
                                   uint32_t flags) {
  auto e = event(op, args, flags);
  for (Tensor &t : results) {
    Result result;
    result.meta = t.meta;
    if (t.meta.dtype != DType::Undefined) {
      result.alias = Alias::Fresh;
      result.storageBytes = t.meta.numel() * int64_t(elementSize(t.meta.dtype));
      result.storage = t.storage = storage(result.storageBytes);
    }
    e->results.push_back(result);
    e->resultCounts.push_back(-1);
  }
  return results;
}

void Program::inPlace(const std::string &op, std::vector<Argument> args) {
  auto e = event(op, args, 0);
  e->inputs[0].written = true;
  Result result;
  result.storage = e->inputs[0].storage;
  result.meta = e->inputs[0].meta;
  result.alias = Alias::Same;
  e->results.push_back(result);
  e->resultCounts.push_back(-1);
}

void Program::markWritten(std::vector<uint32_t> operands) {
  for (uint32_t i : operands)
    events_.back()->inputs[i].written = true;
}

void Program::feedOffset(uint32_t operand) { events_.back()->inputs[operand].offsetVaries = true; }

uint32_t Program::slotOf(const Tensor &t) const {
  Segment s = segment();
  for (const SegmentEvent &e : s.events) {
    for (size_t i = 0; i < e.inputs.size(); ++i)
      if (e.event->inputs[i].storage == t.storage)
        return e.inputs[i].slot;
    for (size_t i = 0; i < e.results.size(); ++i)
      if (e.event->results[i].storage == t.storage)
        return e.results[i].slot;
  }
  return kNever;
}

Deaths Program::deaths(const std::vector<Tensor> &kept) const {
  Segment s = segment();
  Deaths deaths(s.slots.size(), kNever);
  uint32_t last = uint32_t(s.events.size() - 1);
  for (size_t i = 0; i < s.slots.size(); ++i)
    if (!s.slots[i].external)
      deaths[i] = std::min(last, s.slots[i].lastUse + 1);
  for (const Tensor &t : kept)
    deaths[slotOf(t)] = kNever;
  return deaths;
}

std::vector<double> Program::values(const Tensor &t) const {
  std::vector<double> out;
  const auto &bytes = data.at(t.storage);
  size_t size = elementSize(t.meta.dtype);
  forEachElement(t.meta,
                 [&](int64_t at) { out.push_back(loadElement(bytes.data() + size_t(at) * size, t.meta.dtype)); });
  return out;
}

void Program::set(const Tensor &t, const std::vector<double> &values) {
  auto &bytes = data.at(t.storage);
  size_t size = elementSize(t.meta.dtype), i = 0;
  forEachElement(t.meta,
                 [&](int64_t at) { storeElement(bytes.data() + size_t(at) * size, t.meta.dtype, values.at(i++)); });
}

std::shared_ptr<const codegen::Executable> compileOnly(const Program &program, const std::vector<Tensor> &kept,
                                                       codegen::NumberChoice numbers) {
  Segment segment = program.segment();
  Deaths deaths = program.deaths(kept);
  codegen::CompileOptions options;
  options.numbers = numbers;
  std::string text;
  options.onStage = [&](const std::string &stage, const std::string &ir) {
    if (stage == "imported" || stage == "fused" || stage == "lowered")
      text += "// ---- " + stage + "\n" + ir;
  };
  options.onStage = [&, next = options.onStage](const std::string &stage, const std::string &ir) {
    EXPECT_NE(stage, "failed") << text << ir;
    next(stage, ir);
  };
  auto executable = codegen::compile(segment, deaths, options);
  EXPECT_EQ(codegen::verify(segment, deaths, executable->instructions), "") << text;
  if (getenv("TERRA_TEST_PRINT"))
    fprintf(stderr, "%s\n", text.c_str());
  return executable;
}

namespace {
Tensor tensorOf(StorageId storage, const TensorMeta &meta) {
  Tensor t;
  t.storage = storage;
  t.meta = meta;
  return t;
}

/// The one extern that tests use on purpose: "test::negate", fresh or in place.
void runExtern(const Event &event, Program &program) {
  ASSERT_EQ(event.op->name.substr(0, 12), "test::negate") << event.op->name << " was not compiled";
  std::vector<double> values = program.values(tensorOf(event.inputs[0].storage, event.inputs[0].meta));
  for (double &v : values)
    v = -v;
  program.set(tensorOf(event.results[0].storage, event.results[0].meta), values);
}

void runKernel(const codegen::KernelCall &call, Program &program, const std::vector<StorageId> &storages,
               const std::vector<int64_t> &offsetFeeds, std::vector<std::byte> &scratch) {
  std::vector<void *> args;
  if (scratch.size() < size_t(call.scratchBytes))
    scratch.resize(size_t(call.scratchBytes), std::byte(0x7f)); // what no kernel wrote is huge
  for (const codegen::KernelArg &arg : call.args) {
    if (arg.kind == codegen::KernelArg::Kind::Scratch) {
      args.push_back(scratch.data() + arg.byteOffset);
      continue;
    }
    if (arg.kind == codegen::KernelArg::Kind::Number) {
      args.push_back(reinterpret_cast<void *>(arg.byteOffset));
      continue;
    }
    if (arg.kind == codegen::KernelArg::Kind::Scalar) {
      args.push_back(&program.scalarFeeds.at(arg.index));
      continue;
    }
    std::byte *base = program.data.at(storages.at(arg.slot)).data();
    args.push_back(base +
                   (arg.offsetFeed == kNever ? arg.byteOffset : offsetFeeds.at(arg.offsetFeed) * arg.elementSize));
  }
  ASSERT_NE(call.fn, nullptr) << call.name;
  if (call.serial)
    return call.fn(args.data(), 0, call.extent);
  int64_t third = (call.extent + 2) / 3; // any disjoint ranges must do, in any order
  for (int64_t part : {2, 0, 1})
    if (part * third < call.extent)
      call.fn(args.data(), part * third, std::min(call.extent, (part + 1) * third));
}

void execute(const codegen::Executable &executable, const Segment &segment, Program &program,
             const std::vector<int64_t> &offsetFeeds) {
  std::vector<StorageId> storages(segment.slots.size());
  for (const SegmentEvent &e : segment.events) {
    for (size_t i = 0; i < e.inputs.size(); ++i)
      if (e.inputs[i].slot != kNever)
        storages[e.inputs[i].slot] = e.event->inputs[i].storage;
    for (size_t i = 0; i < e.results.size(); ++i)
      if (e.results[i].slot != kNever)
        storages[e.results[i].slot] = e.event->results[i].storage;
  }
  for (const codegen::Instruction &instruction : executable.instructions) {
    if (instruction.kind == codegen::Instruction::Kind::Extern)
      runExtern(*segment.events[instruction.events[0]].event, program);
    std::vector<std::byte> scratch; // lives as long as one instruction
    for (const codegen::KernelCall &call : instruction.kernels)
      runKernel(call, program, storages, offsetFeeds, scratch);
  }
}
} // namespace

namespace {
/// What summing in another order may change, for the sizes of tests.
double lastBits(DType dtype) {
  switch (dtype) {
  case DType::Float64:
    return 1e-12;
  case DType::Float32:
    return 2e-5;
  case DType::Float16:
  case DType::BFloat16:
    return 2e-2;
  default:
    return 0;
  }
}
} // namespace

std::shared_ptr<const codegen::Executable> compileAndRun(Program &program, const std::vector<Tensor> &kept,
                                                         const std::vector<int64_t> &offsetFeeds) {
  Program other = program;
  run(*compileOnly(program, kept, codegen::NumberChoice::Arguments), other, offsetFeeds);
  auto executable = compileOnly(program, kept);
  run(*executable, program, offsetFeeds);
  for (const Tensor &t : kept)
    expectNear(other.values(t), program.values(t), lastBits(t.meta.dtype));
  return executable;
}

void run(const codegen::Executable &executable, Program &program, const std::vector<int64_t> &offsetFeeds) {
  execute(executable, program.segment(), program, offsetFeeds);
}

void Program::runEventByEvent() {
  for (const auto &event : events_) {
    Segment one = makeSegment({event});
    execute(*codegen::compile(one, {}, {}), one, *this, {});
  }
}

void expectNear(const std::vector<double> &actual, const std::vector<double> &expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(expected[i])) {
      EXPECT_TRUE(std::isnan(actual[i])) << "element " << i << ": " << actual[i];
      continue;
    }
    if (actual[i] == expected[i])
      continue;
    EXPECT_LE(std::fabs(actual[i] - expected[i]), tolerance * std::max(1.0, std::fabs(expected[i])))
        << "element " << i << ": " << actual[i] << " instead of " << expected[i];
  }
}

} // namespace terra::test
