#include "ModelProgram.h"

#include "FakeComposites.h"

namespace terra::fake {

using Kind = StatementKind;

namespace {

class Maker {
public:
  Maker(std::mt19937_64 &random, const Features &features) : random_(random), features_(features) {}

  std::vector<Statement> block(int depth, uint64_t least, uint64_t most) {
    std::vector<Statement> statements;
    for (uint64_t n = least + random_() % (most - least + 1); n > 0; --n)
      statements.push_back(statement(depth));
    return statements;
  }

  Statement statement(int depth) {
    Statement s;
    s.kind = kind(depth);
    s.out = variable();
    s.out2 = variable();
    s.a = variable();
    s.b = variable();
    s.k = int64_t(random_() % 12);
    s.which = composite();
    s.varies = random_() % 3 ? Varies::Never : random_() % 2 ? Varies::ByIteration : Varies::ByFetch;
    if (s.kind == Kind::If || s.kind == Kind::Loop)
      s.body = block(depth + 1, 1, 4);
    if (s.kind == Kind::If && random_() % 2)
      s.otherwise = block(depth + 1, 1, 4);
    return s;
  }

private:
  /// Locals are overwritten most often, so that most intermediate values die.
  uint32_t variable() {
    return uint32_t(random_() % 4 ? Machine::kLasting + random_() % (Machine::kVariables - Machine::kLasting)
                                  : random_() % Machine::kVariables);
  }

  uint32_t composite() {
    static const size_t all = allComposites().size();
    return uint32_t(random_() % (features_.gates && features_.reads ? all : kPureComposites));
  }

  Kind kind(int depth) {
    static constexpr std::pair<Kind, int> weights[] = {
        {Kind::Add, 22},       {Kind::Mul, 18},      {Kind::AddInPlace, 14},   {Kind::Fill, 4},
        {Kind::Uniform, 5},    {Kind::Foreach, 4},   {Kind::Pair, 4},          {Kind::View, 12},
        {Kind::Bind, 4},       {Kind::Delete, 16},   {Kind::Item, 2},          {Kind::Read, 1},
        {Kind::Odd, 1},        {Kind::Immediate, 1}, {Kind::ReadGenerator, 1}, {Kind::Barrier, 1},
        {Kind::ThreadRead, 3}, {Kind::If, 4},        {Kind::Loop, 2},          {Kind::Raise, 1},
        {Kind::Context, 1},    {Kind::Composite, 20}};
    int total = 0;
    for (auto [kind, weight] : weights)
      total += allowed(kind, depth) ? weight : 0;
    int pick = int(random_() % uint64_t(total));
    for (auto [kind, weight] : weights)
      if (allowed(kind, depth) && (pick -= weight) < 0)
        return kind;
    return Kind::Add;
  }

  bool allowed(Kind kind, int depth) const {
    switch (kind) {
    case Kind::If:
    case Kind::Loop:
      return depth < 2;
    case Kind::Item:
    case Kind::Odd:
      return features_.gates;
    case Kind::Read:
    case Kind::ReadGenerator:
    case Kind::Barrier:
      return features_.reads;
    case Kind::Immediate:
      return features_.immediate;
    case Kind::Raise:
      return features_.raises;
    case Kind::ThreadRead:
      return features_.threads;
    case Kind::Composite:
      return features_.composites;
    default:
      return true;
    }
  }

