// How far a backward has come: which nodes wait for gradients, and which gradients have arrived.
#pragma once

#include "frontend/torch/BackwardWalk.h"

#include <algorithm>
#include <optional>
#include <typeinfo>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace terra::frontend {

/// A node of the graph: one of the walk's, or one of eager's behind a call, as the how-manieth.
struct BackwardPlace {
  uint32_t node = 0, inner = 0; ///< inner 0: the walk's node itself
  bool operator==(const BackwardPlace &) const = default;
};

/// A backward between two steps, without the gradients themselves: equal for backwards that have done the same. Two backwards over
/// graphs with the same signature go on from equal cuts in the same way.
struct BackwardCut {
  struct Waiting {
    BackwardPlace place;
    bool hooksCalled = false; ///< those that come before the node
    std::vector<bool> defined; ///< by input: a gradient has arrived
    uint64_t order =
        0; ///< the engine's: higher ones come first. Only compared within one cut, and no part of what it is

    bool operator==(const Waiting &other) const {
      return place == other.place && hooksCalled == other.hooksCalled && defined == other.defined;
    }
    size_t numTensors() const { return size_t(std::count(defined.begin(), defined.end(), true)); }
  };

  /// A node that ran alone: what it returned, by edge, is still to be passed on.
  struct Ran {
    BackwardPlace place;
    std::vector<bool> defined;
    bool operator==(const Ran &) const = default;
  };

  bool start = false; ///< nothing has been done: the gradients are those of the roots
  std::vector<Waiting> ready; ///< as the engine keeps them: a heap
  std::vector<Waiting> partial; ///< by place
  std::optional<Ran> ran;
  size_t numTensors = 0; ///< gradients that have arrived, in the order of `ready`, `partial` and `ran`

  bool operator==(const BackwardCut &other) const {
    return start == other.start && ready == other.ready && partial == other.partial && ran == other.ran;
  }
  bool done() const { return !start && ready.empty() && !ran; }
  /// Hooks have to be called, or the node to be run, before anything else can happen.
  bool waitsForCall(const BackwardWalk &walk) const {
    return !start && !ran && !ready.empty() && !ready.front().hooksCalled && ready.front().place.inner == 0 &&
           walk.called(ready.front().place.node);
  }

  /// After the hooks of the first ready node were called.
  BackwardCut afterHooks() const;
  /// After the first ready node ran, and led nowhere. `kept`: where the remaining gradients are now.
  BackwardCut afterLeaf(std::vector<uint32_t> &kept) const;
  /// The same for one that ran alone, and returned something on these edges, which comes after what is kept.
  BackwardCut afterRun(std::vector<bool> defined, std::vector<uint32_t> &kept) const;
};

/// What the engine does with a node, after the hooks that come before it.
torch::autograd::variable_list runNode(torch::autograd::Node &node, torch::autograd::variable_list inputs,
                                       bool retainGraph);

/// What PyTorch's engine does, node by node, in its order, on one thread; hooks before nodes are its user's to call. It can begin in the middle.
class BackwardEngine {
public:
  /// Eager's nodes have to be there (`showHistory`). `executed`: what was done to arrive at `cut`. `gradients` are taken.
  BackwardEngine(BackwardWalk &walk, const BackwardEdges &edges, bool retainGraph, const BackwardCut &cut,
                 const std::vector<BackwardPlace> &executed, std::vector<at::Tensor> &gradients);

  bool done() const { return ready_.empty() && !ran_; }
  /// The first ready node has hooks that were not called, or runs alone: known ones, or such that came meanwhile.
  bool waitsForCall() const {
    return !ran_ && ((!hooksCalled() && hasHooksToCall(*next())) || (!isLeaf(*next()) && runsAlone(*next())));
  }
  bool hooksCalled() const { return ready_.front().hooksCalled; }
  torch::autograd::Node *next() const { return ready_.front().node; }
  /// Takes the first ready node's gradients, and puts them back after its hooks were called.
  std::vector<at::Tensor> takeInputs() { return std::move(ready_.front().inputs.buffer); }
  void putInputs(std::vector<at::Tensor> inputs);
  /// After someone else ran the first ready node, which led nowhere.
  void skip();
  /// After someone else ran the first ready node.
  void putOutputs(std::vector<at::Tensor> outputs);
  /// Passes these on, or runs the first ready node.
  void step();

  BackwardCut cut() const;
  std::vector<at::Tensor> gradients() const; ///< as `cut` counts them
  /// What was done since the beginning, or since `cut`.
  const std::vector<BackwardPlace> &executed() const { return executed_; }
  /// Everything behind this node of the walk has run, too.
  bool finished(uint32_t node) const { return remaining_[node] == 0; }
  /// For those that ran before `cut`, which nobody has released one by one.
  void releaseExecuted(const std::vector<BackwardPlace> &executed);

private:
  using Node = torch::autograd::Node;
  struct Task {
    Node *node = nullptr;
    torch::autograd::InputBuffer inputs;
    bool hooksCalled = false;
  };

  void nameNodes();
  void countDependencies(const BackwardCut &cut, const std::vector<BackwardPlace> &executed);
  void begin(const BackwardEdges &edges, std::vector<at::Tensor> &gradients);
  void resume(const BackwardCut &cut, std::vector<at::Tensor> &gradients);
  Node *nodeAt(BackwardPlace place) const { return nodes_[place.node][place.inner]; }
  static bool isLeaf(Node &node) { return typeid(node) == typeid(torch::autograd::AccumulateGrad); }
  void deliverAll(Node &node, std::vector<at::Tensor> &outputs);
  void deliver(const torch::autograd::Edge &edge, at::Tensor &&gradient);
  void push(Task task);
  Task pop();

  BackwardWalk &walk_;
  bool retainGraph_;
  std::vector<std::vector<Node *>> nodes_; ///< by place
  std::vector<size_t> remaining_; ///< by node of the walk: how many of its places have not run
  std::unordered_map<Node *, BackwardPlace> places_;
  std::unordered_map<Node *, int> dependencies_;
  std::unordered_map<Node *, torch::autograd::InputBuffer> notReady_;
  std::vector<Task> ready_; ///< a heap
  struct Ran {
    Node *node = nullptr;
    std::vector<at::Tensor> outputs;
  };
  std::optional<Ran> ran_; ///< BackwardCut::ran
  std::vector<BackwardPlace> executed_;
};

} // namespace terra::frontend
