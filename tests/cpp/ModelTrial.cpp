#include "ModelTrial.h"

#include <algorithm>

namespace terra::fake {

void OtherThread::read(Tensor tensor, int iteration, size_t index) {
  std::lock_guard lock(mutex_);
  jobs_.push_back({std::move(tensor), {iteration, index}});
  work_.notify_one();
}

void OtherThread::finish() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    work_.notify_one();
  }
  if (thread_.joinable())
    thread_.join();
}

void OtherThread::loop() {
  for (uint64_t turn = 1;; ++turn) {
    std::unique_lock lock(mutex_);
    work_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
    if (jobs_.empty())
      return;
    size_t pick = turn * 7 % jobs_.size();
    Job job = std::move(jobs_[pick]);
    jobs_.erase(jobs_.begin() + ptrdiff_t(pick));
    lock.unlock();
    if (turn % 3 == 0)
      std::this_thread::sleep_for(std::chrono::microseconds(turn * 37 % 500));
    runtime_.settle(job.tensor.storage->buffer(), /*write=*/false);
    values_[job.at] = digest(job.tensor);
  }
}

Trial::Trial(uint64_t seed, const TrialOptions &options)
    : seed_(seed), options_(options), random_(seed * 7919 + 13), host_(seed) {
  program_ = randomProgram(random_, options.features);
  Features outside{.gates = false, .reads = true, .raises = false};
  outside_ = randomProgram(random_, outside);
  outside_.resize(std::min<size_t>(outside_.size(), 4));
  constexpr int delays[] = {0, 0, 60, 400};
  host_.maxDelayMicros = delays[random_() % 4];
  expected_.makeParameters();
  machine_.makeParameters();
}

std::string Trial::describe() const {
  return "seed " + std::to_string(seed_) + "\n" + toString(program_) + "outside\n" + toString(outside_, 2);
}

std::vector<Tensor> Trial::lasting(Machine &machine) const {
  return {machine.variables().begin(), machine.variables().begin() + Machine::kLasting};
}

bool Trial::runPlain(int iteration, int64_t stop) {
  plain_.begin(stop);
  bool raised = false;
  try {
    expected_.run(program_, iteration);
  } catch (const ProgramError &) {
    raised = true;
  } catch (const StoppedHere &) {
  }
  expected_.dropLocals();
  return raised;
}

bool Trial::runRegion(int iteration) {
  if (!session_.enter())
    throw std::logic_error("a region is active already");
  ticketsAtEntry_.push_back(runtime_.runner().lastTicket());
  if (size_t n = ticketsAtEntry_.size(), most = runtime::RunAhead::kMaxRegions;
      n > most && runtime_.runner().completedTicket() < ticketsAtEntry_[n - 1 - most])
    throw std::logic_error("Python is too many regions ahead");
  if (other_)
    machine_.handOver = [this, iteration](Tensor tensor, size_t index) {
      other_->read(std::move(tensor), iteration, index);
    };
  hooked_.session = &session_;
  uint64_t below = random_() % 4; // of this region's calls, those that are not recognised as a whole
  hooked_.above = [this, below] { return below <= 1 || (below == 2 && random_() % 8); };
  bool raised = false, failed = false;
  try {
    machine_.run(program_, iteration);
  } catch (const ProgramError &) {
    raised = true;
  } catch (const std::runtime_error &) {
    failed = true;
  }
  bool localsDieFirst = random_() % 2;
  if (localsDieFirst)
    machine_.dropLocals();
  hooked_.session = nullptr;
  try {
    session_.exit(raised || failed);
  } catch (const std::runtime_error &) {
    failed = true;
  }
  if (!options_.failures)
    machine_.dropLocals();
  return failed;
}

std::string Trial::compareLogs(bool prefix) const {
  const std::vector<int64_t> &mine = machine_.log(), &expected = expected_.log();
  if (mine.size() > expected.size() || (!prefix && mine.size() != expected.size()))
    return "saw " + std::to_string(mine.size()) + " values instead of " + std::to_string(expected.size());
  const std::vector<size_t> &others = machine_.handedOver(); // compared at the end
  for (size_t i = 0; i < mine.size(); ++i)
    if (mine[i] != expected[i] && !std::binary_search(others.begin(), others.end(), i))
      return "value " + std::to_string(i) + " read in the region is " + std::to_string(mine[i]) + " instead of " +
             std::to_string(expected[i]);
  return {};
}

std::string Trial::compareState(const std::vector<Tensor> &mine, const std::vector<Tensor> &expected) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (bool(mine[i]) != bool(expected[i]) || (mine[i] && !(mine[i].meta == expected[i].meta)))
      return "variable " + std::to_string(i) + " is another tensor";
    if (mine[i] && hooked_.read(mine[i]) != plain_.read(expected[i]))
      return "variable " + std::to_string(i) + " has another value";
  }
  if (hooked_.readGenerator() != plain_.readGenerator())
    return "another number of random draws";
  return {};
}

std::string Trial::runOutside(int iteration) {
  if (random_() % 3)
    return {};
  plain_.begin(-1);
  expected_.run(outside_, iteration);
  machine_.handOver = nullptr;
  machine_.run(outside_, iteration);
  machine_.dropLocals();
  expected_.dropLocals();
  const auto &mine = machine_.log(), &expected = expected_.log();
  return mine == expected ? "" : "a value read outside regions differs";
}

