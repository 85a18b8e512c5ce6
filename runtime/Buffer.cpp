#include "runtime/Buffer.h"

#include <new>

namespace terra::runtime {

namespace {

struct Link {
  Link *next;
};

/// Blocks of freed buffers. The program's thread makes most buffers and the runner frees them: through malloc, both would wait for
/// the lock of the same arena. Pushed one by one, taken all at once (so that there is no ABA problem).
struct alignas(64) FreeList {
  std::atomic<Link *> head{nullptr};
  std::atomic<size_t> size{0}; ///< about
};
constinit FreeList freed;
constexpr size_t kMaxFreed = 8192;

/// Blocks that a thread has taken.
struct Taken {
  Link *head = nullptr;

  void *pop() { return std::exchange(head, head->next); }
  ~Taken() {
    while (head)
      ::operator delete(pop());
  }
};
thread_local Taken taken;

} // namespace

void *Buffer::operator new(size_t size) {
#if defined(__SANITIZE_ADDRESS__)
  return ::operator new(size); // which finds uses after they are freed
#else
  if (!taken.head && freed.head.load(std::memory_order_relaxed)) {
    taken.head = freed.head.exchange(nullptr, std::memory_order_acquire);
    freed.size.store(0, std::memory_order_relaxed);
  }
  return taken.head ? taken.pop() : ::operator new(size);
#endif
}

void Buffer::operator delete(void *block) {
#if defined(__SANITIZE_ADDRESS__)
  ::operator delete(block);
#else
  if (freed.size.fetch_add(1, std::memory_order_relaxed) >= kMaxFreed) {
    ::operator delete(block);
    return;
  }
  auto *link = new (block) Link{freed.head.load(std::memory_order_relaxed)};
  while (!freed.head.compare_exchange_weak(link->next, link, std::memory_order_release, std::memory_order_relaxed))
    ;
#endif
}

Buffer::~Buffer() {
  if (hostStorage)
    freeHostStorage(hostStorage);
  if (memory_.release)
    memory_.release(memory_.owner);
}

} // namespace terra::runtime
