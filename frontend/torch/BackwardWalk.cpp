#include "frontend/torch/BackwardWalk.h"

#include "frontend/torch/Storage.h"

#include <ATen/SequenceNumber.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <cstring>
#include <typeinfo>
#include <unordered_set>

namespace terra::frontend {

using torch::autograd::AccumulateGrad;
using torch::autograd::Edge;
using torch::autograd::Node;

namespace {

enum : uint64_t { kLeaf = 1, kCall = 2, kOther = 3, kShownCall = 4, kEager = 5 };

bool hasHooksBefore(Node &node) {
  return !node.pre_hooks().empty() || !node.tensor_pre_hooks().empty() || !node.retains_grad_hooks().empty();
}

bool isNamed(const Node &node, const char *name) { return std::strstr(typeid(node).name(), name) != nullptr; }

/// Frozen since the forward: the engine drops its gradient.
bool isPlainLeaf(const AccumulateGrad &leaf, bool accumulates) {
  const at::Tensor &variable = leaf.variable;
  if (!variable.defined() || !variable.requires_grad() || !isPlain(*variable.unsafeGetTensorImpl()))
    return false;
  const at::Tensor &grad = variable.grad();
  return !accumulates || !grad.defined() || (isPlain(*grad.unsafeGetTensorImpl()) && !grad.requires_grad());
}

/// Nodes with smaller numbers may have hooks on what they save.
thread_local uint64_t savedTensorHooksUntil = 0;

/// What has become of a call that the engine would notice; empty when nothing.
const char *changeSince(const CallNode &call) {
  if (call.released() && !call.host().keepsNothing())
    return "of a graph that has been released";
  for (const SavedStorage &saved : call.saved)
    if (saved.counter.enabled() && saved.counter.current_version() != saved.version)
      return "of a value that was modified in place";
  if (call.materialized() && call.replayedUntil() <= savedTensorHooksUntil)
    return "of a graph whose saved tensors may have hooks";
  // `parameter.data = …`: eager would use the new data.
  for (size_t i = 0; i < call.saved.size(); ++i)
    if (const Kept &kept = call.host().kept[i]; kept.itself)
      if (auto *leaf = dynamic_cast<AccumulateGrad *>(call.operandEdges()[kept.index].function.get());
          leaf && !leaf->variable.storage().is_alias_of(call.saved[i].storage))
        return "of a parameter that got other data";
  return "";
}

thread_local std::vector<std::unique_ptr<BackwardWalk>> spareWalks;

} // namespace

bool hasHooksToCall(Node &node) {
  if (typeid(node) != typeid(AccumulateGrad))
    return hasHooksBefore(node);
  auto &leaf = static_cast<AccumulateGrad &>(node);
  return hasHooksBefore(leaf) || !leaf.post_hooks().empty() ||
         torch::autograd::impl::post_acc_grad_hooks(leaf.variable);
}

void noteSavedTensorHooks() { savedTensorHooksUntil = at::sequence_number::peek(); }

bool isPythonNode(const Node &node) { return isNamed(node, "PyNode"); }

bool runsAlone(Node &node) { return !node.post_hooks().empty() || isPythonNode(node) || isNamed(node, "CppNode"); }

BackwardWalk::Scope::Scope() {
  if (spareWalks.empty()) {
    walk_ = std::make_unique<BackwardWalk>();
    return;
  }
  walk_ = std::move(spareWalks.back());
  spareWalks.pop_back();
}

BackwardWalk::Scope::~Scope() { spareWalks.push_back(std::move(walk_)); }

BackwardEdges::BackwardEdges(const BackwardRequest &request) {
  for (const at::Tensor &root : request.roots)
    roots.push_back(torch::autograd::impl::gradient_edge(root));
  for (const at::Tensor &input : request.inputs)
    if (input.grad_fn())
      inputs.push_back(torch::autograd::impl::gradient_edge(input));
    else
      inputs.emplace_back(torch::autograd::impl::try_get_grad_accumulator(input), 0);
}

bool BackwardWalk::walk(const runtime::Session &session, const BackwardRequest &request, const BackwardEdges &edges) {
  signature_.clear();
  identities_.clear();
  calls_.clear();
  leaves_.clear();
  order_.clear();
  called_.clear();
  shown_.clear();
  indices_.clear();
  eagerOf_.clear();
  hooked_ = false;
  reason_ = "";
  accumulates_ = request.accumulates;
  signature_.push_back(uint64_t(edges.roots.size()) << 32 | uint64_t(request.accumulates) << 1 | request.mayMiss);
  for (size_t i = 0; i < edges.roots.size(); ++i) {
    const Edge &root = edges.roots[i];
    if (!root.is_valid())
      return cannot("of a tensor without history");
    signature_.push_back(uint64_t(indexOf(root.function.get())) << 32 | root.input_nr << 1 |
                         request.gradients[i].defined());
  }
  for (size_t next = 0; next < order_.size(); ++next)
    if (!visit(session, order_[next]))
      return false;
  addInputs(edges);
  return true;
}

void BackwardWalk::addInputs(const BackwardEdges &edges) {
  for (const Edge &input : edges.inputs) {
    auto it = indices_.find(input.function.get());
    signature_.push_back(it == indices_.end() ? 0 : (uint64_t(it->second) + 1) << 32 | input.input_nr);
  }
}

namespace {

const torch::autograd::edge_list &edgesOf(const Node &node) {
  const auto *call = dynamic_cast<const CallNode *>(&node);
  return call ? call->operandEdges() : node.next_edges();
}

} // namespace

std::vector<bool> BackwardWalk::needed(const BackwardEdges &edges) const {
  std::vector<bool> needed;
  if (edges.inputs.empty())
    return needed;
  std::unordered_set<const Node *> reaching;
  for (const Edge &input : edges.inputs)
    reaching.insert(input.function.get());
  auto leads = [&](const Edge &edge) { return edge.is_valid() && reaching.contains(edge.function.get()); };
  needed.resize(order_.size());
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = order_.size(); i-- > 0;) { // most nodes come before those behind them
      const torch::autograd::edge_list &next = edgesOf(*order_[i]);
      if (needed[i] || std::none_of(next.begin(), next.end(), leads))
        continue;
      needed[i] = changed = true;
      reaching.insert(order_[i]);
    }
  }
  return needed;
}

