// The autograd graph behind a loss, as it stands: what a backward would do, decides whether it is one that is known.
#pragma once

#include "frontend/torch/CallNode.h"
#include "runtime/Session.h"

#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <tsl/robin_map.h>

#include <memory>
#include <vector>

namespace terra::frontend {

/// What PyTorch's engine is asked for.
struct BackwardRequest {
  c10::ArrayRef<at::Tensor> roots, gradients; ///< parallel; an undefined gradient stands for ones
  c10::ArrayRef<at::Tensor> inputs = {}; ///< whose gradients are wanted; empty: those of all leaves
  bool retainGraph = false;
  bool accumulates = true; ///< into `.grad`; otherwise the gradients are returned
  bool mayMiss = true; ///< inputs need not be part of the graph
};

/// Where a request begins and ends. Has to be kept while the graph is walked: a leaf holds its accumulator weakly.
struct BackwardEdges {
  explicit BackwardEdges(const BackwardRequest &request);
  torch::autograd::edge_list roots, inputs;
};

/// Hooks that are called before the node runs, or, of a parameter, around it.
bool hasHooksToCall(torch::autograd::Node &node);
/// Values that this thread's nodes have saved so far may be what somebody's hooks make of them.
void noteSavedTensorHooks();
/// A custom autograd.Function.
bool isPythonNode(const torch::autograd::Node &node);
/// No part of a graph: its backward is the program's code, or hooks look at what it returns. Of nodes that are no parameters.
bool runsAlone(torch::autograd::Node &node);

class BackwardWalk {
public:
  /// Walks the graph from the roots. False when a backward through it cannot be recognised: history from before the region, values
  /// modified or released since they were saved.
  bool walk(const runtime::Session &session, const BackwardRequest &request, const BackwardEdges &edges);
  /// Why it could not, in words.
  const char *reason() const { return reason_; }
  /// The program's code is called on the way (tensor hooks, `retain_grad`, hooks after accumulation; nodes that run alone): at nodes
  /// for which `called`.
  bool hooked() const { return hooked_; }
  bool called(uint32_t node) const { return called_[node]; }
  bool has(torch::autograd::Node *node) const { return indices_.contains(node); }

  /// Equal for two requests of the same kind on graphs that were made by the same events in the same way: nodes by where in which
  /// segment they were made, and their edges.
  const std::vector<uint64_t> &signature() const { return signature_; }
  /// Where in the signature addresses of segments and spans stand.
  const std::vector<uint32_t> &identities() const { return identities_; }
  /// In the order of the walk.
  const std::vector<CallNode *> &calls() const { return calls_; }
  const std::vector<torch::autograd::AccumulateGrad *> &leaves() const { return leaves_; }
  /// All nodes, in the order of the walk.
  const std::vector<torch::autograd::Node *> &nodes() const { return order_; }

  /// Since the walk, nobody has changed what it found of this node.
  bool isAsFound(uint32_t node) const;

  /// By node, in the order of the walk: the engine would run it, because it leads to an input. Empty: it would run all.
  std::vector<bool> needed(const BackwardEdges &edges) const;
  /// What the engine does behind itself unless the graph is retained.
  void release(const std::vector<bool> &needed);

  /// Walks are kept for the next one on this thread, one for each level of backwards inside backwards.
  class Scope;

private:
  bool visit(const runtime::Session &session, torch::autograd::Node *node);
  bool visitCall(const runtime::Session &session, CallNode &call);
  void noteEagerNodes(const CallNode &call, const torch::autograd::edge_list &edges);
  bool visitLeaf(torch::autograd::AccumulateGrad &leaf);
  bool place(const runtime::Session &session, const torch::autograd::Node &node);
  bool cannot(const char *reason);
  void noteCalls(uint32_t node, bool hooks, bool alone = false);
  void addInputs(const BackwardEdges &edges);
  uint32_t indexOf(torch::autograd::Node *node);
  void addIdentity(const void *thing);

  bool accumulates_ = true, hooked_ = false;
  const char *reason_ = "";
  std::vector<uint64_t> signature_;
  std::vector<uint32_t> identities_;
  std::vector<CallNode *> calls_;
  std::vector<torch::autograd::AccumulateGrad *> leaves_;
  std::vector<torch::autograd::Node *> order_;
  std::vector<bool> called_, shown_; ///< by node. `shown_`: a call that the program has looked at
  tsl::robin_map<torch::autograd::Node *, uint32_t> indices_;
  tsl::robin_map<torch::autograd::Node *, const CallNode *> eagerOf_; ///< eager's nodes of calls in `shown_`
};

class BackwardWalk::Scope {
public:
  Scope();
  ~Scope();
  Scope(const Scope &) = delete;
  BackwardWalk &operator*() const { return *walk_; }
  BackwardWalk *operator->() const { return walk_.get(); }

private:
  std::unique_ptr<BackwardWalk> walk_;
};

} // namespace terra::frontend
