// The strings in the ops' definitions: every form and expansion parses, names existing ops and builds.
#include "codegen/Compiler.h"
#include "graph/dialect/AtenForm.h"
#include "graph/dialect/Terra.h"

#include "mlir/IR/MLIRContext.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace terra::test {
namespace {

using ir::Expr;

/// Every op that `expr` calls exists and has as many operands as the call.
void expectKnownOps(mlir::MLIRContext &context, const Expr &expr, unsigned arity) {
  if (expr.kind == Expr::Kind::Argument && arity)
    EXPECT_LT(expr.index, arity);
  if (expr.kind != Expr::Kind::Call)
    return;
  auto name = mlir::RegisteredOperationName::lookup(expr.op, &context);
  ASSERT_TRUE(name.has_value()) << expr.op;
  if (auto *elementwise = name->getInterface<ir::Elementwise>())
    EXPECT_EQ(elementwise->getArity(), expr.operands.size()) << expr.op;
  for (const Expr &operand : expr.operands)
    expectKnownOps(context, operand, arity);
}

TEST(CompilerForms, expansions_use_existing_ops) {
  mlir::MLIRContext context(mlir::MLIRContext::Threading::DISABLED);
  context.loadDialect<ir::TerraDialect>();
  size_t composites = 0;
  for (mlir::RegisteredOperationName name : context.getRegisteredOperationsByDialect("terra")) {
    auto *elementwise = name.getInterface<ir::Elementwise>();
    if (!elementwise || elementwise->getExpansion().empty())
      continue;
    SCOPED_TRACE(name.getStringRef().str());
    Expr expr;
    ASSERT_TRUE(ir::parseExpr(elementwise->getExpansion(), expr));
    expectKnownOps(context, expr, elementwise->getArity());
    ++composites;
  }
  EXPECT_GT(composites, 20u);
}

TEST(CompilerForms, aten_forms_use_existing_ops) {
  mlir::MLIRContext context(mlir::MLIRContext::Threading::DISABLED);
  context.loadDialect<ir::TerraDialect>();
  for (const std::string &aten : ir::loweredAtenNames(context))
    for (const ir::AtenForm &form : ir::formsOf(context, aten)) {
      SCOPED_TRACE(aten);
      if (form.hasExpr)
        expectKnownOps(context, form.expr, 0);
    }
}

TEST(CompilerForms, syntax_errors_are_seen) {
  Expr expr;
  for (const char *text : {"", "add($0", "add($0, )", "add($0) x", "$", "1.2.3", "add"})
    EXPECT_FALSE(ir::parseExpr(text, expr)) << text;
  ASSERT_TRUE(ir::parseExpr("where(?1, -0.5e3, add($0, #2))", expr));
  EXPECT_EQ(expr.operands[1].number, -500);
  EXPECT_EQ(expr.operands[2].operands[1].kind, Expr::Kind::PromotingScalar);
}

TEST(CompilerForms, guarded_forms_come_first) {
  mlir::MLIRContext context(mlir::MLIRContext::Threading::DISABLED);
  context.loadDialect<ir::TerraDialect>();
  const auto &forms = ir::formsOf(context, "aten::clamp_");
  ASSERT_EQ(forms.size(), 3u);
  EXPECT_EQ(forms[0].guards.size(), 1u);
  EXPECT_TRUE(forms[2].guards.empty());
}

TEST(CompilerForms, lowered_ops_are_listed) {
  std::vector<std::string> ops = codegen::loweredOps();
  for (const char *name : {"aten::add.Tensor", "aten::add_.Tensor", "aten::native_layer_norm", "aten::_softmax"})
    EXPECT_TRUE(std::binary_search(ops.begin(), ops.end(), name)) << name;
  EXPECT_FALSE(std::binary_search(ops.begin(), ops.end(), "aten::mm"));
}

} // namespace
} // namespace terra::test
