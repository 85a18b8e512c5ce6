#include "graph/dialect/Terra.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

#include <vector>

#include "graph/dialect/TerraDialect.cpp.inc"
#include "graph/dialect/TerraInterfaces.cpp.inc"

#define GET_TYPEDEF_CLASSES
#include "graph/dialect/TerraTypes.cpp.inc"

#define GET_OP_CLASSES
#include "graph/dialect/TerraOps.cpp.inc"

namespace terra::ir {

void TerraDialect::initialize() {
  addTypes<
#define GET_TYPEDEF_LIST
#include "graph/dialect/TerraTypes.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "graph/dialect/TerraOps.cpp.inc"
      >();
}

} // namespace terra::ir
