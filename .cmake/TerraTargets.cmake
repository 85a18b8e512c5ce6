# How Terra's own targets are made: one object library a folder, all of them in one shared library.
set(TERRA_EMPTY ${PROJECT_BINARY_DIR}/empty.cpp)
file(CONFIGURE OUTPUT ${TERRA_EMPTY} CONTENT "// For targets that have no sources yet.\n")

# terra_objects(NAME [MLIR] SOURCES...): object library NAME; MLIR gives it LLVM's include path and the precompiled header.
function(terra_objects name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "MLIR" "" "")
  add_library(${name} OBJECT ${arg_UNPARSED_ARGUMENTS} ${TERRA_EMPTY})
  target_link_libraries(${name} PRIVATE Threads::Threads)
  if(arg_MLIR)
    terra_use_mlir(${name} PCH)
  endif()
  set_property(GLOBAL APPEND PROPERTY TERRA_OBJECT_LIBS ${name})
endfunction()

# Objects of every folder, for the targets that link all of the core.
function(terra_core_objects out)
  get_property(libs GLOBAL PROPERTY TERRA_OBJECT_LIBS)
  set(${out} "")
  foreach(lib IN LISTS libs)
    list(APPEND ${out} $<TARGET_OBJECTS:${lib}>)
  endforeach()
  set(${out} ${${out}} PARENT_SCOPE)
endfunction()

# What the objects need at link time.
function(terra_link_core target)
  target_link_libraries(${target} PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
  if(TERRA_COMPILER)
    target_link_libraries(${target} PRIVATE ${TERRA_MLIR_LIBS} ${TERRA_LLVM_LIBS})
  endif()
endfunction()

# libterra_core.so: everything left of frontend/, with LLVM inside and hidden.
function(terra_core_library)
  terra_core_objects(objects)
  add_library(terra_core SHARED ${objects})
  terra_link_core(terra_core)
  set(script ${PROJECT_SOURCE_DIR}/.cmake/terra_core.map)
  target_link_options(terra_core PRIVATE -Wl,--version-script=${script} -Wl,-Bsymbolic-functions)
  set_target_properties(terra_core PROPERTIES LINK_DEPENDS ${script}
                        LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/python/terra)
  install(TARGETS terra_core LIBRARY DESTINATION terra)
endfunction()
