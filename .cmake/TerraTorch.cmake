# Finds the installed PyTorch by asking Python. Its own CMake package is not used: it demands a CUDA toolkit where the wheel has CUDA.
find_package(Python 3.10 COMPONENTS Interpreter Development.Module QUIET)
if(Python_Interpreter_FOUND AND NOT DEFINED TERRA_TORCH)
  execute_process(COMMAND ${Python_EXECUTABLE} -c "import torch" RESULT_VARIABLE _noTorch OUTPUT_QUIET ERROR_QUIET
                  WORKING_DIRECTORY ${PROJECT_BINARY_DIR})
endif()
if(Python_Interpreter_FOUND AND "${_noTorch}" STREQUAL "0")
  option(TERRA_TORCH "Build the PyTorch frontend and the Python package" ON)
else()
  option(TERRA_TORCH "Build the PyTorch frontend and the Python package" OFF)
endif()
message(STATUS "TERRA_TORCH=${TERRA_TORCH} TERRA_COMPILER=${TERRA_COMPILER} (${CMAKE_BUILD_TYPE})")
if(NOT TERRA_TORCH)
  return()
endif()
if(NOT Python_Development.Module_FOUND)
  message(FATAL_ERROR "The PyTorch frontend needs Python's headers (Debian: apt-get install python3-dev), "
          "or configure with -DTERRA_TORCH=OFF")
endif()
execute_process(
  COMMAND ${Python_EXECUTABLE} -c "import os, torch; print(torch.__version__, int(torch.compiled_with_cxx11_abi()), os.path.dirname(torch.__file__), sep=';')"
  RESULT_VARIABLE _failed OUTPUT_VARIABLE _torch ERROR_VARIABLE _error OUTPUT_STRIP_TRAILING_WHITESPACE
  WORKING_DIRECTORY ${PROJECT_BINARY_DIR})
if(_failed)
  message(FATAL_ERROR "${Python_EXECUTABLE} cannot import torch; Terra's PyTorch frontend needs torch >= 2.11, < 2.15 "
          "(or configure with -DTERRA_TORCH=OFF):\n${_error}")
endif()
list(GET _torch 0 _version)
list(GET _torch 1 _abi)
list(GET _torch 2 _dir)
string(REGEX MATCH "^[0-9]+\\.[0-9]+" _minor "${_version}")
if(_minor VERSION_LESS 2.11 OR _minor VERSION_GREATER_EQUAL 2.15)
  message(FATAL_ERROR "Terra supports torch >= 2.11, < 2.15; ${Python_EXECUTABLE} has torch ${_version}")
endif()
set(TERRA_TORCH_VERSION ${_version})
message(STATUS "torch ${_version}")

# With torch's own copy of pybind11: another version could not pass torch's types between the modules.
add_library(terra_torch INTERFACE)
target_include_directories(terra_torch SYSTEM INTERFACE ${_dir}/include ${_dir}/include/torch/csrc/api/include)
target_compile_options(terra_torch INTERFACE -fopenmp) # else at::parallel_for is silently serial
target_compile_definitions(terra_torch INTERFACE _GLIBCXX_USE_CXX11_ABI=${_abi})
foreach(_lib torch_python torch torch_cpu c10)
  target_link_libraries(terra_torch INTERFACE ${_dir}/lib/lib${_lib}.so)
endforeach()
if(NOT _abi)
  message(FATAL_ERROR "torch ${_version} was built with the old C++ ABI, which Terra's compiler cannot share")
endif()
