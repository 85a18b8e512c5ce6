#include "frontend/torch/BackwardCut.h"

#include <torch/csrc/autograd/engine.h>

#include <algorithm>
#include <typeinfo>
#include <utility>

namespace terra::frontend {

using torch::autograd::Edge;
using torch::autograd::InputBuffer;
using torch::autograd::Node;
using torch::autograd::variable_list;

BackwardCut BackwardCut::afterHooks() const {
  BackwardCut after = *this;
  after.ready.front().hooksCalled = true;
  return after;
}

BackwardCut BackwardCut::afterLeaf(std::vector<uint32_t> &kept) const {
  struct Moved {
    const Waiting *waiting;
    uint32_t first;
  };
  std::vector<Moved> heap;
  uint32_t next = 0;
  for (const Waiting &waiting : ready) {
    heap.push_back({&waiting, next});
    next += uint32_t(waiting.numTensors());
  }
  std::pop_heap(heap.begin(), heap.end(),
                [](const Moved &a, const Moved &b) { return a.waiting->order < b.waiting->order; });
  heap.pop_back();
  BackwardCut after;
  after.partial = partial;
  for (const Moved &moved : heap) {
    after.ready.push_back(*moved.waiting);
    for (uint32_t i = 0; i < moved.waiting->numTensors(); ++i)
      kept.push_back(moved.first + i);
  }
  for (uint32_t i = next; i < numTensors; ++i)
    kept.push_back(i);
  after.numTensors = kept.size();
  return after;
}

BackwardCut BackwardCut::afterRun(std::vector<bool> defined, std::vector<uint32_t> &kept) const {
  BackwardCut after = afterLeaf(kept);
  after.numTensors += size_t(std::count(defined.begin(), defined.end(), true));
  after.ran = {ready.front().place, std::move(defined)};
  return after;
}

variable_list runNode(Node &node, variable_list inputs, bool retainGraph) {
  if (!retainGraph)
    node.will_release_variables();
  bool hooked = !node.post_hooks().empty();
  variable_list copy;
  if (hooked)
    copy = inputs;
  variable_list outputs = node(std::move(inputs));
  torch::autograd::validate_outputs(node.next_edges(), outputs, [&](const std::string &message) {
    return "Function " + node.name() + " returned an " + message;
  });
  for (const auto &hook : node.post_hooks())
    outputs = (*hook)(outputs, copy);
  if (!retainGraph)
    node.release_variables();
  return outputs;
}

BackwardEngine::BackwardEngine(BackwardWalk &walk, const BackwardEdges &edges, bool retainGraph, const BackwardCut &cut,
                               const std::vector<BackwardPlace> &executed, std::vector<at::Tensor> &gradients)
    : walk_(walk), retainGraph_(retainGraph) {
  nameNodes();
  countDependencies(cut, executed);
  if (cut.start)
    begin(edges, gradients);
  else
    resume(cut, gradients);
  gradients.clear();
}

/// Eager's nodes of a call are numbered as they are found, which is the same for equal calls.
void BackwardEngine::nameNodes() {
  const std::vector<Node *> &order = walk_.nodes();
  for (uint32_t i = 0; i < order.size(); ++i) {
    places_.emplace(order[i], BackwardPlace{i, 0});
    nodes_.push_back({order[i]});
  }
  for (uint32_t i = 0; i < order.size(); ++i) {
    if (typeid(*order[i]) != typeid(CallNode) || !static_cast<CallNode *>(order[i])->materialized())
      continue;
    std::vector<Node *> &inner = nodes_[i];
    for (size_t next = 0; next < inner.size(); ++next)
      for (const Edge &edge : inner[next]->next_edges())
        if (edge.is_valid() &&
            places_.try_emplace(edge.function.get(), BackwardPlace{i, uint32_t(inner.size())}).second)
          inner.push_back(edge.function.get());
  }
  for (const std::vector<Node *> &places : nodes_)
    remaining_.push_back(places.size());
}

void BackwardEngine::countDependencies(const BackwardCut &cut, const std::vector<BackwardPlace> &executed) {
  std::unordered_set<const Node *> passed;
  for (BackwardPlace place : executed)
    if (place.inner < nodes_[place.node].size() && passed.insert(nodeAt(place)).second)
      --remaining_[place.node];
  for (const auto &[node, place] : places_) {
    if (passed.contains(node) && !(cut.ran && cut.ran->place == place))
      continue;
    for (const Edge &edge : node->next_edges())
      if (edge.is_valid())
        ++dependencies_[edge.function.get()];
  }
}

/// Several roots are delivered by a node of the engine's own, which counts; a single one is ready at once.
void BackwardEngine::begin(const BackwardEdges &edges, std::vector<at::Tensor> &gradients) {
  for (const Edge &root : edges.roots)
    ++dependencies_[root.function.get()];
  for (size_t i = 0; i < edges.roots.size(); ++i)
    deliver(edges.roots[i], std::move(gradients[i]));
}

void BackwardEngine::resume(const BackwardCut &cut, std::vector<at::Tensor> &gradients) {
  size_t next = 0;
  auto bufferOf = [&](const BackwardCut::Waiting &waiting, Node *node) {
    InputBuffer buffer(std::max<size_t>(node->num_inputs(), waiting.defined.size()));
    for (size_t i = 0; i < waiting.defined.size(); ++i)
      if (waiting.defined[i])
        buffer.buffer[i] = std::move(gradients[next++]);
    return buffer;
  };
  for (const BackwardCut::Waiting &waiting : cut.ready) {
    Node *node = nodeAt(waiting.place);
    dependencies_.erase(node);
    ready_.push_back({node, bufferOf(waiting, node), waiting.hooksCalled});
  }
  for (const BackwardCut::Waiting &waiting : cut.partial) {
    Node *node = nodeAt(waiting.place);
    notReady_.emplace(node, bufferOf(waiting, node));
  }
  if (!cut.ran)
    return;
  ran_ = {nodeAt(cut.ran->place), variable_list(cut.ran->defined.size())};
  for (size_t i = 0; i < cut.ran->defined.size(); ++i)
    if (cut.ran->defined[i])
      ran_->outputs[i] = std::move(gradients[next++]);
}

namespace {
const auto comesLater = [](const auto &a, const auto &b) { return a.node->sequence_nr() < b.node->sequence_nr(); };
} // namespace

void BackwardEngine::push(Task task) {
  ready_.push_back(std::move(task));
  std::push_heap(ready_.begin(), ready_.end(), comesLater);
}

BackwardEngine::Task BackwardEngine::pop() {
  std::pop_heap(ready_.begin(), ready_.end(), comesLater);
  Task task = std::move(ready_.back());
  ready_.pop_back();
  executed_.push_back(places_.at(task.node));
  --remaining_[executed_.back().node];
  return task;
}

void BackwardEngine::skip() { pop(); }

void BackwardEngine::putOutputs(variable_list outputs) { ran_ = {pop().node, std::move(outputs)}; }

void BackwardEngine::releaseExecuted(const std::vector<BackwardPlace> &executed) {
  for (BackwardPlace place : executed)
    if (place.inner < nodes_[place.node].size())
      nodeAt(place)->release_variables();
}

void BackwardEngine::putInputs(std::vector<at::Tensor> inputs) {
  ready_.front().inputs.buffer = std::move(inputs);
  ready_.front().hooksCalled = true;
}

void BackwardEngine::step() {
  if (std::optional<Ran> ran = std::exchange(ran_, std::nullopt))
    return deliverAll(*ran->node, ran->outputs);
  Task task = pop();
  variable_list outputs = runNode(*task.node, std::move(task.inputs.buffer), retainGraph_);
  deliverAll(*task.node, outputs);
}

void BackwardEngine::deliverAll(Node &node, variable_list &outputs) {
  for (size_t i = 0; i < outputs.size(); ++i)
    if (const Edge &next = node.next_edge(i); next.is_valid())
      deliver(next, std::move(outputs[i]));
}

void BackwardEngine::deliver(const Edge &edge, at::Tensor &&gradient) {
  Node *node = edge.function.get();
  auto count = dependencies_.find(node);
  TORCH_CHECK(count != dependencies_.end(), "dependency not found for ", node->name());
  bool ready = --count->second == 0;
  if (ready)
    dependencies_.erase(count);
  auto buffer = notReady_.find(node);
  if (buffer == notReady_.end())
    buffer = notReady_.emplace(node, InputBuffer(node->num_inputs())).first;
  buffer->second.add(edge.input_nr, std::move(gradient), std::nullopt, std::nullopt, node);
  if (!ready)
    return;
  push({node, std::move(buffer->second), false});
  notReady_.erase(buffer);
}

BackwardCut BackwardEngine::cut() const {
  BackwardCut cut;
  auto describe = [&](Node *node, const InputBuffer &inputs, bool hooksCalled) {
    BackwardCut::Waiting waiting{places_.at(node), hooksCalled, {}, node->sequence_nr()};
    for (const at::Tensor &input : inputs.buffer)
      waiting.defined.push_back(input.defined());
    cut.numTensors += waiting.numTensors();
    return waiting;
  };
  for (const Task &task : ready_)
    cut.ready.push_back(describe(task.node, task.inputs, task.hooksCalled));
  for (const auto &[node, inputs] : notReady_)
    cut.partial.push_back(describe(node, inputs, false));
  std::sort(cut.partial.begin(), cut.partial.end(), [](const auto &a, const auto &b) {
    return std::pair(a.place.node, a.place.inner) < std::pair(b.place.node, b.place.inner);
  });
  if (!ran_)
    return cut;
  cut.ran = {places_.at(ran_->node), {}};
  for (const at::Tensor &output : ran_->outputs) {
    cut.ran->defined.push_back(output.defined());
    cut.numTensors += output.defined();
  }
  return cut;
}

std::vector<at::Tensor> BackwardEngine::gradients() const {
  std::vector<at::Tensor> all;
  auto add = [&](const variable_list &tensors) {
    for (const at::Tensor &tensor : tensors)
      if (tensor.defined())
        all.push_back(tensor);
  };
  for (const Task &task : ready_)
    add(task.inputs.buffer);
  for (const BackwardCut::Waiting &waiting : cut().partial)
    add(notReady_.at(nodeAt(waiting.place)).buffer);
  if (ran_)
    add(ran_->outputs);
  return all;
}

} // namespace terra::frontend
