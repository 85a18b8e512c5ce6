#include "frontend/torch/HookedBackward.h"

#include "frontend/torch/Above.h"
#include "frontend/torch/BackwardPiece.h"
#include "frontend/torch/Frontend.h"
#include "frontend/torch/PieceOperands.h"

#include <torch/csrc/autograd/engine.h>

#include <algorithm>
#include <functional>
#include <optional>

namespace terra::frontend {

using runtime::Session;
using torch::autograd::AccumulateGrad;
using torch::autograd::Node;
using torch::autograd::variable_list;

namespace {

InterpreterLock interpreter;

/// Holds Python's lock, so that references to tensors that Python knows may be taken and dropped.
class WithInterpreter {
public:
  WithInterpreter() : state_(interpreter.acquire()) {}
  ~WithInterpreter() { interpreter.release(state_); }
  WithInterpreter(const WithInterpreter &) = delete;

private:
  int state_;
};

class WithoutAbove {
public:
  WithoutAbove() : before_(excludeAbove(true)) {}
  ~WithoutAbove() { excludeAbove(before_); }
  WithoutAbove(const WithoutAbove &) = delete;

private:
  bool before_;
};

/// Hooks that come before a node.
variable_list callHooks(Node &node, variable_list inputs) {
  for (const auto &hook : node.tensor_pre_hooks())
    inputs = (*hook)(inputs);
  for (const auto &[index, hook] : node.retains_grad_hooks())
    inputs = (*hook)(inputs);
  for (const auto &hook : node.pre_hooks())
    inputs = (*hook)(inputs);
  return inputs;
}

/// A parameter with all of its hooks, as the engine runs it.
void runLeaf(AccumulateGrad &leaf, variable_list inputs) {
  inputs = callHooks(leaf, std::move(inputs));
  variable_list outputs, none;
  bool hooked = !leaf.post_hooks().empty();
  if (hooked) {
    variable_list copy = inputs;
    outputs = leaf(std::move(copy));
  } else {
    outputs = leaf(std::move(inputs));
  }
  for (const auto &hook : leaf.post_hooks())
    outputs = (*hook)(outputs, hooked ? inputs : none);
}

class HookedBackward {
public:
  HookedBackward(Session &session, const BackwardRequest &request, const BackwardEdges &edges, BackwardWalk &walk)
      : edges_(edges), progress_{session, walk, nullptr, request.retainGraph, nullptr, {}, {}} {
    WithInterpreter held;
    std::lock_guard lock(runtimeInstance().lock());
    progress_.plan = BackwardPlan::find(walk, request.retainGraph);
    progress_.station = progress_.plan->start(walk, request.roots.size());
    progress_.gradients = request.gradients.vec();
  }

  void run() {
    try {
      while (!done())
        if (waitsForCall())
          call();
        else
          advance();
    } catch (...) {
      if (!engine_ && !progress_.retainGraph && someCallIsPartlyDone())
        leavePlan(); // what was done is released
      throw;
    }
  }

private:
  bool done() const { return engine_ ? engine_->done() : progress_.station->cut.done(); }
  bool waitsForCall() const { return engine_ ? engine_->waitsForCall() : progress_.station->waitsForCall; }
  const BackwardCut::Waiting &first() const { return progress_.station->cut.ready.front(); }

  void call() {
    Node &node = engine_ ? *engine_->next() : *progress_.walk.nodes()[first().place.node];
    variable_list inputs = engine_ ? engine_->takeInputs() : takeInputs();
    if (typeid(node) == typeid(AccumulateGrad)) {
      runLeaf(static_cast<AccumulateGrad &>(node), std::move(inputs));
      return engine_ ? engine_->skip() : passLeaf();
    }
    if (!engine_ || !engine_->hooksCalled())
      inputs = callHooks(node, std::move(inputs));
    if (runsAlone(node)) {
      std::optional<WithoutAbove> onlyBelow; // of the program's own code, whole calls are recognised
      if (!isPythonNode(node))
        onlyBelow.emplace();
      for (const torch::autograd::Edge &edge : node.next_edges())
        if (auto *call = dynamic_cast<CallNode *>(edge.function.get()))
          call->describeInputs();
      return putOutputs(runNode(node, std::move(inputs), progress_.retainGraph));
    }
    if (!engine_ && !sameDefined(inputs))
      leavePlan();
    return engine_ ? engine_->putInputs(std::move(inputs)) : putInputs(std::move(inputs));
  }

  /// The gradients of the first ready node.
  variable_list takeInputs() {
    variable_list inputs(first().defined.size());
    size_t next = 0;
    for (size_t i = 0; i < inputs.size(); ++i)
      if (first().defined[i])
        inputs[i] = std::move(progress_.gradients[next++]);
    return inputs;
  }

  bool sameDefined(const variable_list &inputs) const {
    return std::equal(inputs.begin(), inputs.end(), first().defined.begin(), first().defined.end(),
                      [](const at::Tensor &tensor, bool was) { return tensor.defined() == was; });
  }

  void putInputs(variable_list inputs) {
    size_t next = 0;
    for (at::Tensor &input : inputs)
      if (input.defined())
        progress_.gradients[next++] = std::move(input);
    progress_.station = progress_.plan->afterHooks(progress_.station, progress_.walk);
  }

  void passLeaf() { pass(progress_.plan->afterLeaf(progress_.station, progress_.walk)); }

  void putOutputs(variable_list outputs) {
    if (engine_)
      return engine_->putOutputs(std::move(outputs));
    std::vector<bool> defined;
    for (const at::Tensor &output : outputs)
      defined.push_back(output.defined());
    pass(progress_.plan->afterRun(progress_.station, defined, progress_.walk));
    for (at::Tensor &output : outputs)
      if (output.defined())
        progress_.gradients.push_back(std::move(output));
  }

