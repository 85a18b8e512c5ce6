#include "runtime/BlockCache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

namespace terra::runtime {
namespace {

constexpr size_t kMega = size_t(1) << 20;

TEST(BlockCache, a_freed_block_is_used_again) {
  BlockCache cache;
  void *first = cache.allocate(5 * kMega);
  std::memset(first, 1, 5 * kMega);
  EXPECT_EQ(cache.bytesInUse(), 5 * kMega);
  EXPECT_TRUE(cache.release(first));
  EXPECT_EQ(cache.bytesKept(), 5 * kMega);
  EXPECT_EQ(cache.allocate(5 * kMega - 100), first);
  EXPECT_EQ(cache.bytesKept(), 0u);
  EXPECT_TRUE(cache.release(first));
}

TEST(BlockCache, much_smaller_and_larger_requests_get_blocks_of_their_own) {
  BlockCache cache;
  void *first = cache.allocate(8 * kMega);
  cache.release(first);
  void *small = cache.allocate(kMega);
  void *large = cache.allocate(9 * kMega);
  EXPECT_NE(small, large);
  std::memset(small, 1, kMega);
  std::memset(large, 1, 9 * kMega);
  cache.release(small);
  cache.release(large);
}

TEST(BlockCache, memory_held_hardly_exceeds_the_most_in_use) {
  BlockCache cache;
  void *a = cache.allocate(8 * kMega), *b = cache.allocate(8 * kMega);
  cache.release(a);
  cache.release(b);
  EXPECT_EQ(cache.bytesKept(), 16 * kMega); // as much as was in use at once
  void *c = cache.allocate(12 * kMega);
  EXPECT_LE(cache.bytesInUse() + cache.bytesKept(), 16 * kMega + BlockCache::kSlack);
  cache.release(c);
  void *d = cache.allocate(24 * kMega);
  EXPECT_LE(cache.bytesInUse() + cache.bytesKept(), 24 * kMega + BlockCache::kSlack);
  cache.release(d);
}

TEST(BlockCache, what_is_kept_is_cut_and_joined) {
  BlockCache cache;
  char *whole = static_cast<char *>(cache.allocate(12 * kMega));
  cache.release(whole);
  char *a = static_cast<char *>(cache.allocate(4 * kMega)), *b = static_cast<char *>(cache.allocate(3 * kMega)),
       *c = static_cast<char *>(cache.allocate(5 * kMega));
  EXPECT_EQ(cache.bytesKept(), 0u); // all three out of the first one
  EXPECT_EQ(std::min({a, b, c}), whole);
  for (char *block : {b, a, c})
    cache.release(block);
  EXPECT_EQ(cache.allocate(12 * kMega), whole);
  cache.release(whole);
  EXPECT_EQ(cache.bytesInUse() + cache.bytesKept(), 12 * kMega);
}

TEST(BlockCache, a_block_may_be_kept_memory_and_fresh_memory_together) {
  BlockCache cache;
  char *small = static_cast<char *>(cache.allocate(2 * kMega));
  cache.release(small);
  EXPECT_EQ(cache.allocate(5 * kMega), small);
  EXPECT_EQ(cache.bytesKept(), 0u);
  cache.release(small);
  cache.trim();
  EXPECT_EQ(cache.bytesKept(), 0u);
}

TEST(BlockCache, after_a_trim_nothing_is_kept_until_the_next_request) {
  BlockCache cache;
  void *a = cache.allocate(2 * kMega), *b = cache.allocate(2 * kMega);
  cache.trim();
  cache.release(a);
  EXPECT_EQ(cache.bytesKept(), 0u);
  void *c = cache.allocate(2 * kMega);
  cache.release(b);
  EXPECT_EQ(cache.bytesKept(), 2 * kMega);
  cache.release(c);
  EXPECT_EQ(cache.bytesKept(), 4 * kMega);
}

/// Blocks never overlap, what is held hardly exceeds the most in use, and what was freed is used again.
TEST(BlockCache, random_requests) {
  struct Block {
    char *start;
    size_t bytes;
    char mark;
  };
  for (unsigned seed = 0; seed < 5; ++seed) {
    std::mt19937 random(seed);
    BlockCache cache;
    std::vector<Block> blocks;
    size_t most = 0;
    for (int i = 0; i < 2000; ++i) {
      if (blocks.size() < 20 && random() % 2) {
        size_t bytes = size_t(1 + random() % (random() % 4 ? 40 : 4000)) * 4096 * 4;
        auto *start = static_cast<char *>(cache.allocate(bytes));
        ASSERT_NE(start, nullptr);
        char mark = char(random());
        start[0] = start[bytes / 2] = start[bytes - 1] = mark;
        blocks.push_back({start, bytes, mark});
      } else if (!blocks.empty()) {
        std::swap(blocks[random() % blocks.size()], blocks.back());
        Block block = blocks.back();
        blocks.pop_back();
        for (size_t at : {size_t(0), block.bytes / 2, block.bytes - 1})
          ASSERT_EQ(block.start[at], block.mark);
        ASSERT_TRUE(cache.release(block.start));
      }
      size_t inUse = cache.bytesInUse();
      most = std::max(most, inUse);
      ASSERT_LE(inUse + cache.bytesKept(), most + BlockCache::kSlack);
    }
    for (const Block &block : blocks)
      cache.release(block.start);
    EXPECT_EQ(cache.bytesInUse(), 0u);
    cache.trim();
    EXPECT_EQ(cache.bytesKept(), 0u);
  }
}

TEST(BlockCache, unwanted_blocks_go_back_after_a_while) {
  BlockCache cache;
  void *unwanted = cache.allocate(16 * kMega);
  cache.release(unwanted);
  for (uint64_t i = 0; i <= 2 * BlockCache::kPatience; ++i)
    cache.release(cache.allocate(kMega));
  EXPECT_EQ(cache.bytesKept(), kMega);
}

TEST(BlockCache, other_memory_is_not_taken) {
  BlockCache cache;
  int other = 0;
  EXPECT_FALSE(cache.release(&other));
  void *block = cache.allocate(kMega);
  EXPECT_TRUE(cache.release(block));
  EXPECT_FALSE(cache.release(block)); // kept already
  cache.trim();
  EXPECT_EQ(cache.bytesKept(), 0u);
}

TEST(BlockCache, threads_get_blocks_that_do_not_overlap) {
  BlockCache cache;
  auto work = [&](char mark) {
    for (int i = 0; i < 200; ++i) {
      size_t bytes = (1 + size_t(i % 5)) * kMega / 4;
      char *block = static_cast<char *>(cache.allocate(bytes));
      block[0] = block[bytes - 1] = mark;
      std::this_thread::yield();
      ASSERT_EQ(block[0], mark);
      ASSERT_EQ(block[bytes - 1], mark);
      cache.release(block);
    }
  };
  std::vector<std::thread> threads;
  for (char mark : {'a', 'b', 'c'})
    threads.emplace_back(work, mark);
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(cache.bytesInUse(), 0u);
}

} // namespace
} // namespace terra::runtime
