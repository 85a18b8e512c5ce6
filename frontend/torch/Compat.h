// Everything that depends on the version of PyTorch, and the dispatch keys that Terra listens on.
#pragma once

#include <c10/core/DispatchKey.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/StorageImpl.h>
#include <torch/version.h>

#if TORCH_VERSION_MAJOR != 2 || TORCH_VERSION_MINOR < 11 || TORCH_VERSION_MINOR > 14
#error "Terra supports PyTorch 2.11 to 2.14"
#endif

namespace terra::frontend {

/// Below autograd: sees what really runs. Free in 2.11 to 2.14; upstream means to use it for a C++ FakeTensor mode. Plan B: a
/// TorchDispatchMode-like entry in the functorch key range, with the same fallback.
inline constexpr c10::DispatchKey kBelowAutograd = c10::DispatchKey::Fake;

/// Above autograd: sees whole calls (`linear`, `cross_entropy`) before autograd and autocast. Reserved for recognition above autograd.
inline constexpr c10::DispatchKey kAboveAutograd = c10::DispatchKey::DeferredInit;

/// Keys that a call still has to pass below `kBelowAutograd`.
inline c10::DispatchKeySet below(c10::DispatchKeySet keys) {
  return keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kBelowAutograd);
}

} // namespace terra::frontend
