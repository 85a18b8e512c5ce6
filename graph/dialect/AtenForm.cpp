#include "graph/dialect/AtenForm.h"

#include "graph/dialect/Terra.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/ErrorHandling.h"

#include <map>
#include <mutex>

namespace terra::ir {

namespace {

class Parser {
public:
  explicit Parser(llvm::StringRef text) : text_(text) {}

  bool parse(Expr &expr) { return parseExpr(expr) && (skip(), text_.empty()); }

private:
  void skip() { text_ = text_.ltrim(); }
  bool eat(char c) {
    skip();
    return text_.consume_front(llvm::StringRef(&c, 1));
  }

  bool parseIndex(Expr &expr, Expr::Kind kind) {
    expr.kind = kind;
    return !text_.consumeInteger(10, expr.index);
  }

  bool parseExpr(Expr &expr) {
    skip();
    if (text_.consume_front("$"))
      return parseIndex(expr, Expr::Kind::Argument);
    if (text_.consume_front("#"))
      return parseIndex(expr, Expr::Kind::PromotingScalar);
    if (text_.consume_front("?"))
      return parseIndex(expr, Expr::Kind::Condition);
    if (text_.consume_front("@"))
      return parseIndex(expr, Expr::Kind::Numel);
    if (llvm::isAlpha(text_.empty() ? ' ' : text_.front()))
      return parseCall(expr);
    llvm::StringRef number =
        text_.take_while([](char c) { return llvm::isDigit(c) || llvm::StringRef(".-+e").contains(c); });
    text_ = text_.drop_front(number.size());
    expr.kind = Expr::Kind::Number;
    return !number.getAsDouble(expr.number);
  }

  bool parseCall(Expr &expr) {
    expr.kind = Expr::Kind::Call;
    llvm::StringRef name = text_.take_while([](char c) { return llvm::isAlnum(c) || c == '_'; });
    text_ = text_.drop_front(name.size());
    expr.op = ("terra." + name).str();
    if (!eat('('))
      return false;
    do {
      expr.operands.emplace_back();
      if (!parseExpr(expr.operands.back()))
        return false;
    } while (eat(','));
    return eat(')');
  }

  llvm::StringRef text_;
};

bool parseGuards(llvm::StringRef text, std::vector<Guard> &guards) {
  llvm::SmallVector<llvm::StringRef> parts;
  text.split(parts, ',');
  for (llvm::StringRef part : parts) {
    auto [index, value] = part.trim().split('=');
    Guard guard;
    if (!index.consume_front("$") || index.getAsInteger(10, guard.index) || value.empty())
      return false;
    guard.value = value.str();
    guards.push_back(std::move(guard));
  }
  return true;
}

bool parseForm(llvm::StringRef text, AtenForm &form) {
  size_t brace = text.find('{'), equals = text.find(" = ");
  form.aten = text.take_until([](char c) { return c == ' ' || c == '{'; }).str();
  if (brace < equals) {
    size_t close = text.find('}');
    if (close == llvm::StringRef::npos || !parseGuards(text.slice(brace + 1, close), form.guards))
      return false;
  }
  if (equals == llvm::StringRef::npos)
    return true;
  form.hasExpr = true;
  return parseExpr(text.drop_front(equals + 3), form.expr);
}

using FormTable = std::map<std::string, std::vector<AtenForm>, std::less<>>;

void addForm(FormTable &table, llvm::StringRef text, llvm::StringRef op) {
  AtenForm form;
  form.op = op.str();
  if (!parseForm(text, form))
    llvm::report_fatal_error("malformed ATen form in the definition of " + op + ": " + text);
  size_t optional = form.aten.find("[_]");
  if (optional == std::string::npos) {
    table[form.aten].push_back(std::move(form));
    return;
  }
  for (const char *suffix : {"", "_"}) {
    AtenForm variant = form;
    variant.aten.replace(optional, 3, suffix);
    table[variant.aten].push_back(std::move(variant));
  }
}

/// More guards first: `clamp{$2=None}` before `clamp`.
void sortByGuards(FormTable &table) {
  for (auto &[name, forms] : table)
    std::stable_sort(forms.begin(), forms.end(),
                     [](const AtenForm &a, const AtenForm &b) { return a.guards.size() > b.guards.size(); });
}

const FormTable &table(mlir::MLIRContext &context) {
  static std::mutex mutex;
  static FormTable forms;
  std::lock_guard lock(mutex);
  if (forms.empty()) {
    for (mlir::RegisteredOperationName name : context.getRegisteredOperationsByDialect("terra"))
      if (auto *aten = name.getInterface<AtenOp>())
        for (llvm::StringRef text : aten->getAtenForms())
          addForm(forms, text, name.getStringRef());
    sortByGuards(forms);
  }
  return forms;
}

} // namespace

bool parseExpr(llvm::StringRef text, Expr &expr) {
  expr = {};
  return Parser(text).parse(expr);
}

const std::vector<AtenForm> &formsOf(mlir::MLIRContext &context, llvm::StringRef aten) {
  static const std::vector<AtenForm> none;
  const FormTable &forms = table(context);
  auto it = forms.find(std::string_view(aten));
  return it == forms.end() ? none : it->second;
}

std::vector<std::string> loweredAtenNames(mlir::MLIRContext &context) {
  std::vector<std::string> names;
  for (const auto &[name, forms] : table(context))
    names.push_back(name);
  return names;
}

} // namespace terra::ir
