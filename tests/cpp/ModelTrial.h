// Runs one random program several times through a Session and, beside it, plainly; every value seen has to be the same.
#pragma once

#include "FakeGroups.h"
#include "FakeHook.h"
#include "ModelProgram.h"

#include <map>
#include <string>
#include <thread>

namespace terra::fake {

struct TrialOptions {
  Features features;
  bool groups = true; ///< install random groups
  bool failures = false; ///< make events fail
  bool anyFails = false; ///< not only those whose op may fail on data: groups then move events past the failing one
  bool divergences = true; ///< force divergences
  int iterations = 12;
};

/// Reads tensors on a thread of its own, in the order and at the speed that it likes.
class OtherThread {
public:
  explicit OtherThread(runtime::Runtime &runtime) : runtime_(runtime), thread_([this] { loop(); }) {}
  ~OtherThread() { finish(); }
  /// The value will be `values()[{iteration, index}]`.
  void read(Tensor tensor, int iteration, size_t index);
  void finish();
  const std::map<std::pair<int, size_t>, int64_t> &values() const { return values_; }

private:
  struct Job {
    Tensor tensor;
    std::pair<int, size_t> at;
  };
  void loop();

  runtime::Runtime &runtime_;
  std::mutex mutex_;
  std::condition_variable work_;
  std::vector<Job> jobs_;
  bool stop_ = false;
  std::map<std::pair<int, size_t>, int64_t> values_; ///< of the thread, until `finish`
  std::thread thread_;
};

class Trial {
public:
  Trial(uint64_t seed, const TrialOptions &options);

  /// Empty, or the first difference in words.
  std::string run();
  std::string describe() const;

  runtime::SessionStats stats() const { return session_.stats(); }
  uint64_t failures() const { return failures_; }
  /// Raised whenever an iteration is done, for a watchdog.
  std::atomic<int> progress{0};

private:
  std::string iterate(int iteration);
  std::string iterateFailing(int iteration);
  int64_t chooseFailure();
  bool runAndFail(int iteration, int64_t failAt);
  /// One region on the session's side; whether it failed, and on the plain side, whether the program raised.
  bool runRegion(int iteration);
  bool runPlain(int iteration, int64_t stop);
  std::string runOutside(int iteration);
  std::string compareLogs(bool prefix) const;
  std::string compareState(const std::vector<Tensor> &mine, const std::vector<Tensor> &expected);
  std::string checkPoison();
  std::string installGroups();
  std::string compareOtherThread();
  std::vector<Tensor> lasting(Machine &machine) const;

  uint64_t seed_;
  TrialOptions options_;
  std::mt19937_64 random_;
  std::vector<Statement> program_, outside_;

  Generator plainGenerator_;
  Reference plain_{plainGenerator_};
  FakeHost host_;
  runtime::Runtime runtime_{host_};
  /// Exact: nothing is compiled behind the test's back; the fake ops are not the compiler's.
  runtime::Session session_{runtime_, {.numerics = codegen::Numerics::Exact}};
  Hooked hooked_{runtime_, host_.generator};
  Machine expected_{plain_}, machine_{hooked_};
  std::unique_ptr<OtherThread> other_;
  std::vector<std::vector<int64_t>> expectedLogs_;
  std::vector<uint64_t> ticketsAtEntry_;
  uint64_t failures_ = 0;
};

} // namespace terra::fake
