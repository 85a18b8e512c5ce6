#include "frontend/torch/WholeCalls.h"

#include "frontend/torch/Frontend.h"
#include "frontend/torch/Hook.h"
#include "graph/Hash.h"

#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/input_metadata.h>
#include <torch/csrc/autograd/variable.h>
#include <tsl/robin_map.h>

#include <algorithm>
#include <typeinfo>
#include <utility>
#include <vector>

namespace terra::frontend {

using torch::autograd::AccumulateGrad;
using torch::autograd::Edge;
using torch::autograd::Node;

namespace {

thread_local graph::Whole whole = 0;

class Mixer {
public:
  void add(uint64_t value) {
    key_.structure = graph::mix(key_.structure, value);
    key_.sizes = graph::mix(key_.sizes, value);
  }
  void addSize(const c10::SymInt &size) {
    key_.sizes = graph::mix(key_.sizes, uint64_t(size.maybe_as_int().value_or(-1)));
  }
  void add(const at::Tensor &tensor) {
    add(tensor.defined() ? 1 + uint64_t(tensor.scalar_type()) : 0);
    if (!tensor.defined() || tensor.is_nested())
      return;
    add(tensor.dim());
    for (const c10::SymInt &size : tensor.sym_sizes())
      addSize(size);
  }
  const runtime::Wholes::Key &key() const { return key_; }

private:
  runtime::Wholes::Key key_{0x2545f4914f6cdd1dull, 0x9e6c63d0876a9a47ull};
};

/// The graph behind some roots, as eager has it.
class GraphShape {
public:
  void add(const Edge &edge) {
    auto [node, input] = eager(edge);
    mixer_.add(node ? (uint64_t(indexOf(node)) + 1) << 16 | input : 0);
  }

  /// Some of it calls hooks, and is recognised in pieces (HookedBackward.h).
  bool hasHooks() const { return hooks_; }

  const runtime::Wholes::Key &finish() {
    for (size_t next = 0; next < order_.size(); ++next)
      visit(*order_[next]);
    return mixer_.key();
  }

  Mixer &mixer() { return mixer_; }

private:
  /// A materialized CallNode only passes gradients on.
  std::pair<Node *, uint32_t> eager(const Edge &edge) {
    Node *node = edge.function.get();
    uint32_t input = edge.input_nr;
    for (auto *call = dynamic_cast<CallNode *>(node); call && call->materialized() && input < call->num_outputs();
         call = dynamic_cast<CallNode *>(node)) {
      noteHooks(*call);
      const Edge &next = call->next_edge(input);
      node = next.function.get();
      input = next.input_nr;
    }
    return {node, input};
  }

  uint32_t indexOf(Node *node) {
    auto [it, inserted] = indices_.try_emplace(node, uint32_t(order_.size()));
    if (inserted)
      order_.push_back(node);
    return it->second;
  }

  void noteHooks(Node &node) { hooks_ |= hasHooksToCall(node) || !node.post_hooks().empty(); }

  void visit(Node &node) {
    noteHooks(node);
    mixer_.add(reinterpret_cast<uint64_t>(&typeid(node)));
    if (auto *leaf = dynamic_cast<AccumulateGrad *>(&node)) {
      mixer_.add(leaf->variable);
      mixer_.add(leaf->variable.defined() ? leaf->variable.grad() : at::Tensor());
      return;
    }
    mixer_.add(node.num_inputs());
    for (uint32_t i = 0; i < node.num_inputs(); ++i)
      add(node.input_metadata(i));
    mixer_.add(node.num_outputs());
    for (const Edge &edge : node.next_edges())
      add(edge);
  }

  void add(const torch::autograd::InputMetadata &metadata) {
    if (metadata.was_default_constructed() || metadata.is_nested_tensor() || metadata.is_cpp_nested_tensor())
      return;
    mixer_.add(uint64_t(c10::typeMetaToScalarType(metadata.dtype())));
    for (const c10::SymInt &size : metadata.shape_as_dim_vector())
      mixer_.addSize(size);
  }

  bool hooks_ = false;
  Mixer mixer_;
  std::vector<Node *> order_;
  tsl::robin_map<Node *, uint32_t> indices_;
};

} // namespace

graph::Whole currentWhole() { return whole; }

graph::Whole enterWhole(const std::function<graph::Whole()> &kind) {
  return std::exchange(whole, whole ? whole : kind());
}

void leaveWhole(graph::Whole before) { whole = before; }

graph::Whole wholeOfBackward(const BackwardRequest &request) {
  runtime::Session *session = currentSession();
  auto differentiable = [](const at::Tensor &root) { return root.requires_grad(); };
  if (!session || insideReal() || !std::all_of(request.roots.begin(), request.roots.end(), differentiable))
    return 0;
  BackwardEdges edges(request);
  GraphShape shape;
  shape.mixer().add(request.accumulates);
  for (const Edge &root : edges.roots)
    shape.add(root);
  for (const Edge &input : edges.inputs)
    shape.add(input);
  runtime::Wholes::Key key = shape.finish();
  if (shape.hasHooks())
    return 0;
  std::lock_guard lock(runtimeInstance().lock());
  return session->wholes().backwards.numberOf(key);
}

graph::Whole wholeOfStep(const OptimizerState &state) {
  runtime::Session *session = currentSession();
  if (!session || insideReal())
    return 0;
  Mixer mixer;
  mixer.add(uint64_t(state.kind));
  for (double option : state.options) // others than 0 and 1 may be numbers that a schedule changes
    mixer.add(option == 0 ? 0 : option == 1 ? 1 : 2);
  for (const OptimizerState::Parameter &parameter : state.parameters)
    mixer.add(uint64_t(parameter.numTensors) << 32 | parameter.numScalars);
  for (const at::Tensor &tensor : state.tensors)
    mixer.add(tensor);
  std::lock_guard lock(runtimeInstance().lock());
  return session->wholes().steps.numberOf(mixer.key());
}

} // namespace terra::frontend
