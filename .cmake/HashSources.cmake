# cmake -DOUTPUT=FILE -DLIST=FILE -P HashSources.cmake: a header with the hash of the files named in LIST, one a line.
# Machine code kept on disk is only used by the compiler that made it.
file(STRINGS ${LIST} files)
set(hashes "")
foreach(file IN LISTS files)
  file(SHA256 ${file} hash)
  string(APPEND hashes ${hash})
endforeach()
string(SHA256 version "${hashes}")
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "#pragma once\n\nnamespace terra::codegen {\ninline constexpr const char *kCompilerVersion = \"${version}\";\n}\n")
