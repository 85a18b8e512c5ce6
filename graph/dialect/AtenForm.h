// How an ATen call becomes ops: the forms written in the ops' definitions (TerraElementwise.td), parsed.
//
//   form   := name [ '{' guard (',' guard)* '}' ] [ '=' expr ]
//   guard  := '$'N '=' ( None | 'string' | true | false | integer )       an argument has exactly this value
//   expr   := op '(' expr (',' expr)* ')' | number
//           | '$'N   argument N; a tensor takes part in type promotion, a plain Scalar does not
//           | '#'N   argument N, a Scalar that takes part in type promotion as a Python number
//           | '?'N   argument N as a truth value, no part in promotion
//           | '@'N   the number of elements of the tensor argument N
//
// `sum` and `mean` in an expression reduce everything. There are forms only for what cannot fail on data: an op that
// eager checks the values of (division of integers, `binary_cross_entropy`) stays with the host.
#pragma once

#include "llvm/ADT/StringRef.h"

#include <cstdint>
#include <string>
#include <vector>

namespace mlir {
class MLIRContext;
}

namespace terra::ir {

struct Expr {
  enum class Kind : uint8_t { Call, Argument, PromotingScalar, Condition, Numel, Number } kind = Kind::Number;
  std::string op;          ///< Call: "terra.add"
  std::vector<Expr> operands;
  unsigned index = 0;      ///< Argument, PromotingScalar, Condition, Numel
  double number = 0;
};

/// Parses an expression; false on a syntax error.
bool parseExpr(llvm::StringRef text, Expr &expr);

struct Guard {
  unsigned index = 0;
  std::string value;       ///< as written, strings with their quotes
};

/// One form of one ATen overload.
struct AtenForm {
  std::string aten;        ///< "aten::add.Tensor"
  std::string op;          ///< the op in whose definition the form is written
  std::vector<Guard> guards;
  bool hasExpr = false;    ///< false: the arguments are the operands
  Expr expr;
};

/// All forms of all registered terra ops whose ATen name is `aten`, in the order of definition. Empty: no lowering.
/// Parsed on first use; a form with an error aborts the process (a test loads them all).
const std::vector<AtenForm> &formsOf(mlir::MLIRContext &context, llvm::StringRef aten);

/// Every ATen overload with a form, sorted.
std::vector<std::string> loweredAtenNames(mlir::MLIRContext &context);

} // namespace terra::ir
