#include "frontend/torch/CallNode.h"

#include "frontend/torch/BackwardCut.h"
#include "frontend/torch/Frontend.h"
#include "frontend/torch/Replay.h"
#include "frontend/torch/Storage.h"

#include <ATen/ATen.h>
#include <ATen/SequenceNumber.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/functions/basic_ops.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

namespace terra::frontend {

using graph::kNever;
using runtime::Buffer;
using torch::autograd::AccumulateGrad;
using torch::autograd::edge_list;
using torch::autograd::Node;
using torch::autograd::variable_list;

namespace {

/// A storage that stands for a value which nobody will look at.
c10::Storage placeholder() {
  auto *buffer = new Buffer(0, Device{});
  buffer->graphBorn = true;
  return c10::Storage(makePromisedStorage(buffer));
}

/// One placeholder a slot, given out on demand.
class Placeholders {
public:
  c10::Storage operator()(uint32_t slot) {
    auto [it, inserted] = storages_.try_emplace(slot);
    if (inserted)
      it->second = placeholder();
    return it->second;
  }
  /// Somebody besides this table holds the storage.
  bool held(uint32_t slot) const {
    auto it = storages_.find(slot);
    return it != storages_.end() && it->second.use_count() > 1;
  }
  void set(uint32_t slot, c10::Storage storage) { storages_[slot] = std::move(storage); }

private:
  std::unordered_map<uint32_t, c10::Storage> storages_;
};

at::Tensor operandTensor(const graph::Event &event, uint32_t index, c10::Storage storage, int64_t offset) {
  return makeTensor(std::move(storage), event.inputs[index].meta, offset);
}

} // namespace

namespace {

/// A leaf that was frozen since the call requires a gradient while this lives, as it did then.
class AsBefore {
public:
  void operator()(const at::Tensor &leaf) {
    if (leaf.requires_grad())
      return;
    leaf.unsafeGetTensorImpl()->set_requires_grad(true);
    frozen_.push_back(leaf);
  }
  ~AsBefore() {
    for (const at::Tensor &leaf : frozen_)
      leaf.unsafeGetTensorImpl()->set_requires_grad(false);
  }

private:
  std::vector<at::Tensor> frozen_;
};

/// Also a leaf is one again: messages tell.
void giveHistory(at::Tensor &tensor, const torch::autograd::Edge &edge) {
  if (!dynamic_cast<AccumulateGrad *>(edge.function.get()))
    return torch::autograd::impl::set_gradient_edge(tensor, edge);
  tensor.set_requires_grad(true);
  using Weak = decltype(torch::autograd::AutogradMeta::grad_accumulator_);
  torch::autograd::impl::set_grad_accumulator(tensor, Weak(edge.function));
}

} // namespace

uint32_t CallSpan::stepsOf(uint32_t operand) const {
  for (auto [index, steps] : call->operandVersions)
    if (index == operand)
      return steps;
  return 0;
}

CallNode::CallNode(std::shared_ptr<runtime::CompiledSegment> segment, std::shared_ptr<const runtime::Span> span,
                   edge_list &&edges)
    : Node(std::move(edges)), segment_(std::move(segment)), span_(std::move(span)) {}

void CallNode::release_variables() {
  released_ = true;
  saved.clear();
}

variable_list CallNode::apply(variable_list &&gradients) {
  TORCH_CHECK(materialized_ || !released_, torch::autograd::ERR_BACKWARD_TWICE);
  TORCH_CHECK(materialized_, "terra: ", name(),
              " was reached by an engine that Terra does not know of; call torch.autograd.backward or "
              "torch.autograd.grad from Python");
  runEagerNodes(gradients);
  return std::move(gradients);
}

/// `backward(inputs=[result])` runs the node of the result and drops what it returns: only errors and hooks tell.
void CallNode::runEagerNodes(const variable_list &gradients) {
  const auto *execution = torch::autograd::get_current_graph_task_exec_info();
  if (!execution || execution->empty())
    return;
  std::unordered_set<Node *> seen;
  for (const torch::autograd::Edge &edge : next_edges()) {
    auto it = execution->find(edge.function.get());
    if (!edge.is_valid() || (it != execution->end() && it->second.should_execute()) ||
        !seen.insert(edge.function.get()).second)
      continue;
    variable_list inputs(edge.function->num_inputs());
    for (size_t i = 0; i < gradients.size(); ++i)
      if (next_edge(i).function == edge.function)
        inputs[next_edge(i).input_nr] = gradients[i];
    for (const auto &hook : edge.function->pre_hooks())
      inputs = (*hook)(inputs);
    runNode(*edge.function, std::move(inputs), torch::autograd::get_current_graph_task_keep_graph());
  }
}

void CallNode::materialize() {
  const CallSpan &host = this->host();
  if (materialized_)
    return;
  if (released_ && !host.keepsNothing())
    return describeInputs(); // the engine looks at them before it finds out
  const graph::Event &event = *span_->call.event;
  Placeholders made;
  std::vector<const SavedStorage *> operands(event.inputs.size(), nullptr);
  std::vector<bool> itself(event.inputs.size(), false);
  for (size_t i = 0; i < host.kept.size(); ++i) {
    if (host.kept[i].kind == Kept::Kind::Made) {
      made.set(host.kept[i].index, saved[i].storage);
      continue;
    }
    operands[host.kept[i].index] = &saved[i];
    itself[host.kept[i].index] = host.kept[i].itself;
  }
  AsBefore asBefore;
  std::vector<std::pair<at::Tensor, uint32_t>> stale; ///< saved before an in-place write: the engine has to see it
  auto operand = [&](uint32_t index) -> at::Tensor {
    if (span_->call.inputs[index].slot == kNever)
      return {};
    const torch::autograd::Edge &edge = next_edges()[index];
    const SavedStorage *saved = operands[index];
    bool modified = saved && saved->counter.enabled() && saved->counter.current_version() != saved->version;
    // What is saved as it is sees a later `leaf.data = …`; views of it do not.
    if (auto *leaf = dynamic_cast<AccumulateGrad *>(edge.function.get()); leaf && itself[index] && !modified) {
      asBefore(leaf->variable);
      return leaf->variable;
    }
    at::Tensor tensor = operandTensor(event, index, saved ? saved->storage : placeholder(),
                                      saved ? saved->offset : event.inputs[index].meta.offset);
    if (saved && saved->counter.enabled()) {
      setVersion(tensor, index, *saved);
      if (modified)
        stale.emplace_back(tensor, saved->counter.current_version() - saved->version);
    }
    if (edge.is_valid())
      giveHistory(tensor, edge);
    return tensor;
  };
  auto storage = [&](uint32_t slot) { return made(slot); };
  Replay replay(*segment_, *span_, host, {operand, storage, &scalars});
  std::vector<at::Tensor> results = replay.run();
  for (auto &[tensor, steps] : stale)
    for (uint32_t i = 0; i < steps; ++i)
      tensor.unsafeGetTensorImpl()->bump_version();
  replayedUntil_ = at::sequence_number::peek();
  markModified(results);
  edge_list edges;
  bool described = num_inputs() > 0;
  auto pass = [&](const at::Tensor &result, bool history) {
    bool differentiable = history && result.requires_grad();
    edges.push_back(differentiable ? torch::autograd::impl::gradient_edge(result) : torch::autograd::Edge());
    if (described)
      return;
    if (result.defined())
      add_input_metadata(result);
    else
      add_input_metadata(undefined_input());
  };
  for (uint32_t i = 0; i < results.size() && !host.behindBases(); ++i)
    pass(results[i], host.resultRequiresGrad[i]);
  for (uint32_t i = 0; i < host.views.hidden.size() && host.behindBases(); ++i)
    pass(at::Tensor(results[*host.views.resultOn(i)]._base()), true);
  operandEdges_ = std::exchange(next_edges(), std::move(edges));
  materialized_ = true;
}

void CallNode::setVersion(const at::Tensor &tensor, uint32_t operand, const SavedStorage &saved) const {
  uint32_t steps = host().stepsOf(operand);
  c10::VariableVersion counter = saved.counter;
  if (counter.current_version() != saved.version)
    counter = c10::VariableVersion(saved.version - steps);
  else if (steps)
    counter.set_version(saved.version - steps); // the replay moves it again
  tensor.unsafeGetTensorImpl()->set_version_counter(counter);
}

/// Results that were saved and written since: the engine has to see it.
void CallNode::markModified(const std::vector<at::Tensor> &results) const {
  for (size_t i = 0; i < saved.size(); ++i) {
    const Kept &kept = host().kept[i];
    if (kept.kind != Kept::Kind::Made || kept.result == kNever || !saved[i].counter.enabled())
      continue;
    for (uint32_t version = saved[i].version; version < saved[i].counter.current_version(); ++version)
      results[kept.result].unsafeGetTensorImpl()->bump_version();
  }
}

void CallNode::describeInputs() {
  const graph::Event &event = *span_->call.event;
  auto describe = [&](const TensorMeta &meta, bool history) {
    if (history)
      add_input_metadata(makeTensor(placeholder(), meta, meta.offset));
    else
      add_input_metadata(undefined_input());
  };
  if (num_inputs() > 0)
    return;
  if (host().behindBases())
    for (const HiddenBase &base : host().views.hidden)
      describe(base.meta, true);
  else
    for (uint32_t i = 0; i < event.results.size(); ++i)
      describe(event.results[i].meta, host().resultRequiresGrad[i]);
}

namespace {

/// Nodes that autograd made in a backward with `create_graph` know results of a replayed call by eager's node. All gradients of a
/// result have to meet at its CallNode: sums of three and more depend on the order.
void meetAtCalls(const std::vector<CallNode *> &calls, const std::unordered_set<Node *> &nodes) {
  std::unordered_map<Node *, CallNode *> callOf;
  for (CallNode *call : calls)
    if (call->materialized())
      for (const torch::autograd::Edge &edge : call->next_edges())
        if (edge.is_valid())
          callOf.emplace(edge.function.get(), call);
  for (Node *node : nodes) {
    if (dynamic_cast<CallNode *>(node))
      continue; // it leads to its own nodes; numbers of another thread do not tell
    for (torch::autograd::Edge &edge : node->next_edges()) {
      auto it = callOf.find(edge.function.get());
      if (it == callOf.end() || node->sequence_nr() < it->second->replayedUntil())
        continue; // of the call itself
      const edge_list &results = it->second->next_edges();
      auto result = std::find(results.begin(), results.end(), edge);
      if (result != results.end())
        edge = {it->second->getptr(), uint32_t(result - results.begin())};
    }
  }
}

} // namespace

std::vector<CallNode *> materializeFrom(c10::ArrayRef<Node *> roots) {
  std::vector<Node *> stack(roots.begin(), roots.end());
  std::unordered_set<Node *> seen;
  std::vector<CallNode *> calls;
  while (!stack.empty()) {
    Node *node = stack.back();
    stack.pop_back();
    if (!node || !seen.insert(node).second)
      continue;
    auto *call = dynamic_cast<CallNode *>(node);
    if (call)
      calls.push_back(call);
    for (const torch::autograd::Edge &edge : call ? call->operandEdges() : node->next_edges())
      stack.push_back(edge.function.get());
  }
  std::sort(calls.begin(), calls.end(), [](auto *a, auto *b) { return a->sequence_nr() < b->sequence_nr(); });
  bool again = std::any_of(calls.begin(), calls.end(), [](CallNode *call) { return call->materialized(); });
  for (CallNode *call : calls)
    call->materialize();
  if (again)
    meetAtCalls(calls, seen);
  return calls;
}

bool deriveKept(const runtime::CompiledSegment &segment, const runtime::Span &span, CallSpan &host) {
  const graph::Event &event = *span.call.event;
  Placeholders made;
  std::vector<c10::Storage> operands;
  for (uint32_t i = 0; i < event.inputs.size(); ++i)
    operands.push_back(placeholder());
  std::vector<NodePtr> nodes;
  std::vector<at::Tensor> tensors(event.inputs.size());
  auto operand = [&](uint32_t index) -> at::Tensor {
    if (span.call.inputs[index].slot == kNever)
      return {};
    at::Tensor tensor = operandTensor(event, index, operands[index], event.inputs[index].meta.offset);
    if (event.inputs[index].meta.requiresGrad) // not a leaf: its accumulator would hold it
      torch::autograd::impl::set_gradient_edge(tensor, {makeNode<torch::autograd::Identity>(), 0});
    return tensors[index] = tensor;
  };
  auto storage = [&](uint32_t slot) { return made(slot); };
  Replay replay(segment, span, host, {operand, storage, nullptr});
  {
    std::vector<at::Tensor> results;
    try {
      results = replay.run();
    } catch (const std::exception &) {
      return false;
    }
    for (uint32_t i = 0; i < results.size(); ++i)
      if (host.resultRequiresGrad[i]) {
        if (!results[i].grad_fn())
          return false;
        if (host.behindBases() && !(results[i].is_view() && results[i]._base().grad_fn()))
          return false;
        nodes.push_back(host.behindBases() ? results[i]._base().grad_fn() : results[i].grad_fn());
      }
  }
  host.name = nodes.front()->name();
  host.keepsNumbers = replay.numbersAreKept();
  for (uint32_t i = 0; i < operands.size(); ++i) {
    bool alive = tensors[i].defined() && tensors[i].use_count() > 1;
    tensors[i].reset();
    // A saved view keeps its base alive; then two tensors share the storage.
    bool itself = alive && operands[i].use_count() == 2;
    if (operands[i].use_count() > 1)
      host.kept.push_back({Kept::Kind::Operand, i, kNever, itself});
  }
  std::unordered_set<uint32_t> seen;
  auto look = [&](uint32_t slot) {
    if (slot == kNever || !seen.insert(slot).second || !made.held(slot))
      return;
    Kept kept{Kept::Kind::Made, slot, kNever, false};
    for (uint32_t i = 0; i < span.call.results.size(); ++i)
      if (span.call.results[i].slot == slot)
        kept.result = i;
    host.kept.push_back(kept);
  };
  for (uint32_t i = span.first; i <= span.last(); ++i)
    for (const graph::SlotRef &result : segment.segment().events[i].results)
      look(result.slot);
  for (auto [slot, bytes] : host.lent)
    look(slot);
  return true;
}

} // namespace terra::frontend