void BackwardWalk::addIdentity(const void *thing) {
  identities_.push_back(uint32_t(signature_.size()));
  signature_.push_back(reinterpret_cast<uint64_t>(thing));
}

uint32_t BackwardWalk::indexOf(Node *node) {
  auto [it, inserted] = indices_.try_emplace(node, uint32_t(order_.size()));
  if (inserted) {
    order_.push_back(node);
    called_.push_back(false);
    shown_.push_back(false);
  }
  return it->second;
}

bool BackwardWalk::cannot(const char *reason) {
  reason_ = reason;
  return false;
}

void BackwardWalk::noteCalls(uint32_t node, bool hooks, bool alone) {
  called_[node] = hooks || alone;
  hooked_ |= called_[node];
  signature_.push_back(uint64_t(alone) << 1 | uint64_t(hooks));
}

bool BackwardWalk::isAsFound(uint32_t index) const {
  Node &node = *order_[index];
  if (typeid(node) == typeid(AccumulateGrad))
    return isPlainLeaf(static_cast<AccumulateGrad &>(node), accumulates_) && (called_[index] || !hasHooksToCall(node));
  if (!node.post_hooks().empty() || (!called_[index] && hasHooksBefore(node)))
    return false;
  if (typeid(node) != typeid(CallNode))
    return true;
  const auto &call = static_cast<CallNode &>(node);
  return call.materialized() == shown_[index] && !*changeSince(call); // real nodes may carry hooks
}

bool BackwardWalk::visit(const runtime::Session &session, Node *node) {
  const torch::autograd::edge_list *edges = &node->next_edges();
  const std::type_info &type = typeid(*node);
  if (type == typeid(AccumulateGrad))
    return visitLeaf(static_cast<AccumulateGrad &>(*node));
  noteCalls(indexOf(node), hasHooksBefore(*node), runsAlone(*node));
  if (type == typeid(CallNode)) {
    if (!node->post_hooks().empty())
      return cannot("with a hook behind a node");
    auto &call = static_cast<CallNode &>(*node);
    if (!visitCall(session, call))
      return false;
    if (call.materialized())
      noteEagerNodes(call, *edges);
    else
      edges = &call.operandEdges();
  } else {
    auto eager = eagerOf_.find(node);
    signature_.push_back(eager == eagerOf_.end() ? kOther : kEager);
    signature_.push_back(reinterpret_cast<uint64_t>(&type));
    if (eager != eagerOf_.end())
      noteEagerNodes(*eager->second, *edges);
    else if (!place(session, *node))
      return false;
  }
  signature_.push_back(edges->size());
  for (const Edge &edge : *edges)
    signature_.push_back(edge.is_valid() ? (uint64_t(indexOf(edge.function.get())) + 1) << 32 | edge.input_nr : 0);
  return true;
}

/// What a call has become when it was shown: its own nodes are younger than itself, those of its operands older.
void BackwardWalk::noteEagerNodes(const CallNode &call, const torch::autograd::edge_list &edges) {
  for (const Edge &edge : edges)
    if (Node *node = edge.function.get(); node && typeid(*node) != typeid(CallNode) &&
                                          typeid(*node) != typeid(AccumulateGrad) &&
                                          node->sequence_nr() > call.sequence_nr())
      eagerOf_.emplace(node, &call);
}

/// In which run of which segment, and as the how-manieth node.
bool BackwardWalk::place(const runtime::Session &session, const Node &node) {
  auto start = session.runAt(node.sequence_nr());
  if (!start)
    return cannot("of history from before the call");
  signature_.push_back(start->runsAgo);
  addIdentity(start->segment);
  signature_.push_back(start->offset);
  return true;
}

bool BackwardWalk::visitCall(const runtime::Session &session, CallNode &call) {
  if (const char *change = changeSince(call); *change)
    return cannot(change);
  calls_.push_back(&call);
  shown_[indexOf(&call)] = call.materialized();
  signature_.push_back(call.materialized() ? kShownCall : kCall);
  addIdentity(&call.span());
  return place(session, call);
}

bool BackwardWalk::visitLeaf(AccumulateGrad &leaf) {
  if (!isPlainLeaf(leaf, accumulates_))
    return cannot("into a parameter or gradient that is no plain tensor");
  leaves_.push_back(&leaf);
  signature_.push_back(kLeaf);
  noteCalls(indexOf(&leaf), hasHooksToCall(leaf));
  return true;
}

void BackwardWalk::release(const std::vector<bool> &needed) {
  for (size_t i = 0; i < order_.size(); ++i)
    if (needed.empty() || needed[i])
      order_[i]->release_variables();
}

} // namespace terra::frontend
