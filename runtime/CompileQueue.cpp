#include "runtime/CompileQueue.h"

#include "runtime/BlockCache.h"

#include <algorithm>
#include <utility>

#if defined(__linux__)
#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace terra::runtime {

namespace {
/// Compiling must not take cores from the program: low priority for this thread, and those that it starts, only.
void lowerPriority() {
#if defined(__linux__)
  pthread_setname_np(pthread_self(), "terra-compile");
  setpriority(PRIO_PROCESS, id_t(syscall(SYS_gettid)), 10);
#endif
}
} // namespace

void CompileStats::add(const codegen::Executable &executable) {
  segments.fetch_add(1);
  kernels.fetch_add(executable.kernelCount);
  nanos.fetch_add(uint64_t(executable.cost.total() * 1e9));
  std::lock_guard lock(mutex_);
  cost_ += executable.cost;
}

codegen::CompileCost CompileStats::cost() const {
  std::lock_guard lock(mutex_);
  return cost_;
}

void CompileQueue::submit(std::shared_ptr<CompiledSegment> segment, codegen::CompileOptions options,
                          std::shared_ptr<CompileStats> stats) {
  std::lock_guard lock(mutex_);
  if (stop_)
    return;
  stats->pending.fetch_add(1);
  jobs_.push_back({std::move(segment), std::move(options), std::move(stats)});
  if (!thread_.joinable())
    thread_ = std::thread([this] { loop(); });
  work_.notify_one();
}

void CompileQueue::waitFor(const CompileStats &stats) {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return stop_ || stats.pending.load() == 0; });
}

void CompileQueue::shutdown() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    jobs_.clear();
    work_.notify_one();
    done_.notify_all();
  }
  if (thread_.joinable())
    thread_.join();
}

void CompileQueue::forget() {
  if (thread_.joinable())
    thread_.detach();
  jobs_.clear();
  stop_ = true;
}

void CompileQueue::loop() {
  lowerPriority();
  bool worked = false; // since it was idle
  for (;;) {
    std::unique_lock lock(mutex_);
    if (jobs_.empty() && worked && !stop_) {
      lock.unlock();
      trimHeap(); // compiling has left holes
      worked = false;
      lock.lock();
    }
    work_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
    if (stop_)
      return;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    if (!std::exchange(worked, true))
      trimHeap(); // compiling is a peak of memory

    std::string error;
    job.options.failuresOnly = true;
    job.options.onStage = [&error](const std::string &stage, const std::string &text) {
      if (stage == "failed")
        error = text.empty() ? "unknown error" : text;
    };
    job.options.budgetSeconds =
        std::min(job.options.budgetSeconds, job.stats->budgetSeconds.load() - double(job.stats->nanos.load()) * 1e-9);
    auto executable = codegen::compile(job.segment->segment(), job.segment->deaths(), job.options);
    job.stats->add(*executable);
    job.segment->setCompileError(std::move(error));
    job.segment->setExecutable(std::move(executable));

    lock.lock();
    job.stats->pending.fetch_sub(1);
    done_.notify_all();
  }
}

} // namespace terra::runtime
