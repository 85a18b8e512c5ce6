"""FileCheck tests of the terra dialect and its passes."""

import lit.formats

config.name = "terra"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir", ".test"]
config.test_source_root = config.terra_source_root
config.test_exec_root = config.terra_exec_root
config.environment["PATH"] = ":".join([config.terra_opt_dir, config.llvm_tools_dir, config.environment["PATH"]])
