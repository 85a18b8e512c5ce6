// terra-function-order SAMPLE: compiles the segments of a dump and prints which functions ran, those of each phase together
// and in the order of their first calls. The linker places them so: of LLVM's tens of megabytes a compilation needs a
// third, scattered over all, and each of its phases less.
//
// How: before anything else runs, the first byte of every function of this program becomes a breakpoint; the handler notes
// the function and puts the byte back. A phase ends where the compiler gives code back: all breakpoints are set again.
// Where the system forbids writing to code, nothing is printed: the order is a hint.
#include "codegen/Compiler.h"
#include "codegen/cpu/CodePages.h"
#include "graph/Serialize.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <span>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

namespace {

/// What runs while breakpoints are set lies in a section of its own, which gets none.
#define TERRA_UNTRACED __attribute__((section("terra_untraced"), noinline))

using Phases = uint32_t;

struct Function {
  uint8_t *entry;
  const char *name;
  uint8_t byte = 0; ///< what the breakpoint replaced
  Phases phases = 0; ///< a bit for each in which it ran
  uint32_t firstCall = ~0u; ///< position among the functions that ran
};

Function *functions = nullptr; ///< sorted by address; several names for one address are neighbours
size_t count = 0;
uint32_t calls = 0;

/// Phases are known by the place that ends them.
constexpr unsigned kMaxPhases = 32;
uintptr_t ends[kMaxPhases];
unsigned phases = 0;
uint8_t *phaseEnd = nullptr; ///< where giveBackCode begins
Phases running = 1u << (kMaxPhases - 1);

TERRA_UNTRACED void setBreakpoints() {
  for (size_t i = 0; i < count; ++i)
    *functions[i].entry = 0xcc;
}

/// What ran since the last end of a phase gets the bit of the one that ended at `place`.
TERRA_UNTRACED void endPhase(uintptr_t place) {
  unsigned phase = 0;
  while (phase < phases && ends[phase] != place)
    ++phase;
  if (phase == kMaxPhases - 1)
    return;
  ends[phase] = place;
  phases = phase == phases ? phase + 1 : phases;
  for (size_t i = 0; i < count; ++i)
    if (functions[i].phases & running)
      functions[i].phases = (functions[i].phases & ~running) | (1u << phase);
  setBreakpoints();
}

TERRA_UNTRACED void onTrap(int, siginfo_t *, void *context) {
  greg_t *registers = static_cast<ucontext_t *>(context)->uc_mcontext.gregs;
  auto *entry = reinterpret_cast<uint8_t *>(--registers[REG_RIP]);
  if (entry == phaseEnd)
    endPhase(*reinterpret_cast<uintptr_t *>(registers[REG_RSP]));
  else
    *phaseEnd = 0xcc; // the last call of it went on without one
  size_t low = 0, high = count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (functions[middle].entry < entry)
      low = middle + 1;
    else
      high = middle;
  }
  for (; low < count && functions[low].entry == entry; ++low) {
    functions[low].phases |= running;
    functions[low].firstCall = functions[low].firstCall < calls ? functions[low].firstCall : calls++;
    *entry = functions[low].byte;
  }
}

const char *mapOwnFile() {
  int file = open("/proc/self/exe", O_RDONLY);
  struct stat status;
  if (file < 0 || fstat(file, &status))
    return nullptr;
  void *data = mmap(nullptr, size_t(status.st_size), PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  return data == MAP_FAILED ? nullptr : static_cast<const char *>(data);
}

void collect(const char *file, uintptr_t base) {
  auto &header = *reinterpret_cast<const Elf64_Ehdr *>(file);
  std::span sections(reinterpret_cast<const Elf64_Shdr *>(file + header.e_shoff), header.e_shnum);
  const char *sectionNames = file + sections[header.e_shstrndx].sh_offset;
  for (const Elf64_Shdr &table : sections) {
    if (table.sh_type != SHT_SYMTAB)
      continue;
    size_t entries = table.sh_size / sizeof(Elf64_Sym);
    auto *symbols = reinterpret_cast<const Elf64_Sym *>(file + table.sh_offset);
    const char *names = file + sections[table.sh_link].sh_offset;
    functions = new Function[entries];
    for (const Elf64_Sym &symbol : std::span(symbols, entries)) {
      bool code = ELF64_ST_TYPE(symbol.st_info) == STT_FUNC && symbol.st_size && symbol.st_shndx < sections.size();
      if (code && std::string_view(sectionNames + sections[symbol.st_shndx].sh_name).starts_with(".text"))
        functions[count++] = {reinterpret_cast<uint8_t *>(base + symbol.st_value), names + symbol.st_name};
    }
  }
  std::sort(functions, functions + count, [](const Function &a, const Function &b) { return a.entry < b.entry; });
  for (size_t i = 0; i < count; ++i)
    functions[i].byte = *functions[i].entry;
  phaseEnd = reinterpret_cast<uint8_t *>(&terra::codegen::giveBackCode);
}

bool makeWritable(const dl_phdr_info &info) {
  uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
  for (const ElfW(Phdr) &segment : std::span(info.dlpi_phdr, info.dlpi_phnum)) {
    if (segment.p_type != PT_LOAD || !(segment.p_flags & PF_X))
      continue;
    uintptr_t begin = (info.dlpi_addr + segment.p_vaddr) / page * page;
    uintptr_t end = info.dlpi_addr + segment.p_vaddr + segment.p_memsz;
    if (mprotect(reinterpret_cast<void *>(begin), end - begin, PROT_READ | PROT_WRITE | PROT_EXEC))
      return false;
  }
  return true;
}

/// Before LLVM's own constructors, whose functions are wanted too.
__attribute__((constructor(101))) void begin() {
  const char *file = mapOwnFile();
  if (!file)
    return;
  dl_iterate_phdr( // the first object is the program
      [](dl_phdr_info *info, size_t, void *data) {
        if (makeWritable(*info))
          collect(static_cast<const char *>(data), info->dlpi_addr);
        return 1;
      },
      const_cast<char *>(file));
  struct sigaction action = {};
  action.sa_sigaction = &onTrap;
  action.sa_flags = SA_SIGINFO;
  if (count && !sigaction(SIGTRAP, &action, nullptr))
    setBreakpoints();
}

/// Place of a set of phases when all sets stand in Gray code: sets that share phases are neighbours.
Phases rank(Phases set) {
  for (unsigned shift = 1; shift < kMaxPhases; shift *= 2)
    set ^= set >> shift;
  return set;
}

void print() {
  std::vector<Function> ran;
  std::copy_if(functions, functions + count, std::back_inserter(ran), [](const Function &f) { return f.phases != 0; });
  std::sort(ran.begin(), ran.end(), [](const Function &a, const Function &b) {
    return std::pair(rank(a.phases), a.firstCall) < std::pair(rank(b.phases), b.firstCall);
  });
  for (const Function &function : ran)
    std::puts(function.name);
}

} // namespace

int main(int argc, char **argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s SAMPLE\n", argv[0]);
    return 2;
  }
  terra::graph::Dump dump = terra::graph::load(argv[1]);
  uint32_t kernels = 0;
  for (size_t i = 0; i < dump.segments.size(); ++i) {
    terra::graph::Segment segment = dump.segment(i);
    terra::graph::Deaths deaths = dump.segments[i].deaths;
    if (deaths.empty())
      deaths.assign(segment.slots.size(), terra::graph::kNever);
    kernels += terra::codegen::compile(segment, deaths, {})->kernelCount;
  }
  print();
  return kernels ? 0 : 1;
}
