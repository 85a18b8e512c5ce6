// PyTorch's way into Terra: the process's runtime, regions, and the patched reads' entry.
#pragma once

#include "frontend/torch/Compat.h"
#include "runtime/Session.h"

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>

namespace terra::frontend {

runtime::Runtime &runtimeInstance();

/// Position of the event under way in its segment (for the deaths of storages).
uint32_t eventIndex();

/// Memory from PyTorch's CPU allocator.
runtime::Memory hostAllocate(size_t bytes);

/// Grad mode, autocast and its dtype, inference mode, default dtype, deterministic flags, threads, whether denormals are flushed,
/// the kernels allowed for attention: packed.
graph::Context currentContext();
bool gradModeOf(graph::Context context);
int threadsOf(graph::Context context);
/// Makes this thread flush denormals, or not, as the call's thread did.
void useDenormalsOf(graph::Context context);

/// Autocast on this thread as it was when a call of that context was made.
class AutocastScope {
public:
  explicit AutocastScope(graph::Context context);
  ~AutocastScope();
  AutocastScope(const AutocastScope &) = delete;

private:
  bool entered_, wasEnabled_ = false;
  c10::ScalarType dtypeBefore_ = c10::ScalarType::Undefined;
};

/// A call of a decorated function on this thread: a region, or, where `Pace` says so, an eager call.
enum class Entry : uint8_t {
  Inside, ///< part of what is under way already: just run it
  Region,
  Eager
};
Entry enterCall(runtime::Session &session);
/// Not after Inside.
void exitCall(runtime::Session &session, Entry entry, bool raised);

/// Someone is about to look at the tensor's memory without an op: waits, and records the look. `exposes`: the memory
/// stays visible to code that can write it (NumPy).
void readTensor(const at::Tensor &tensor, bool exposes);
/// Someone is about to look at, or set, the default generator.
void readGenerator();
/// A setting of the whole process (default dtype, deterministic algorithms, …) is about to change: queued work goes first.
void barrier();

/// Turns the hook on for the calling thread (threads started while work is pending).
void listenOnThisThread();

/// Returns the program's location; called while a function is new, without locks held.
void setLocationSource(std::function<std::string()> source);

} // namespace terra::frontend
