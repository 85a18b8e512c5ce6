// The caches of the compiler: files under attack from other processes, damage and size; segments and kernels that return.
#include "CompilerProgram.h"

#include "codegen/cache/DiskCache.h"
#include "codegen/cache/Lru.h"
#include "codegen/cache/SegmentCache.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace terra::test {
namespace {

using codegen::DiskCache;
using codegen::Key;
namespace files = std::filesystem;

Key keyOfText(const std::string &text) {
  codegen::Hasher hasher("test");
  hasher.add(text);
  return hasher.finish();
}

/// Content that says which key it belongs to, `size` bytes.
std::string contentFor(int i, size_t size) {
  std::string text = std::to_string(i) + ":";
  while (text.size() < size)
    text += char(i * 31 + int(text.size()) * 7);
  return text;
}

class CompilerDiskCache : public testing::Test {
protected:
  CompilerDiskCache() {
    std::string model = testing::TempDir() + "terra-cache-XXXXXX";
    directory_ = mkdtemp(model.data());
  }
  ~CompilerDiskCache() override {
    files::permissions(directory_, files::perms::owner_all);
    files::remove_all(directory_);
  }

  DiskCache open(uint64_t maxBytes = 1 << 20) { return DiskCache({directory_, maxBytes}); }

  std::vector<files::path> entries() const {
    std::vector<files::path> found;
    for (const auto &entry : files::directory_iterator(directory_))
      if (entry.path().filename().string().starts_with("llvmcache-"))
        found.push_back(entry.path());
    return found;
  }
  static void overwrite(const std::string &path, const std::string &text) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
  }
  static std::string read(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::string directory_;
};

TEST_F(CompilerDiskCache, what_was_inserted_is_found_by_another_cache_on_the_same_folder) {
  std::string content("with\0zeros\n", 11);
  DiskCache({directory_ + "/made/on/demand"}).insert(keyOfText("a"), content);
  DiskCache second({directory_ + "/made/on/demand"});
  EXPECT_EQ(second.find(keyOfText("a")), content);
  EXPECT_EQ(second.find(keyOfText("b")), std::nullopt);
  second.insert(keyOfText("empty"), "");
  EXPECT_EQ(second.find(keyOfText("empty")), "");
}

TEST_F(CompilerDiskCache, damaged_entries_are_not_there_and_are_replaced) {
  DiskCache cache = open();
  Key key = keyOfText("a");
  std::string path = cache.pathOf(key), content = contentFor(1, 300);
  cache.insert(key, content);
  const std::string whole = read(path);
  std::vector<std::string> damaged = {"", "terra", whole.substr(0, 48), whole.substr(0, whole.size() - 1), whole + "x"};
  for (size_t at : {size_t(0), size_t(9), size_t(20), whole.size() - 1}) {
    damaged.push_back(whole);
    damaged.back()[at] ^= 1;
  }
  for (const std::string &text : damaged) {
    overwrite(path, text);
    EXPECT_EQ(cache.find(key), std::nullopt) << text.size() << " bytes";
    cache.insert(key, content);
    EXPECT_EQ(cache.find(key), content);
  }
}

TEST_F(CompilerDiskCache, entries_that_others_may_write_are_not_trusted) {
  DiskCache cache = open();
  Key key = keyOfText("a");
  cache.insert(key, "code");
  EXPECT_EQ(files::status(cache.pathOf(key)).permissions(), files::perms::owner_read | files::perms::owner_write);
  files::permissions(cache.pathOf(key), files::perms::others_write, files::perm_options::add);
  EXPECT_EQ(cache.find(key), std::nullopt);
}

TEST_F(CompilerDiskCache, folders_that_cannot_be_written_or_made_are_no_error) {
  overwrite(directory_ + "/file", "not a folder");
  DiskCache cache({directory_ + "/file/below"});
  cache.insert(keyOfText("a"), "content");
  EXPECT_EQ(cache.find(keyOfText("a")), std::nullopt);
  cache.prune();

  open().insert(keyOfText("kept"), "content");
  files::permissions(directory_, files::perms::owner_read | files::perms::owner_exec);
  DiskCache readOnly = open();
  EXPECT_EQ(readOnly.find(keyOfText("kept")), "content");
  readOnly.insert(keyOfText("b"), "content"); // kept or not (root may write): no error
  readOnly.prune();
  EXPECT_EQ(readOnly.find(keyOfText("kept")), "content");
}

TEST_F(CompilerDiskCache, what_was_used_least_recently_is_deleted_once_the_bound_is_passed) {
  constexpr uint64_t kBound = 64 << 10;
  DiskCache cache = open(kBound);
  for (int i = 0; i < 12; ++i)
    cache.insert(keyOfText(std::to_string(i)), contentFor(i, 4 << 10));
  auto longAgo = files::file_time_type::clock::now() - std::chrono::hours(2);
  for (const files::path &path : entries()) {
    timespec times[2] = {{time(nullptr) - 7200, 0}, {time(nullptr) - 7200, 0}};
    ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
    ASSERT_LT(files::last_write_time(path), longAgo + std::chrono::hours(1));
  }
  for (int i : {3, 7}) // as good as new now
    EXPECT_TRUE(cache.find(keyOfText(std::to_string(i))) == contentFor(i, 4 << 10));
  for (int i = 12; i < 60; ++i)
    cache.insert(keyOfText(std::to_string(i % 20 + 100)), contentFor(i, 2 << 10));
  int unusedLeft = 0;
  for (int i = 0; i < 12; ++i) {
    bool used = i == 3 || i == 7, there = files::exists(cache.pathOf(keyOfText(std::to_string(i))));
    EXPECT_TRUE(!used || there) << i;
    unusedLeft += !used && there;
  }
  EXPECT_LT(unusedLeft, 6);
  uint64_t total = 0;
  for (const files::path &path : entries())
    total += files::file_size(path);
  EXPECT_LE(total, kBound + kBound / 4);
}

TEST_F(CompilerDiskCache, an_entry_larger_than_a_quarter_of_the_bound_is_not_kept) {
  DiskCache cache = open(1 << 12);
  cache.insert(keyOfText("large"), contentFor(0, 2 << 10));
  EXPECT_EQ(cache.find(keyOfText("large")), std::nullopt);
}

/// Inserts and finds the same few keys in an order of its own; false as soon as something wrong is found.
bool hammer(DiskCache &cache, unsigned seed, int rounds) {
  std::mt19937 random(seed);
  for (int round = 0; round < rounds; ++round) {
    int i = int(random() % 16);
    Key key = keyOfText(std::to_string(i));
    std::string content = contentFor(i, 100 + size_t(i) * 1500); // small and large files are read in different ways
    if (std::optional<std::string> found = cache.find(key)) {
      if (*found != content)
        return false;
      if (random() % 4 == 0)
        std::ofstream(cache.pathOf(key), std::ios::binary | std::ios::trunc) << "damage " << i;
    } else {
      cache.insert(key, content);
    }
    if (random() % 32 == 0)
      cache.prune();
  }
  return true;
}

TEST_F(CompilerDiskCache, processes_and_threads_share_a_folder_that_is_damaged_and_pruned_meanwhile) {
  constexpr int kProcesses = 4, kThreads = 3;
  std::vector<pid_t> children;
  for (int p = 0; p < kProcesses; ++p) {
    pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      DiskCache cache = open(120 << 10); // less than all entries together
      std::atomic<bool> right{true};
      std::vector<std::thread> threads;
      for (int t = 0; t < kThreads; ++t)
        threads.emplace_back([&, t] {
          if (!hammer(cache, unsigned(p * kThreads + t), 200))
            right = false;
        });
      for (std::thread &thread : threads)
        thread.join();
      _exit(right ? 0 : 1);
    }
    children.push_back(child);
  }
  for (pid_t child : children) {
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  for (const files::path &path : entries())
    EXPECT_EQ(path.filename().string().find("temporary"), std::string::npos) << path;
}

TEST(CompilerLru, the_least_recently_used_goes_first) {
  codegen::Lru<int> lru(2);
  lru.insert(keyOfText("a"), 1);
  lru.insert(keyOfText("b"), 2);
  EXPECT_EQ(lru.find(keyOfText("a")), 1);
  lru.insert(keyOfText("c"), 3);
  EXPECT_EQ(lru.find(keyOfText("b")), std::nullopt);
  EXPECT_EQ(lru.find(keyOfText("a")), 1);
  EXPECT_EQ(lru.size(), 2u);
}

//===- Segments ---------------------------------------------------------------------------------------------------===//

/// y = tanh(x · number) kept, with `width` columns: a key of its own for each test.
struct Chain {
  Program program;
  Tensor x, y;
  explicit Chain(int64_t width, double number = 0.5) {
    x = program.input({4, width});
    Tensor scaled = program.call("aten::mul.Tensor", {x, Number{number}}, contiguous({4, width}));
    y = program.call("aten::tanh", {scaled}, contiguous({4, width}));
  }
  Key key() const { return codegen::keyOf(program.segment(), program.deaths({y}), "target"); }
  std::shared_ptr<const codegen::Executable> compile() const {
    codegen::CompileOptions options;
    options.numbers = codegen::NumberChoice::Constants;
    return codegen::compile(program.segment(), program.deaths({y}), options);
  }
};

TEST(CompilerSegmentKey, is_the_content_and_nothing_else) {
  EXPECT_EQ(Chain(8).key(), Chain(8).key());
  EXPECT_NE(Chain(8).key(), Chain(9).key());
  EXPECT_NE(Chain(8).key(), Chain(8, 0.25).key());
  Chain chain(8);
  graph::Segment segment = chain.program.segment();
  EXPECT_NE(chain.key(), codegen::keyOf(segment, chain.program.deaths({}), "target")) << "deaths";
  EXPECT_NE(chain.key(), codegen::keyOf(segment, chain.program.deaths({chain.y}), "another target"));
}

TEST(CompilerSegmentCache, groups_survive_being_written_and_read) {
  codegen::KeyedGroups groups;
  codegen::Instruction &i = groups.groups.emplace_back();
  i.kind = codegen::Instruction::Kind::Kernel;
  i.events = {1, 4};
  i.fusedAway = {7};
  i.outputs = {8, 9};
  codegen::KernelCall &call = i.kernels.emplace_back();
  call.name = "event4_0";
  call.extent = int64_t(1) << 40;
  call.grain = 3;
  call.serial = true;
  call.scratchBytes = 64;
  call.args = {{codegen::KernelArg::Kind::Scalar, 0, 2, graph::kNever, 0, 0},
               {codegen::KernelArg::Kind::Tensor, 8, 0, 1, -16, 4}};
  groups.kernels = {keyOfText("kernel")};
  std::string text = codegen::serialize(groups);
  auto read = codegen::deserialize(text);
  ASSERT_TRUE(read && read->groups.size() == 1);
  EXPECT_EQ(codegen::serialize(*read), text);
  EXPECT_EQ(read->kernels, groups.kernels);
  const codegen::Instruction &r = read->groups[0];
  EXPECT_EQ(std::tie(r.events, r.fusedAway, r.outputs), std::tie(i.events, i.fusedAway, i.outputs));
  ASSERT_EQ(r.kernels.size(), 1u);
  EXPECT_EQ(r.kernels[0].extent, call.extent);
  EXPECT_EQ(r.kernels[0].args[1].byteOffset, -16);
  EXPECT_EQ(r.kernels[0].args[0].kind, codegen::KernelArg::Kind::Scalar);
  for (size_t cut = 0; cut < text.size(); ++cut)
    EXPECT_FALSE(codegen::deserialize(text.substr(0, cut)));
}

TEST(CompilerSegmentCache, an_equal_segment_is_not_compiled_again) {
  auto first = Chain(24).compile(), second = Chain(24).compile();
  EXPECT_EQ(first->cost.compiled, 1u);
  EXPECT_EQ(second->cost.compiled, 0u);
  EXPECT_EQ(second->cost.wholeSegments, 1u);
  EXPECT_EQ(second->cost.seconds[size_t(codegen::Stage::Import)], 0);
  ASSERT_EQ(first->instructions.size(), second->instructions.size());
  EXPECT_EQ(first->instructions[0].kernels[0].fn, second->instructions[0].kernels[0].fn);
}

TEST(CompilerSegmentCache, a_kernel_is_shared_by_segments_that_differ_elsewhere) {
  Chain plain(40, 0.375), more(40, 0.375); // a number of its own: the width is not part of a kernel's code
  more.program.inPlace("test::negate_", {more.x});
  EXPECT_EQ(plain.compile()->cost.compiled, 1u);
  auto executable = more.compile();
  EXPECT_EQ(executable->cost.wholeSegments, 0u);
  EXPECT_EQ(executable->cost.compiled, 0u);
  EXPECT_EQ(executable->cost.fromMemory, 1u);
}

/// Two unrelated groups, the second of two events.
Program twoGroups(int64_t width, std::vector<Tensor> &kept) {
  Program p;
  Tensor a = p.input({2, width}), b = p.input({3, width}, DType::Float64);
  kept = {p.call("aten::exp", {a}, contiguous({2, width}))};
  Tensor t = p.call("aten::tanh", {b}, contiguous({3, width}, DType::Float64));
  kept.push_back(p.call("aten::sigmoid", {t}, contiguous({3, width}, DType::Float64)));
  return p;
}

TEST(CompilerBudget, what_is_left_stays_extern_and_is_not_remembered) {
  std::vector<Tensor> kept;
  Program p = twoGroups(56, kept);
  codegen::CompileOptions options;
  options.budgetSeconds = 0;
  auto none = codegen::compile(p.segment(), p.deaths(kept), options);
  EXPECT_EQ(none->cost.left, 2u);
  EXPECT_EQ(none->kernelCount, 0u);
  EXPECT_EQ(none->externCount, 3u);
  EXPECT_EQ(codegen::verify(p.segment(), p.deaths(kept), none->instructions), "");
  auto all = codegen::compile(p.segment(), p.deaths(kept), {});
  EXPECT_EQ(all->cost.left, 0u);
  EXPECT_EQ(all->externCount, 0u);
  EXPECT_EQ(all->kernelCount, 2u);
}

TEST(CompilerThreads, kernels_compiled_at_the_same_time_are_the_same_kernels) {
  std::vector<std::vector<double>> results;
  for (uint32_t threads : {1u, 4u}) {
    Program p;
    std::vector<Tensor> kept;
    Tensor x = p.input({6, 10});
    for (int i = 0; i < 8; ++i) // different constants, so different kernels; reductions keep them apart
      kept.push_back(p.call("aten::sum.dim_IntList",
                            {p.call("aten::mul.Tensor", {x, Number{i + threads * 100.0}}, contiguous({6, 10})),
                             Sizes{i % 2}, false, None{}},
                            contiguous({i % 2 ? 6 : 10})));
    codegen::CompileOptions options;
    options.threads = threads;
    options.numbers = codegen::NumberChoice::Constants;
    auto executable = codegen::compile(p.segment(), p.deaths(kept), options);
    EXPECT_GE(executable->cost.compiled, 2u);
    EXPECT_EQ(executable->externCount, 0u);
    compileAndRun(p, kept); // finds what was compiled above
    for (const Tensor &t : kept) {
      std::vector<double> values = p.values(t), xs = p.values(x);
      double sum = 0, expected = 0;
      for (double v : values)
        sum += v;
      for (double v : xs)
        expected += v;
      size_t i = size_t(&t - kept.data());
      EXPECT_NEAR(sum, expected * (double(i) + threads * 100.0), 1e-2);
    }
  }
}

} // namespace
} // namespace terra::test
