#include "runtime/CompileQueue.h"

#include <ctime>
#include <utility>

#if defined(__GLIBC__)
#include <malloc.h>
#endif
#if defined(__linux__)
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace terra::runtime {

namespace {
/// Compiling must not take cores from the program: lowest CPU priority for this thread only.
void lowerPriority() {
#if defined(__linux__)
  setpriority(PRIO_PROCESS, id_t(syscall(SYS_gettid)), 10);
#endif
}
/// Compiling is a peak of memory. Recording has left holes between the program's tensors, compiling leaves its own: whole pages
/// of them go back, before and after (1 to 3 ms).
void giveBackMemory() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}
/// Processor time of this thread: on a busy machine its low priority says nothing about the work.
uint64_t threadNanos() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return uint64_t(time.tv_sec) * 1'000'000'000 + uint64_t(time.tv_nsec);
}
} // namespace

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
      giveBackMemory();
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
      giveBackMemory();

    uint64_t start = threadNanos();
    std::string error;
    job.options.failuresOnly = true;
    job.options.onStage = [&error](const std::string &stage, const std::string &text) {
      if (stage == "failed")
        error = text.empty() ? "unknown error" : text;
    };
    auto executable = codegen::compile(job.segment->segment(), job.segment->deaths(), job.options);
    job.stats->nanos.fetch_add(threadNanos() - start);
    job.stats->segments.fetch_add(1);
    job.stats->kernels.fetch_add(executable->kernelCount);
    job.segment->setCompileError(std::move(error));
    job.segment->setExecutable(std::move(executable));

    lock.lock();
    job.stats->pending.fetch_sub(1);
    done_.notify_all();
  }
}

} // namespace terra::runtime
