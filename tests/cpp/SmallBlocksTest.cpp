#include "runtime/SmallBlocks.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace terra::runtime {
namespace {

bool aligned(void *block) { return reinterpret_cast<uintptr_t>(block) % SmallBlocks::kAlignment == 0; }

TEST(SmallBlocks, every_size_has_room_of_its_own) {
  SmallBlocks blocks;
  std::vector<std::pair<unsigned char *, size_t>> all;
  for (size_t bytes = 1; bytes <= SmallBlocks::kMost; bytes += bytes < 600 ? 1 : 613) {
    auto *block = static_cast<unsigned char *>(blocks.allocate(bytes));
    ASSERT_TRUE(block && aligned(block));
    std::memset(block, int(all.size() % 251), bytes);
    all.emplace_back(block, bytes);
  }
  for (size_t i = 0; i < all.size(); ++i)
    for (size_t k = 0; k < all[i].second; ++k)
      ASSERT_EQ(all[i].first[k], i % 251) << all[i].second;
  for (auto [block, bytes] : all)
    EXPECT_TRUE(blocks.release(block));
}

TEST(SmallBlocks, freed_blocks_are_used_again) {
  SmallBlocks blocks;
  std::set<void *> seen;
  for (int turn = 0; turn < 1000; ++turn) {
    std::vector<void *> held;
    for (int i = 0; i < 20; ++i)
      held.push_back(blocks.allocate(1000));
    seen.insert(held.begin(), held.end());
    for (void *block : held)
      blocks.release(block);
  }
  EXPECT_LE(seen.size(), 40u);
}

TEST(SmallBlocks, memory_from_elsewhere_is_refused) {
  SmallBlocks blocks;
  int here = 0;
  EXPECT_FALSE(blocks.release(&here));
  EXPECT_FALSE(blocks.release(nullptr));
}

TEST(SmallBlocks, a_full_range_gives_null) {
  SmallBlocks blocks;
  std::vector<void *> held;
  while (void *block = blocks.allocate(SmallBlocks::kMost))
    held.push_back(block);
  EXPECT_EQ(held.size(), SmallBlocks::kRange / SmallBlocks::kMost);
  EXPECT_TRUE(blocks.release(held.back()));
  EXPECT_EQ(blocks.allocate(SmallBlocks::kMost), held.back());
}

TEST(SmallBlocks, other_threads_free) {
  SmallBlocks blocks;
  constexpr int kThreads = 3, kEach = 20'000;
  std::vector<std::vector<std::atomic<unsigned char *>>> mailboxes(kThreads);
  for (auto &box : mailboxes)
    box = std::vector<std::atomic<unsigned char *>>(64);
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      for (bool last = false; !last;) {
        last = done.load();
        for (auto &slot : mailboxes[size_t(t)])
          if (unsigned char *block = slot.exchange(nullptr)) {
            wrong += block[0] != t || block[99] != t;
            blocks.release(block);
          }
      }
    });
  std::mt19937 random(1);
  for (int i = 0; i < kThreads * kEach; ++i) {
    auto t = random() % kThreads;
    auto &slot = mailboxes[t][random() % 64];
    if (slot.load())
      continue;
    auto *block = static_cast<unsigned char *>(blocks.allocate(100 + random() % 400));
    ASSERT_TRUE(block);
    std::memset(block, int(t), 100);
    slot.store(block);
  }
  done = true;
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(wrong, 0);
}

} // namespace
} // namespace terra::runtime