  /// The first ready node has run.
  void pass(BackwardStation *after) {
    called_.push_back(first().place);
    std::vector<at::Tensor> kept;
    for (uint32_t index : progress_.station->kept)
      kept.push_back(std::move(progress_.gradients[index]));
    progress_.gradients = std::move(kept);
    progress_.station = after;
  }

  /// Everything up to the next call, or to the end.
  void advance() {
    std::optional<BackwardPieceLearner> learner;
    size_t before = engine_ ? engine_->executed().size() : 0;
    {
      WithInterpreter held;
      bool recognised = !engine_ && recognisePiece(progress_);
      progress_.session.notePiece(recognised);
      if (recognised)
        return;
      watch(learner);
      if (!engine_)
        leavePlan();
    }
    {
      WithoutAbove onlyBelow;
      while (!engine_->done() && !engine_->waitsForCall())
        engine_->step();
    }
    if (!learner)
      return;
    WithInterpreter held;
    learner->finish(*engine_, before);
  }

  void watch(std::optional<BackwardPieceLearner> &learner) {
    Session &session = progress_.session;
    if (!session.coExecuting() || !session.mayLearnSpan())
      return;
    if (engine_)
      progress_.station = progress_.plan->at(engine_->cut(), progress_.walk);
    std::vector<at::Tensor> gradients = engine_ ? engine_->gradients() : progress_.gradients;
    learner.emplace(progress_, gradients);
  }

  std::vector<BackwardPlace> executed() const {
    std::vector<BackwardPlace> all = called_;
    for (const auto &piece : progress_.passed)
      all.insert(all.end(), piece->executed.begin(), piece->executed.end());
    return all;
  }

  bool someCallIsPartlyDone() const {
    std::unordered_set<uint32_t> begun;
    for (const auto &piece : progress_.passed) {
      begun.insert(piece->nodes.begin(), piece->nodes.end());
      for (uint32_t node : piece->finished)
        begun.erase(node);
    }
    return !begun.empty();
  }

  /// From here on node by node.
  void leavePlan() {
    std::vector<Node *> roots;
    for (const torch::autograd::Edge &root : edges_.roots)
      roots.push_back(root.function.get());
    materializeFrom(roots);
    std::vector<BackwardPlace> executed = this->executed();
    engine_ = std::make_unique<BackwardEngine>(progress_.walk, edges_, progress_.retainGraph, progress_.station->cut,
                                               executed, progress_.gradients);
    if (!progress_.retainGraph)
      engine_->releaseExecuted(executed);
  }

  const BackwardEdges &edges_;
  BackwardProgress progress_;
  std::vector<BackwardPlace> called_; ///< parameters, and nodes that ran alone
  std::unique_ptr<BackwardEngine> engine_; ///< once the plan was left
};

/// The walk of the innermost backward in pieces on this thread, as long as no other backward is inside it.
class UnderWay {
public:
  explicit UnderWay(const BackwardWalk &walk)
      : walk_(walk), task_(torch::autograd::get_current_graph_task_id()), outer_(std::exchange(innermost, this)) {}
  ~UnderWay() { innermost = outer_; }
  UnderWay(const UnderWay &) = delete;

  static const BackwardWalk *walk() {
    bool here = innermost && innermost->task_ == torch::autograd::get_current_graph_task_id();
    return here ? &innermost->walk_ : nullptr;
  }

private:
  static thread_local UnderWay *innermost;
  const BackwardWalk &walk_;
  int task_;
  UnderWay *outer_;
};

thread_local UnderWay *UnderWay::innermost = nullptr;

/// Stands in the engine for the whole graph: hooks find themselves inside a backward, errors and callbacks take the engine's way.
class HookedNode final : public Node {
public:
  explicit HookedNode(const HookedJob &job) : Node(/*sequence_nr=*/UINT64_MAX), job_(job) {
    add_input_metadata(job.request.gradients.front());
  }
  variable_list apply(variable_list &&inputs) override {
    inputs.clear();
    UnderWay here(*job_.walk);
    HookedBackward(job_.session, job_.request, job_.edges, *job_.walk).run();
    return {};
  }
  std::string name() const override { return "terra"; }

private:
  const HookedJob &job_;
};

/// The engine would take it as it is.
bool fitsRoot(const at::Tensor &gradient, const at::Tensor &root) {
  return gradient.defined() && isPlain(*gradient.unsafeGetTensorImpl()) && gradient.sizes() == root.sizes() &&
         gradient.scalar_type() == root.scalar_type();
}

} // namespace

void setInterpreterLock(InterpreterLock lock) { interpreter = lock; }

const char *whyNotHooked(const BackwardRequest &request) {
  if (!request.inputs.empty())
    return "with hooks or a custom autograd.Function, for some inputs only";
  return std::equal(request.gradients.begin(), request.gradients.end(), request.roots.begin(), fitsRoot)
             ? ""
             : "with hooks or a custom autograd.Function, of a gradient that does not fit its root";
}

std::optional<bool> runsInPieces(Node &node) {
  const BackwardWalk *walk = UnderWay::walk();
  return walk ? std::optional(walk->has(&node)) : std::nullopt;
}

void runHooked(const HookedJob &job) {
  auto node = makeNode<HookedNode>(job);
  torch::autograd::Engine::get_default_engine().execute({torch::autograd::Edge(node, 0)},
                                                        {job.request.gradients.front()}, job.request.retainGraph,
                                                        /*create_graph=*/false, /*accumulate_grad=*/true);
}

} // namespace terra::frontend
