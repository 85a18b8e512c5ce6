// The compiler: the pipeline of passes/, then machine code for the kernels that are new, then the instruction list.
// What a cache has, at either level (the segment, the kernel), is not computed again.
#include "codegen/CompilerEntry.h"
#include "codegen/cache/SegmentCache.h"
#include "codegen/cpu/CodePages.h"
#include "codegen/cpu/Stages.h"
#include "codegen/cpu/Target.h"

#include <algorithm>
#include <thread>

namespace terra::codegen {

namespace {

struct Caches {
  KernelStore kernels{4096, DiskCache::shared()};
  SegmentCache segments{256, DiskCache::shared()};

  static Caches &get() {
    static auto *caches = new Caches();
    return *caches;
  }
};

class Compilation {
public:
  Compilation(const graph::Segment &segment, const graph::Deaths &deaths, const CompileOptions &options)
      : segment_(segment), deaths_(deaths), options_(options), watched_(options.onStage && !options.failuresOnly) {}

  /// Null when some stage failed as a whole; why goes to `onStage` as "failed".
  std::shared_ptr<Executable> run() {
    if (StageTimer timer(cost_, Stage::Cache); true)
      key_ = keyOf(segment_, deaths_, hostDescription() + char('0' + int(options_.numbers)));
    if ((watched_ || !findWhole()) && !build())
      return nullptr;
    bool whole = bind();
    if (StageTimer timer(cost_, Stage::Cache); whole && !cost_.wholeSegments)
      Caches::get().segments.insert(key_, made_);
    auto executable = std::make_shared<Executable>();
    executable->code = std::make_shared<Kernels>(std::move(kernels_));
    StageTimer timer(cost_, Stage::Schedule);
    executable->instructions = schedule(segment_, deaths_, std::move(made_.groups));
    return executable;
  }

  const CompileCost &cost() const { return cost_; }

private:
  /// Takes the groups from the cache, if it has all their kernels too.
  bool findWhole() {
    Caches &caches = Caches::get();
    std::optional<KeyedGroups> found;
    if (StageTimer timer(cost_, Stage::Cache); true)
      found = caches.segments.find(key_);
    if (!found)
      return false;
    for (const Key &key : found->kernels) {
      if (kernels_.count(key))
        continue;
      std::shared_ptr<KernelCode> code = caches.kernels.find(key, cost_);
      if (!code)
        return false;
      kernels_[key] = std::move(code);
    }
    made_ = std::move(*found);
    ++cost_.wholeSegments;
    return true;
  }

  bool build() {
    std::vector<PendingKernel> pending;
    std::string remarks;
    {
      Stages stages(segment_, deaths_, options_.numbers, watched_ ? options_.onStage : StageCallback(), cost_);
      bool made = stages.run(made_, Caches::get().kernels, kernels_, pending);
      remarks = stages.remarks();
      if (!made)
        return fail(remarks);
    }
    BuildOptions options;
    options.threads = options_.threads ? options_.threads : std::clamp(std::thread::hardware_concurrency() / 2, 1u, 4u);
    options.budgetSeconds = options_.budgetSeconds;
    if (watched_)
      options.onStage = options_.onStage;
    std::string error;
    buildKernels(std::move(pending), options, Caches::get().kernels, kernels_, cost_, error);
    return error.empty() || fail(remarks + "// " + error);
  }

  bool fail(const std::string &reason) const {
    if (options_.onStage)
      options_.onStage("failed", reason);
    return false;
  }

  /// Gives each call its code. Groups whose kernels were left out by the budget are dropped; false if there were any.
  bool bind() {
    auto key = made_.kernels.begin();
    for (Instruction &instruction : made_.groups)
      for (KernelCall &call : instruction.kernels)
        if (auto it = kernels_.find(*key++); it != kernels_.end())
          call.fn = it->second->fn();
    return 0 == std::erase_if(made_.groups, [](const Instruction &instruction) {
             return std::any_of(instruction.kernels.begin(), instruction.kernels.end(),
                                [](const KernelCall &call) { return !call.fn; });
           });
  }

  const graph::Segment &segment_;
  const graph::Deaths &deaths_;
  const CompileOptions &options_;
  bool watched_; ///< somebody wants to see the stages: they have to run
  Key key_;
  KeyedGroups made_;
  Kernels kernels_;
  CompileCost cost_;
};

void count(Executable &executable) {
  for (const Instruction &instruction : executable.instructions) {
    executable.externCount += instruction.kind == Instruction::Kind::Extern;
    executable.kernelCount += uint32_t(instruction.kernels.size());
  }
}

std::shared_ptr<Executable> giveUp(const graph::Segment &segment, const CompileCost &cost) {
  auto executable = std::make_shared<Executable>(*interpretOnly(segment));
  executable->cost = cost;
  return executable;
}

std::shared_ptr<Executable> compileWithLlvm(const graph::Segment &segment, const graph::Deaths &deaths,
                                            const CompileOptions &options) {
  Compilation compilation(segment, deaths, options);
  std::shared_ptr<Executable> executable = compilation.run();
  giveBackCode();
  if (!executable)
    return giveUp(segment, compilation.cost());
  if (std::string violation = verify(segment, deaths, executable->instructions); !violation.empty()) {
    if (options.onStage)
      options.onStage("failed", "the instruction list breaks its contract: " + violation);
    return giveUp(segment, compilation.cost());
  }
  count(*executable);
  executable->cost = compilation.cost();
  executable->fast = true;
  return executable;
}

} // namespace

} // namespace terra::codegen

extern "C" const terra::codegen::CompilerEntry *terraCompilerEntry() {
  using namespace terra::codegen;
  giveBackCode(); // what loading the library touched
  static const CompilerEntry entry{kAbiVersion, &compileWithLlvm, &loweredByStages};
  return &entry;
}
