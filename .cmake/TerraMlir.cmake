# Finds LLVM/MLIR 22.1 and prepares it for static linking. Sets TERRA_MLIR_LIBS, TERRA_LLVM_LIBS; defines terra_use_mlir and terra_tablegen.
set(_packages "llvm-22-dev llvm-22-tools libmlir-22-dev mlir-22-tools lld-22 libzstd-dev zlib1g-dev libxml2-dev")
find_package(MLIR 22.1 CONFIG QUIET HINTS ${TERRA_LLVM_PREFIX}/lib/cmake/mlir)
if(NOT MLIR_FOUND)
  if(MLIR_CONSIDERED_VERSIONS)
    set(_found " (found: ${MLIR_CONSIDERED_VERSIONS})")
  endif()
  message(FATAL_ERROR "Terra's compiler needs LLVM and MLIR 22.1${_found}.\n"
          "  Debian:     apt-get install ${_packages}\n"
          "  elsewhere:  -DMLIR_DIR=<prefix>/lib/cmake/mlir\n"
          "  without:    -DTERRA_COMPILER=OFF builds a Terra that runs every op through the host's kernels")
endif()
message(STATUS "MLIR ${LLVM_PACKAGE_VERSION}")

# Debian's MLIR targets ask for the shared LLVM besides the static parts: two LLVMs in one process abort.
get_property(_mlirLibs GLOBAL PROPERTY MLIR_ALL_LIBS)
foreach(_lib IN LISTS _mlirLibs)
  get_target_property(_needs ${_lib} INTERFACE_LINK_LIBRARIES)
  if(_needs)
    list(REMOVE_ITEM _needs LLVM)
    set_property(TARGET ${_lib} PROPERTY INTERFACE_LINK_LIBRARIES ${_needs})
  endif()
endforeach()

# Only what is used: each library here costs size and start-up time.
set(TERRA_MLIR_LIBS
    # dialects
    MLIRAffineDialect MLIRArithDialect MLIRBufferizationDialect MLIRControlFlowDialect MLIRFuncDialect
    MLIRLLVMDialect MLIRLinalgDialect MLIRMathDialect MLIRMemRefDialect MLIRSCFDialect MLIRTensorDialect
    MLIRUBDialect MLIRVectorDialect
    # transforms
    MLIRAffineTransforms MLIRArithTransforms MLIRArithValueBoundsOpInterfaceImpl MLIRBufferizationTransforms
    MLIRFuncInlinerExtension MLIRFuncTransforms MLIRLinalgTransforms MLIRMathTransforms MLIRMemRefTransforms
    MLIRSCFTransforms MLIRTensorInferTypeOpInterfaceImpl MLIRTensorTilingInterfaceImpl MLIRTensorTransforms
    MLIRTransforms MLIRVectorTransforms
    # conversions
    MLIRAffineToStandard MLIRArithToLLVM MLIRBufferizationToMemRef MLIRControlFlowToLLVM MLIRFuncToLLVM
    MLIRIndexToLLVM MLIRLinalgToStandard MLIRMathToLLVM MLIRMathToLibm MLIRMemRefToLLVM
    MLIRReconcileUnrealizedCasts MLIRSCFToControlFlow MLIRUBToLLVM MLIRVectorToLLVM MLIRVectorToLLVMPass
    MLIRVectorToSCF
    # frame
    MLIRAnalysis MLIRIR MLIRParser MLIRPass MLIRSupport MLIRTargetLLVMIRExport MLIRBuiltinToLLVMIRTranslation
    MLIRLLVMToLLVMIRTranslation)
llvm_map_components_to_libnames(TERRA_LLVM_LIBS Analysis AsmParser BitReader BitWriter Core ExecutionEngine
                                FrontendOpenMP IRReader InstCombine Linker MC OrcJIT Passes ScalarOpts Support
                                Target TargetParser TransformUtils Vectorize X86 NVPTX)

# Headers that nearly every file with MLIR in it uses. One target builds them, the others reuse them.
set(TERRA_MLIR_PCH
    <functional> <memory> <optional> <string> <unordered_map> <vector>
    <mlir/Dialect/Arith/IR/Arith.h> <mlir/Dialect/Bufferization/IR/Bufferization.h> <mlir/Dialect/Func/IR/FuncOps.h>
    <mlir/Dialect/LLVMIR/LLVMDialect.h> <mlir/Dialect/Linalg/IR/Linalg.h> <mlir/Dialect/Math/IR/Math.h>
    <mlir/Dialect/MemRef/IR/MemRef.h> <mlir/Dialect/SCF/IR/SCF.h> <mlir/Dialect/Tensor/IR/Tensor.h>
    <mlir/IR/BuiltinOps.h> <mlir/IR/PatternMatch.h> <mlir/Pass/Pass.h> <mlir/Pass/PassManager.h>
    <mlir/Transforms/DialectConversion.h>)

add_custom_target(terra_tablegen_all)

# terra_use_mlir(TARGET [PCH]): LLVM's include path and definitions, and Terra's generated headers.
function(terra_use_mlir target)
  target_include_directories(${target} SYSTEM PRIVATE ${MLIR_INCLUDE_DIRS} ${LLVM_INCLUDE_DIRS})
  separate_arguments(definitions NATIVE_COMMAND ${LLVM_DEFINITIONS})
  target_compile_definitions(${target} PRIVATE ${definitions})
  target_compile_options(${target} PRIVATE -flarge-source-files)
  add_dependencies(${target} terra_tablegen_all)
  if("PCH" IN_LIST ARGN)
    target_precompile_headers(${target} REUSE_FROM terra_mlir_pch)
  endif()
endfunction()

# terra_tablegen(TD OUTPUT ARGS...): runs mlir-tblgen on TD (in this folder), gives OUTPUT beside it in the build tree.
function(terra_tablegen td output)
  set(source ${CMAKE_CURRENT_SOURCE_DIR}/${td})
  if(NOT EXISTS ${source})
    return()
  endif()
  set(result ${CMAKE_CURRENT_BINARY_DIR}/${output})
  add_custom_command(OUTPUT ${result}
    COMMAND mlir-tblgen ${ARGN} -I ${PROJECT_SOURCE_DIR} -I ${CMAKE_CURRENT_SOURCE_DIR} -I ${MLIR_INCLUDE_DIRS}
            ${source} -d ${result}.d -o ${result}
    DEPENDS ${source} mlir-tblgen DEPFILE ${result}.d VERBATIM COMMENT "TableGen ${output}")
  string(MAKE_C_IDENTIFIER terra_${output} name)
  add_custom_target(${name} DEPENDS ${result})
  add_dependencies(terra_tablegen_all ${name})
endfunction()

add_library(terra_mlir_pch OBJECT ${TERRA_EMPTY})
terra_use_mlir(terra_mlir_pch)
target_link_libraries(terra_mlir_pch PRIVATE Threads::Threads)
target_precompile_headers(terra_mlir_pch PRIVATE ${TERRA_MLIR_PCH})