std::string Trial::installGroups() {
  if (!options_.groups || random_() % 2)
    return {};
  session_.waitCompiled();
  for (const auto &segment : session_.program().segments()) {
    graph::Deaths deaths = segment->deaths();
    if (segment->gate() || segment->learning() || deaths.empty() || random_() % 4 == 0)
      continue;
    if (random_() % 2)
      deaths = disturb(random_, segment->segment(), std::move(deaths));
    auto executable = randomExecutable(random_, segment->segment(), deaths);
    if (!executable)
      continue;
    if (std::string error = codegen::verify(segment->segment(), deaths, executable->instructions); !error.empty())
      return "schedule: " + error;
    segment->setExecutable(std::move(executable));
  }
  return {};
}

std::string Trial::iterate(int iteration) {
  if (options_.divergences && random_() % 8 == 0)
    session_.forceDivergenceAt = int64_t(random_() % 30);
  runRegion(iteration);
  session_.forceDivergenceAt = -1;
  runPlain(iteration, -1);
  expectedLogs_.push_back(expected_.log());
  if (std::string error = compareLogs(/*prefix=*/false); !error.empty())
    return error;
  if (std::string error = runOutside(iteration); !error.empty())
    return error;
  if (random_() % 3 == 0 || iteration + 1 == options_.iterations)
    return compareState(lasting(machine_), lasting(expected_));
  return {};
}

namespace {

/// The same tensors on storages of their own; those that shared one still do.
std::vector<Tensor> copyOf(Frontend &frontend, const std::vector<Tensor> &tensors) {
  std::map<Storage *, std::shared_ptr<Storage>> copies;
  std::vector<Tensor> result = tensors;
  for (Tensor &tensor : result) {
    if (!tensor)
      continue;
    std::shared_ptr<Storage> &copy = copies[tensor.storage.get()];
    runtime::Buffer &from = tensor.storage->buffer();
    if (!copy) {
      copy = frontend.make(contiguous({int64_t(from.bytes()) / kElementBytes}), 0).storage;
      std::memcpy(copy->buffer().data(), from.data(), from.bytes());
    }
    tensor.storage = copy;
  }
  return result;
}

void restore(Machine &machine, const std::vector<Tensor> &lasting) {
  machine.dropLocals();
  std::copy(lasting.begin(), lasting.end(), machine.variables().begin());
}

} // namespace

/// Whatever is promised and was not computed raises when it is read; nothing stays pending.
std::string Trial::checkPoison() {
  for (const Tensor &tensor : machine_.variables()) {
    if (!tensor)
      continue;
    runtime::Buffer &buffer = tensor.storage->buffer();
    if (buffer.state() == runtime::Buffer::State::Pending)
      return "a value is pending although all work is done";
    if (buffer.state() == runtime::Buffer::State::Ready)
      continue;
    try {
      hooked_.read(tensor);
      return "a poisoned value was read without an error";
    } catch (const std::runtime_error &) {
    }
  }
  return {};
}

int64_t Trial::chooseFailure() {
  if (random_() % 3 == 0)
    return -1;
  if (options_.anyFails)
    return int64_t(random_() % uint64_t(plain_.events() + 1));
  const std::vector<int64_t> &fallible = plain_.fallible();
  return fallible.empty() ? -1 : fallible[random_() % fallible.size()];
}

bool Trial::runAndFail(int iteration, int64_t failAt) {
  session_.failKernelAt = failAt;
  bool failed = runRegion(iteration);
  try {
    runtime_.synchronize();
  } catch (const std::runtime_error &) {
    failed = true;
  }
  failures_ += failed;
  return failed;
}

std::string Trial::iterateFailing(int iteration) {
  std::vector<Tensor> mine = lasting(machine_), copy = copyOf(plain_, lasting(expected_));
  uint64_t draws = plainGenerator_.draws;
  runPlain(iteration, -1);
  int64_t failAt = chooseFailure();
  bool failed = runAndFail(iteration, failAt);
  if (std::string error = checkPoison(); !error.empty())
    return error;
  if (std::string error = compareLogs(/*prefix=*/failed); !error.empty())
    return error + (failed ? " (before the error)" : "");
  machine_.dropLocals();
  if (!failed)
    return compareState(lasting(machine_), lasting(expected_));
  restore(machine_, mine);
  if (options_.anyFails && options_.groups) { // the state is some other one: go on from it
    restore(expected_, copyOf(plain_, mine));
    plainGenerator_.draws = hooked_.readGenerator();
    return {};
  }
  plainGenerator_.draws = draws;
  restore(expected_, copy);
  runPlain(iteration, failAt);
  restore(expected_, copy);
  std::string error = compareState(mine, copy);
  return error.empty() ? error : error + " than when event " + std::to_string(failAt) + " failed";
}

std::string Trial::compareOtherThread() {
  if (!other_)
    return {};
  other_->finish();
  for (auto [at, value] : other_->values())
    if (expectedLogs_[size_t(at.first)][at.second] != value)
      return "another thread read another value in iteration " + std::to_string(at.first);
  return {};
}

std::string Trial::run() {
  if (options_.features.threads)
    other_ = std::make_unique<OtherThread>(runtime_);
  for (int iteration = 0; iteration < options_.iterations; ++iteration) {
    std::string error = options_.failures ? iterateFailing(iteration) : iterate(iteration);
    if (error.empty())
      error = installGroups();
    if (!error.empty())
      return "iteration " + std::to_string(iteration) + ": " + error;
    ++progress;
  }
  runtime_.synchronize();
  return compareOtherThread();
}

} // namespace terra::fake
