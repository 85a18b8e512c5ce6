#include "codegen/cpu/CodePages.h"

#if defined(__linux__)
#include <cstdint>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace terra::codegen {

namespace {

using Range = std::pair<uintptr_t, size_t>;

/// Segments that were never writable: nothing in them can differ from the file.
std::vector<Range> readOnly(const dl_phdr_info &info) {
  std::vector<Range> ranges;
  uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
  for (int i = 0; i < info.dlpi_phnum; ++i) {
    const ElfW(Phdr) &segment = info.dlpi_phdr[i];
    if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W))
      continue;
    uintptr_t begin = (info.dlpi_addr + segment.p_vaddr + page - 1) / page * page;
    uintptr_t end = (info.dlpi_addr + segment.p_vaddr + segment.p_memsz) / page * page;
    if (begin < end)
      ranges.emplace_back(begin, end - begin);
  }
  return ranges;
}

bool contains(const dl_phdr_info &info, uintptr_t address) {
  for (int i = 0; i < info.dlpi_phnum; ++i) {
    const ElfW(Phdr) &segment = info.dlpi_phdr[i];
    if (segment.p_type == PT_LOAD && address - (info.dlpi_addr + segment.p_vaddr) < segment.p_memsz)
      return true;
  }
  return false;
}

std::vector<Range> ownRanges() {
  std::vector<Range> ranges;
  dl_iterate_phdr(
      [](dl_phdr_info *info, size_t, void *out) {
        if (!contains(*info, reinterpret_cast<uintptr_t>(&giveBackCode)))
          return 0;
        if (info->dlpi_name && *info->dlpi_name) // else the program itself: tests, tools
          *static_cast<std::vector<Range> *>(out) = readOnly(*info);
        return 1;
      },
      &ranges);
  return ranges;
}

} // namespace

void giveBackCode() {
  static const std::vector<Range> ranges = ownRanges();
  for (auto [begin, size] : ranges)
    madvise(reinterpret_cast<void *>(begin), size, MADV_DONTNEED);
}

} // namespace terra::codegen

#else

namespace terra::codegen {
void giveBackCode() {}
} // namespace terra::codegen

#endif
