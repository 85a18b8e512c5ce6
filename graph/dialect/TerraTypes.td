#ifndef TERRA_TYPES_TD
#define TERRA_TYPES_TD

include "graph/dialect/TerraDialect.td"

def Terra_Storage : TypeDef<TerraDialect, "Storage"> {
  let mnemonic = "storage";
  let summary = "A block of memory that tensors are views of";
}

#endif
