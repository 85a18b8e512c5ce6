// Recognition above autograd: whole calls (`linear`, `layer_norm`, `cross_entropy`), each with all that it causes below.
#pragma once

#include "frontend/torch/CallNode.h"
#include "frontend/torch/Hook.h"

namespace terra::frontend {

/// Turns the hook above autograd on or off for this thread.
void listenAboveAutograd(bool on);

/// Keeps the hook above autograd out while a backward runs. Returns what it was before.
bool excludeAbove(bool on);

/// Uninitialised memory made inside a call that is being learned.
void noteUninitialised(const c10::IValue &result);

/// A number made from nothing inside a call that is being learned.
void noteConstant(const c10::IValue &result);

/// Something was written without an event, inside a call that is being learned: its span would leave that out.
void noteWriteAtOnce();

/// Nothing on this thread but plain eager PyTorch: no autocast (of the CPU, unless it may), functorch, Python mode, inference mode,
/// tracing, anomaly mode or saved-tensor hooks.
bool plainThread(bool mayAutocast = false);

} // namespace terra::frontend
