# How Terra's own targets are made: one object library a folder, all of them in two shared libraries: the core, and
# the compiler, which is opened when the first compilation is due.
set(TERRA_EMPTY ${PROJECT_BINARY_DIR}/empty.cpp)
file(CONFIGURE OUTPUT ${TERRA_EMPTY} CONTENT "// For targets that have no sources yet.\n")

# terra_objects(NAME [MLIR] SOURCES...): object library NAME, a part of the core. MLIR makes it a part of the compiler
# instead, with LLVM's include path and the precompiled header.
function(terra_objects name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "MLIR" "" "")
  add_library(${name} OBJECT ${arg_UNPARSED_ARGUMENTS} ${TERRA_EMPTY})
  target_link_libraries(${name} PRIVATE Threads::Threads)
  if(arg_MLIR)
    terra_use_mlir(${name} PCH)
    set_property(GLOBAL APPEND PROPERTY TERRA_COMPILER_OBJECT_LIBS ${name})
  else()
    set_property(GLOBAL APPEND PROPERTY TERRA_CORE_OBJECT_LIBS ${name})
  endif()
endfunction()

# Sets OUT to the objects of the named parts (CORE, COMPILER).
function(terra_objects_of out)
  set(objects "")
  foreach(part IN LISTS ARGN)
    get_property(libs GLOBAL PROPERTY TERRA_${part}_OBJECT_LIBS)
    foreach(lib IN LISTS libs)
      list(APPEND objects $<TARGET_OBJECTS:${lib}>)
    endforeach()
  endforeach()
  set(${out} ${objects} PARENT_SCOPE)
endfunction()

# terra_link_all(TARGET): core and compiler become parts of an executable.
function(terra_link_all target)
  terra_objects_of(objects CORE COMPILER)
  target_sources(${target} PRIVATE ${objects})
  target_link_libraries(${target} PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
  if(TERRA_COMPILER)
    target_sources(${target} PRIVATE ${PROJECT_SOURCE_DIR}/codegen/LinkedCompiler.cpp)
    target_link_libraries(${target} PRIVATE ${TERRA_MLIR_LIBS} ${TERRA_LLVM_LIBS})
  else()
    target_sources(${target} PRIVATE ${PROJECT_SOURCE_DIR}/codegen/NoCompiler.cpp)
  endif()
endfunction()

# terra_library(NAME SOURCES...): shared library NAME in the package, which shows what .cmake/NAME.map lists.
function(terra_library name)
  add_library(${name} SHARED ${ARGN})
  target_link_libraries(${name} PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
  set(script ${PROJECT_SOURCE_DIR}/.cmake/${name}.map)
  target_link_options(${name} PRIVATE -Wl,--version-script=${script} -Wl,-Bsymbolic-functions)
  set_target_properties(${name} PROPERTIES LINK_DEPENDS ${script} BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH $ORIGIN
                        LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/python/terra)
  install(TARGETS ${name} LIBRARY DESTINATION terra)
endfunction()

# libterra_core.so: everything left of frontend/ without LLVM; libterra_compiler.so: the rest, with LLVM inside and hidden.
function(terra_core_library)
  terra_objects_of(core CORE)
  if(NOT TERRA_COMPILER)
    terra_library(terra_core ${core} ${PROJECT_SOURCE_DIR}/codegen/NoCompiler.cpp)
    return()
  endif()
  terra_library(terra_core ${core} ${PROJECT_SOURCE_DIR}/codegen/OpenCompiler.cpp)
  terra_objects_of(compiler COMPILER)
  terra_library(terra_compiler ${compiler})
  target_link_libraries(terra_compiler PRIVATE terra_core ${TERRA_MLIR_LIBS} ${TERRA_LLVM_LIBS})
  target_link_options(terra_compiler PRIVATE -Wl,-z,keep-text-section-prefix ${TERRA_PACK_RELOCATIONS})
  if(TERRA_ORDER_FUNCTIONS)
    terra_order_functions(terra_compiler)
  endif()
endfunction()

# Functions that a sample compilation calls come first, see codegen/order/FunctionOrder.cpp. They are listed once: a list
# that has become older than the code is still a good one.
function(terra_order_functions target)
  set(folder ${PROJECT_SOURCE_DIR}/codegen/order)
  set(list ${PROJECT_BINARY_DIR}/${target}.order)
  add_executable(terra-function-order ${folder}/FunctionOrder.cpp)
  terra_link_all(terra-function-order)
  target_link_options(terra-function-order PRIVATE -Wl,--strip-debug)
  add_custom_command(OUTPUT ${list}
    COMMAND ${CMAKE_COMMAND} -E env TERRA_CACHE=0 $<TARGET_FILE:terra-function-order> ${folder}/sample.terra.json > ${list}
    DEPENDS ${folder}/sample.terra.json ${folder}/FunctionOrder.cpp VERBATIM COMMENT "Order of the compiler's functions")
  add_custom_target(terra_function_order_list DEPENDS ${list})
  add_dependencies(${target} terra_function_order_list)
  target_link_options(${target} PRIVATE -Wl,--symbol-ordering-file=${list} -Wl,--no-warn-symbol-ordering)
  set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS ${list})
endfunction()
