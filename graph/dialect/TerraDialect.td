// The terra dialect: a segment's events as typed ops over storages.
#ifndef TERRA_DIALECT_TD
#define TERRA_DIALECT_TD

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"

def TerraDialect : Dialect {
  let name = "terra";
  let cppNamespace = "::terra::ir";
  let summary = "A recorded tensor program: storages, the events that touch them, and their arithmetic";
  let description = [{
    Between events, memory is the truth: a `terra.slot` stands for a storage, a `terra.group` reads views of slots,
    computes on tensors in SSA form and writes views back. Inside a group (after `terra-forward`) every read sees
    memory as it was before the group and all writes happen at its end.
  }];
  let useDefaultTypePrinterParser = 1;
}

#endif
