// Everything that depends on the version of PyTorch, and the dispatch keys that Terra listens on.
#pragma once

#include <c10/core/DispatchKey.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/StorageImpl.h>
#include <torch/csrc/autograd/edge.h>
#include <torch/csrc/autograd/function.h>
#include <torch/version.h>

#include <memory>
#include <utility>

#if TORCH_VERSION_MAJOR != 2 || TORCH_VERSION_MINOR < 11 || TORCH_VERSION_MINOR > 14
#error "Terra supports PyTorch 2.11 to 2.14"
#endif

namespace terra::frontend {

/// Below autograd: sees what really runs. Free in 2.11 to 2.14; upstream means to use it for a C++ FakeTensor mode. Plan B: a
/// TorchDispatchMode-like entry in the functorch key range, with the same fallback.
inline constexpr c10::DispatchKey kBelowAutograd = c10::DispatchKey::Fake;

/// Above autograd: sees whole calls (`linear`, `cross_entropy`) before autograd and autocast. Free in 2.11 to 2.14; upstream has
/// discussed its removal. Plan B: a functorch key.
inline constexpr c10::DispatchKey kAboveAutograd = c10::DispatchKey::DeferredInit;

/// Keys that a call still has to pass below `kBelowAutograd`.
inline c10::DispatchKeySet below(c10::DispatchKeySet keys) {
  return keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kBelowAutograd);
}

/// The same for `kAboveAutograd`.
inline c10::DispatchKeySet belowAbove(c10::DispatchKeySet keys) {
  return keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kAboveAutograd);
}

/// Nodes are held by shared_ptr in 2.11 and by intrusive_ptr since.
using NodePtr = decltype(torch::autograd::Edge::function);
template <typename Node, typename... Args> auto makeNode(Args &&...args) {
#if TORCH_VERSION_MINOR <= 11
  return std::shared_ptr<Node>(new Node(std::forward<Args>(args)...), torch::autograd::deleteNode);
#else
  return c10::make_intrusive<Node>(std::forward<Args>(args)...);
#endif
}

} // namespace terra::frontend
