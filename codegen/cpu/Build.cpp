#include "codegen/cpu/Build.h"

#include "codegen/cpu/CodePages.h"

#include <algorithm>
#include <mutex>
#include <span>
#include <thread>

namespace terra::codegen {

namespace {

class Build {
public:
  Build(std::vector<PendingKernel> pending, const BuildOptions &options, KernelStore &store, Kernels &kernels,
        CompileCost &cost, std::string &error)
      : pending_(std::move(pending)), options_(options), store_(store), kernels_(kernels), cost_(cost), error_(error) {
    std::stable_sort(pending_.begin(), pending_.end(),
                     [](const PendingKernel &a, const PendingKernel &b) { return a.worth > b.worth; });
  }

  void run() {
    size_t count = options_.onStage ? 1 : std::min<size_t>(options_.threads, pending_.size());
    std::vector<std::thread> helpers;
    for (size_t i = 1; i < count; ++i)
      helpers.emplace_back([this] { work(); });
    work();
    for (std::thread &helper : helpers)
      helper.join();
  }

private:
  /// Optimising and emitting are different code: a few kernels go through each together, then its pages are given back.
  static constexpr size_t kAtATime = 4;

  void work() {
    for (std::span<PendingKernel> some = next(); !some.empty(); some = next()) {
      CompileCost cost;
      std::string error;
      for (PendingKernel &kernel : some)
        if (!optimise(*kernel.module, options_.onStage, cost, error))
          kernel.module.reset();
      giveBackCode();
      Kernels made;
      for (PendingKernel &kernel : some)
        if (kernel.module)
          if (auto code = build(kernel, cost, error))
            made[kernel.key] = std::move(code);
      giveBackCode();

      std::lock_guard lock(mutex_);
      cost_ += cost;
      kernels_.merge(made);
      if (!error.empty())
        error_ = std::move(error);
    }
  }

  std::shared_ptr<KernelCode> build(PendingKernel &kernel, CompileCost &cost, std::string &error) {
    std::string object = emitObject(*kernel.module, cost, error);
    kernel.module.reset();
    kernel.context.reset();
    return object.empty() ? nullptr : store_.insert(kernel.key, object, cost, error);
  }

  std::span<PendingKernel> next() {
    std::lock_guard lock(mutex_);
    std::span<PendingKernel> rest = std::span(pending_).subspan(next_);
    bool spent = cost_.total() >= options_.budgetSeconds;
    if (spent)
      cost_.left += uint32_t(rest.size());
    std::span<PendingKernel> some = spent ? rest.first(0) : rest.first(std::min(kAtATime, rest.size()));
    next_ += spent ? rest.size() : some.size();
    return some;
  }

  std::mutex mutex_;
  std::vector<PendingKernel> pending_;
  size_t next_ = 0;
  const BuildOptions &options_;
  KernelStore &store_;
  Kernels &kernels_;
  CompileCost &cost_;
  std::string &error_;
};

} // namespace

void buildKernels(std::vector<PendingKernel> pending, const BuildOptions &options, KernelStore &store, Kernels &kernels,
                  CompileCost &cost, std::string &error) {
  Build(std::move(pending), options, store, kernels, cost, error).run();
}

} // namespace terra::codegen
