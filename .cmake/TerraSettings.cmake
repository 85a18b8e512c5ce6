# Language, warnings, build types, ccache and the linker, for every target.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET default) # terra_core's version script decides what is exported
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_COLOR_DIAGNOSTICS ON)

set(CMAKE_CXX_FLAGS_DEBUG "-O0 -g")
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1")
set(CMAKE_CXX_FLAGS_RELEASE "-O2")
set(CMAKE_CXX_FLAGS_SANITIZE "-O1 -g") # for TERRA_SANITIZER, with assertions
if(NOT TERRA_ASSERTIONS)
  string(APPEND CMAKE_CXX_FLAGS_RELWITHDEBINFO " -DNDEBUG")
  string(APPEND CMAKE_CXX_FLAGS_RELEASE " -DNDEBUG")
endif()

add_compile_options(-Wall -Wextra -Wno-unused-parameter -fno-semantic-interposition -ffunction-sections
                    -fdata-sections)
if(CMAKE_SYSTEM_PROCESSOR STREQUAL x86_64 AND CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  add_compile_options(-mtls-dialect=gnu2) # thread-local state is read on every event: descriptors cost no call
endif()
if(TERRA_SANITIZER)
  add_compile_options(-fsanitize=${TERRA_SANITIZER} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${TERRA_SANITIZER})
endif()

# ccache: base_dir makes hits possible between clones, the sloppiness is what precompiled headers need.
find_program(TERRA_CCACHE ccache)
if(TERRA_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${TERRA_CCACHE})
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
endif()

# Debian names LLVM's tools with their version; llvm-config knows where the plain names are.
find_program(TERRA_LLVM_CONFIG NAMES llvm-config-22 llvm-config)
if(TERRA_LLVM_CONFIG)
  execute_process(COMMAND ${TERRA_LLVM_CONFIG} --prefix OUTPUT_VARIABLE TERRA_LLVM_PREFIX
                  OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()
find_program(TERRA_LLD ld.lld HINTS ${TERRA_LLVM_PREFIX}/bin)
if(TERRA_LLD AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ looks for a program called ld.lld, also in the folders given with -B.
  get_filename_component(_lldDir ${TERRA_LLD} DIRECTORY)
  add_link_options(-fuse-ld=lld -B${_lldDir})
endif()
add_link_options(-Wl,--gc-sections)

# Relative relocations packed: a fiftieth of the size. Needs a C library that reads them.
include(CheckCXXSourceCompiles)
check_cxx_source_compiles("#include <features.h>
#if !__GLIBC_PREREQ(2, 36)
#error too old
#endif
int main() {}" TERRA_LIBC_READS_RELR)
if(TERRA_LIBC_READS_RELR AND TERRA_LLD)
  set(TERRA_PACK_RELOCATIONS -Wl,-z,pack-relative-relocs)
endif()

find_package(Threads REQUIRED)
include_directories(${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR})

if(NOT TERRA_LLD OR NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU" OR NOT CMAKE_SYSTEM_PROCESSOR STREQUAL x86_64 OR
   NOT CMAKE_SYSTEM_NAME STREQUAL Linux OR TERRA_SANITIZER OR CMAKE_BUILD_TYPE STREQUAL Debug)
  set(TERRA_ORDER_FUNCTIONS OFF)
endif()

# Header-only libraries: terra_needs_header(HEADER LIBRARY PACKAGE) stops with the name of the package when one is missing.
include(CheckIncludeFileCXX)
function(terra_needs_header header library package)
  string(MAKE_C_IDENTIFIER TERRA_HAS_${header} found)
  set(CMAKE_REQUIRED_QUIET ON)
  set(CMAKE_REQUIRED_FLAGS "-std=c++20")
  check_include_file_cxx(${header} ${found})
  if(NOT ${found})
    unset(${found} CACHE) # looked for again when it has been installed
    message(FATAL_ERROR "Terra needs ${library} (<${header}>).\n"
            "  Debian:     apt-get install ${package}\n"
            "  elsewhere:  -DCMAKE_CXX_FLAGS=-I<folder of its headers>")
  endif()
endfunction()
terra_needs_header(nlohmann/json.hpp "nlohmann's JSON library" nlohmann-json3-dev)
terra_needs_header(CLI/CLI.hpp CLI11 libcli11-dev)
