#pragma once

#include "runtime/Buffer.h"

#include <utility>

namespace terra::runtime {

/// Owning pointer to a buffer.
class BufferRef {
public:
  BufferRef() = default;
  /// Takes over one reference.
  static BufferRef adopt(Buffer *buffer) {
    BufferRef ref;
    ref.buffer_ = buffer;
    return ref;
  }
  static BufferRef retain(Buffer *buffer) {
    if (buffer)
      buffer->retain();
    return adopt(buffer);
  }
  BufferRef(BufferRef &&other) noexcept : buffer_(std::exchange(other.buffer_, nullptr)) {}
  BufferRef &operator=(BufferRef &&other) noexcept {
    std::swap(buffer_, other.buffer_);
    return *this;
  }
  ~BufferRef() { reset(); }
  void reset() {
    if (Buffer *buffer = std::exchange(buffer_, nullptr))
      buffer->release();
  }
  Buffer *get() const { return buffer_; }
  Buffer *operator->() const { return buffer_; }
  explicit operator bool() const { return buffer_ != nullptr; }

private:
  Buffer *buffer_ = nullptr;
};

} // namespace terra::runtime
