// The boxed fallback below autograd: every op call of a listening thread passes here.
#pragma once

#include "frontend/torch/CallBuilder.h"
#include "runtime/Session.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <string>

namespace terra::frontend {

/// The region under way on this thread, or null.
runtime::Session *currentSession();
void setCurrentSession(runtime::Session *session);

/// Between these two, calls on this thread are settled and run for real, and are no events.
void beginReal();
void endReal();
bool insideReal();

/// Runs the call that is on the stack, below the hook.
void runForReal(const c10::OperatorHandle &op, c10::DispatchKeySet keys, torch::jit::Stack *stack);
/// The line of the program that is running, in words; empty where nobody knows.
std::string programLocation();

/// The operands' storages belong to the region from now on.
void markTouched(const CallBuilder &builder);

class RealScope {
public:
  RealScope() { beginReal(); }
  ~RealScope() { endReal(); }
  RealScope(const RealScope &) = delete;
};

} // namespace terra::frontend
