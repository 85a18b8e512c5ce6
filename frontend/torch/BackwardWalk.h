// The autograd graph behind a loss, as it stands: what a backward would do, decides whether it is one that is known.
#pragma once

#include "frontend/torch/CallNode.h"
#include "runtime/Session.h"

#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <tsl/robin_map.h>

#include <vector>

namespace terra::frontend {

class BackwardWalk {
public:
  /// Walks the graph from `root`. False when a backward through it cannot be recognised: hooks, nodes written in Python, history from
  /// before the region, values modified or released since they were saved.
  bool walk(const runtime::Session &session, const torch::autograd::Edge &root);

  /// Equal for two graphs that were made by the same events in the same way: nodes by where in which segment they were made, and
  /// their edges.
  const std::vector<uint64_t> &signature() const { return signature_; }
  /// In the order of the walk.
  const std::vector<CallNode *> &calls() const { return calls_; }
  const std::vector<torch::autograd::AccumulateGrad *> &leaves() const { return leaves_; }

  /// What the engine does behind itself unless the graph is retained.
  void release();

private:
  bool visit(const runtime::Session &session, torch::autograd::Node *node);
  bool visitCall(const runtime::Session &session, CallNode &call);
  bool visitLeaf(torch::autograd::AccumulateGrad &leaf);
  bool place(const runtime::Session &session, const torch::autograd::Node &node);
  uint32_t indexOf(torch::autograd::Node *node);

  std::vector<uint64_t> signature_;
  std::vector<CallNode *> calls_;
  std::vector<torch::autograd::AccumulateGrad *> leaves_;
  std::vector<torch::autograd::Node *> order_;
  tsl::robin_map<torch::autograd::Node *, uint32_t> indices_;
};

} // namespace terra::frontend