  std::mt19937_64 &random_;
  const Features &features_;
};

} // namespace

std::vector<Statement> randomProgram(std::mt19937_64 &random, const Features &features) {
  Maker maker(random, features);
  std::vector<Statement> program = maker.block(0, 6, 40);
  if (features.longLoop) {
    Statement loop;
    loop.kind = Kind::Loop;
    loop.k = 90 + int64_t(random() % 60); // turns
    loop.body = maker.block(1, 4, 8);
    program.insert(program.begin() + ptrdiff_t(random() % program.size()), std::move(loop));
  }
  return program;
}

std::string toString(const std::vector<Statement> &program, int indent) {
  static constexpr const char *names[] = {"add",  "mul",  "add_",      "fill_",          "uniform", "foreach_add_",
                                          "pair", "view", "composite", "bind",           "delete",  "item",
                                          "read", "odd",  "immediate", "read generator", "barrier", "thread read",
                                          "if",   "loop", "raise",     "context"};
  std::string text;
  for (const Statement &s : program) {
    text += std::string(size_t(indent), ' ') + names[size_t(s.kind)] + " out=" + std::to_string(s.out) + "," +
            std::to_string(s.out2) + " a=" + std::to_string(s.a) + " b=" + std::to_string(s.b) +
            " k=" + std::to_string(s.k) + (s.kind == Kind::Composite ? " " + allComposites()[s.which]->op.name : "") +
            (s.varies == Varies::Never     ? ""
             : s.varies == Varies::ByFetch ? "+fetch"
                                           : "+i") +
            "\n" + toString(s.body, indent + 2);
    if (!s.otherwise.empty())
      text += std::string(size_t(indent), ' ') + "else\n" + toString(s.otherwise, indent + 2);
  }
  return text;
}

void Machine::makeParameters() {
  for (uint32_t i = 0; i < kParameters; ++i)
    variables_[i] =
        frontend_.make(contiguous(i == 2 ? std::vector<int64_t>{6} : std::vector<int64_t>{2, 4}), 100 * i + 1);
}

void Machine::run(const std::vector<Statement> &program, int64_t iteration) {
  iteration_ = iteration;
  fetched_ = 0;
  log_.clear();
  handedOver_.clear();
  frontend_.context = 1;
  execute(program);
}

void Machine::dropLocals() {
  for (uint32_t i = kLasting; i < kVariables; ++i)
    variables_[i] = {};
}

const Tensor &Machine::value(uint32_t index) const {
  while (!variables_[index])
    index = (index + 1) % kVariables;
  return variables_[index];
}

int64_t Machine::number(const Statement &s) const {
  return s.k + (s.varies == Varies::ByIteration ? iteration_ : s.varies == Varies::ByFetch ? fetched_ & 3 : 0);
}

bool Machine::holds(const Statement &s) const {
  switch (s.k % 3) {
  case 0:
    return fetched_ & 1;
  case 1:
    return iteration_ % 2;
  default:
    return iteration_ == s.k; // once
  }
}

void Machine::execute(const std::vector<Statement> &statements) {
  for (const Statement &statement : statements)
    execute(statement);
}

void Machine::execute(const Statement &s) {
  if (s.kind <= Kind::Composite || s.kind == Kind::Odd)
    compute(s);
  else
    control(s);
}

void Machine::compute(const Statement &s) {
  const Tensor a = value(s.a), b = value(s.b);
  double x = double(number(s));
  switch (s.kind) {
  case Kind::Add:
    variables_[s.out] = frontend_.call(Call(ops().add, {a, b}).number(x))[0];
    return;
  case Kind::Mul:
    variables_[s.out] = frontend_.call(Call(ops().mul, {a, b}))[0];
    return;
  case Kind::AddInPlace:
    frontend_.call(Call(ops().addInPlace, {a, b}).number(x));
    return;
  case Kind::Fill:
    frontend_.call(Call(ops().fill, {a}).number(x));
    return;
  case Kind::Uniform:
    variables_[s.out] = frontend_.call(Call(ops().uniform, {a}).number(x))[0];
    return;
  case Kind::Foreach:
    frontend_.call(Call(ops().foreachAdd, {a, b}).list({x, double(s.k)}));
    return;
  case Kind::Pair: {
    std::vector<Tensor> results = frontend_.call(Call(ops().pair, {a}));
    variables_[s.out] = results[0];
    variables_[s.out2] = results[1];
    return;
  }
  case Kind::Odd:
    variables_[s.out] = frontend_.call(Call(ops().odd, {a}))[0];
    return;
  case Kind::Composite:
    return composite(s);
  default:
    variables_[s.out] = partOf(frontend_, a, number(s));
  }
}

void Machine::composite(const Statement &s) {
  const FakeOp &op = *allComposites()[s.which];
  std::vector<Tensor> results = frontend_.call(Call(op, {value(s.a), value(s.b)}).number(double(number(s))));
  if (!results.empty())
    variables_[s.out] = results[0];
  if (results.size() > 1)
    variables_[s.out2] = results[2];
}

void Machine::threadRead(const Statement &s) {
  const FakeOp &op = s.k % 2 ? composites().chain : ops().add;
  Tensor made = frontend_.call(Call(op, {value(s.a), value(s.b)}).number(double(s.k)))[0];
  log_.push_back(0);
  if (!handOver) {
    log_.back() = frontend_.read(made);
    return;
  }
  handedOver_.push_back(log_.size() - 1);
  handOver(std::move(made), log_.size() - 1);
}

void Machine::control(const Statement &s) {
  switch (s.kind) {
  case Kind::Bind:
    if (s.varies != Varies::ByIteration || holds(s))
      variables_[s.out] = Tensor(value(s.a));
    return;
  case Kind::Delete:
    if (s.out >= kParameters)
      variables_[s.out] = {};
    return;
  case Kind::Item:
    log_.push_back(fetched_ = frontend_.item(value(s.a)));
    return;
  case Kind::Read:
    log_.push_back(frontend_.read(value(s.a)));
    return;
  case Kind::Immediate:
    return frontend_.callImmediately(Call(ops().addInPlace, {value(s.a), value(s.b)}).number(double(s.k)));
  case Kind::ReadGenerator:
    log_.push_back(int64_t(frontend_.readGenerator()));
    return;
  case Kind::Barrier:
    return frontend_.barrier();
  case Kind::ThreadRead:
    return threadRead(s);
  case Kind::If:
    return execute(holds(s) ? s.body : s.otherwise);
  case Kind::Loop:
    for (int64_t turn = s.k >= 90 ? -s.k : -1 - number(s) % 3; turn < 0; ++turn)
      execute(s.body);
    return;
  case Kind::Raise:
    if (iteration_ == s.k)
      throw ProgramError();
    return;
  case Kind::Context:
    frontend_.context = iteration_ == s.k ? 2 : 1;
    return;
  default:
    return;
  }
}

} // namespace terra::fake
