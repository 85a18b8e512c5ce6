#include "python/Bindings.h"

#include "frontend/torch/Backward.h"
#include "frontend/torch/Hook.h"
#include "frontend/torch/HookedBackward.h"
#include "frontend/torch/WholeCalls.h"

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_function.h>
#include <torch/csrc/autograd/python_variable.h>

#include <array>
#include <map>
#include <optional>
#include <string>

namespace py = pybind11;

namespace terra::python {

namespace {

at::Tensor tensorOf(const py::object &object) {
  return object.is_none() ? at::Tensor() : THPVariable_Unpack(object.ptr());
}

struct Watched {
  std::shared_ptr<frontend::BackwardLearner> learner;
};

/// What became of `loss.backward()` before it has come to the engine: there is no need to try again on the way, or there.
enum class Tried : uint8_t { No, HasHooks, All };
thread_local Tried tried = Tried::No;

/// Null with Python's error set when the backward failed.
PyObject *runWithHooks(const frontend::HookedJob &job) {
  HANDLE_TH_ERRORS
  py::gil_scoped_release release;
  frontend::runHooked(job);
  return Py_True;
  END_HANDLE_TH_ERRORS
}

py::object answer(const frontend::BackwardRequest &request, bool last) {
  frontend::BackwardOutcome outcome = frontend::beginBackward(request, last);
  if (outcome.hooked) {
    if (!runWithHooks(*outcome.hooked))
      throw py::error_already_set();
    return py::bool_(true);
  }
  if (!last)
    tried = outcome.hasHooks ? Tried::HasHooks : outcome.recognised || outcome.learner ? Tried::No : Tried::All;
  if (!outcome.recognised)
    return outcome.learner ? py::cast(Watched{std::move(outcome.learner)}) : py::none();
  if (request.accumulates)
    return py::bool_(true);
  py::tuple results(outcome.results.size());
  for (size_t i = 0; i < outcome.results.size(); ++i)
    results[i] = py::reinterpret_steal<py::object>(THPVariable_Wrap(outcome.results[i]));
  return results;
}

/// True: the backward was recognised. None: run it. Otherwise run it and give what was returned to `backward_ran`.
py::object backward(const py::object &root, const py::object &gradient, bool retainGraph) {
  if (tried != Tried::No || !THPVariable_CheckExact(root.ptr()) ||
      !(gradient.is_none() || THPVariable_Check(gradient.ptr())))
    return py::none();
  std::array roots = {tensorOf(root)}, gradients = {tensorOf(gradient)};
  return answer({.roots = roots, .gradients = gradients, .retainGraph = retainGraph}, /*last=*/false);
}

/// False when something is no plain tensor.
bool unpack(const py::tuple &objects, std::vector<at::Tensor> &tensors) {
  for (py::handle object : objects) {
    if (!THPVariable_CheckExact(object.ptr()))
      return false;
    tensors.push_back(THPVariable_Unpack(object.ptr()));
  }
  return true;
}

/// What PyTorch's engine is about to be asked. As `backward`, with a tuple in place of True where gradients are returned.
py::object engine(const py::tuple &roots, const py::tuple &gradients, bool retainGraph, const py::tuple &inputs,
                  bool mayMiss, bool accumulates) {
  std::vector<at::Tensor> rootTensors, gradientTensors, inputTensors;
  if (std::exchange(tried, Tried::No) == Tried::All || (inputs.empty() && !accumulates) ||
      roots.size() != gradients.size() || !unpack(roots, rootTensors) || !unpack(gradients, gradientTensors) ||
      !unpack(inputs, inputTensors))
    return py::none();
  return answer({rootTensors, gradientTensors, inputTensors, retainGraph, accumulates, mayMiss}, /*last=*/true);
}

/// `results`: what the engine returned.
void backwardRan(const Watched &watched, const py::object &results) {
  std::vector<at::Tensor> tensors;
  if (py::isinstance<py::tuple>(results))
    for (py::handle result : results)
      tensors.push_back(tensorOf(py::reinterpret_borrow<py::object>(result)));
  frontend::finishBackward(*watched.learner, tensors);
}

std::vector<at::Tensor> tensorsIn(const py::object &objects) {
  std::vector<at::Tensor> tensors;
  for (py::handle object : objects)
    if (THPVariable_Check(object.ptr()))
      tensors.push_back(THPVariable_Unpack(object.ptr()));
  return tensors;
}

/// A backward from `roots`, for some `inputs` or for all leaves, is going to run operation by operation. Returns what `endWhole` takes.
graph::Whole beginWhole(const py::object &roots, const py::object &inputs, bool accumulates) {
  if (!frontend::currentSession() ||
      tried == Tried::HasHooks) // hooked: the engine's patch will try again, on CallNodes
    return frontend::currentWhole();
  return frontend::enterWhole([&] {
    std::vector<at::Tensor> rootTensors = tensorsIn(roots), inputTensors = tensorsIn(inputs);
    frontend::showHistory(rootTensors);
    return frontend::wholeOfBackward({rootTensors, {}, inputTensors, false, accumulates});
  });
}

/// The Python object of the eager node behind a CallNode's; null when there is none.
py::object eagerObject(PyObject *self) {
  auto *call =
      dynamic_cast<frontend::CallNode *>(reinterpret_cast<torch::autograd::THPCppFunction *>(self)->cdata.get());
  if (call && call->materialized())
    for (uint32_t i = 0; i < call->num_outputs(); ++i)
      if (call->eagerNode(i))
        return py::reinterpret_steal<py::object>(torch::autograd::functionToPyObject(call->eagerNode(i)));
  return {};
}

/// Attributes of a CallNode's Python object are those of eager's node. Only a tensor's hooks stay here: what `retain_grad` keeps comes
/// after them.
PyObject *nodeAttribute(PyObject *self, PyObject *name) {
  const char *text = PyUnicode_AsUTF8(name);
  bool own = !text || std::string_view(text).starts_with("__") || std::string_view(text) == "_register_hook_dict";
  py::object eager = own ? py::object() : eagerObject(self);
  return eager ? PyObject_GetAttr(eager.ptr(), name) : PyObject_GenericGetAttr(self, name);
}

PyObject *callNode(PyObject *self, PyObject *args, PyObject *kwargs) {
  py::object eager = eagerObject(self);
  if (eager)
    return PyObject_Call(eager.ptr(), args, kwargs);
  PyErr_SetString(PyExc_RuntimeError, "terra: this node has been released");
  return nullptr;
}

/// A subclass of PyTorch's class for C++ nodes, with the name of eager's node. One a name, never freed.
PyTypeObject *nodeType(PyTypeObject *base, const std::string &name) {
  static auto &types = *new std::map<std::string, PyTypeObject *>();
  PyTypeObject *&type = types[name];
  if (!type) {
    PyType_Slot slots[] = {{Py_tp_getattro, reinterpret_cast<void *>(&nodeAttribute)},
                           {Py_tp_call, reinterpret_cast<void *>(&callNode)},
                           {0, nullptr}};
    PyType_Spec spec = {(new std::string("torch.autograd." + name))->c_str(), 0, 0, Py_TPFLAGS_DEFAULT, slots};
    py::object bases = py::make_tuple(py::handle(reinterpret_cast<PyObject *>(base)));
    unsigned long flags = std::exchange(base->tp_flags, base->tp_flags | Py_TPFLAGS_BASETYPE);
    type = reinterpret_cast<PyTypeObject *>(PyType_FromSpecWithBases(&spec, bases.ptr()));
    base->tp_flags = flags;
    py::str module("builtins"); // as PyTorch's own
    if (!type || PyObject_SetAttrString(reinterpret_cast<PyObject *>(type), "__module__", module.ptr()) != 0)
      throw py::error_already_set();
    // PyTorch accepts as nodes what is registered. The tag is nobody's type: CallNodes keep the default class until they are shown.
    struct Tag {};
    torch::autograd::registerCppFunction(typeid(Tag), type);
    py::module_::import("torch.autograd.graph")
        .attr("Node")
        .attr("register")(py::handle(reinterpret_cast<PyObject *>(type)));
  }
  return type;
}

/// The program looks at the history behind these nodes. PyTorch keeps a node's Python object as long as the node.
void show(c10::ArrayRef<torch::autograd::Node *> nodes) {
  std::vector<py::object> shown;
  for (frontend::CallNode *call : frontend::materializeFrom(nodes)) {
    shown.push_back(py::reinterpret_steal<py::object>(torch::autograd::functionToPyObject(call->getptr())));
    PyTypeObject *type = Py_TYPE(shown.back().ptr());
    if (type->tp_getattro != &nodeAttribute) {
      PyTypeObject *named = nodeType(type, call->name());
      Py_INCREF(named);
      Py_SET_TYPE(shown.back().ptr(), named);
    }
  }
}

/// `tensor.grad_fn` as eager has it. A custom Function is what it is in eager; `next_functions` shows what is behind it.
py::object gradFn(const py::object &tensor) {
  frontend::NodePtr node = THPVariable_Unpack(tensor.ptr()).grad_fn();
  if (!node)
    return py::none();
  if (!frontend::isPythonNode(*node))
    show({node.get()});
  return py::reinterpret_steal<py::object>(torch::autograd::functionToPyObject(node));
}

/// Held weakly by its object before 2.13.
template <typename Function> frontend::NodePtr nodeOf(Function &function) {
  if constexpr (requires { function.cdata.lock(); })
    return function.cdata.lock();
  else
    return function.cdata;
}

/// The program looks behind the node of a custom Function.
void showBehind(const py::object &function) {
  if (!THPFunction_Check(function.ptr()))
    return;
  if (frontend::NodePtr node = nodeOf(*reinterpret_cast<THPFunction *>(function.ptr())))
    show({node.get()});
}

/// What `torch._C._will_engine_execute_node` has to say of a backward in pieces; None: it knows.
py::object willRun(const py::object &object) {
  frontend::NodePtr node;
  if (THPFunction_Check(object.ptr()))
    node = nodeOf(*reinterpret_cast<THPFunction *>(object.ptr()));
  else if (torch::autograd::THPCppFunction_Check(object.ptr()))
    node = reinterpret_cast<torch::autograd::THPCppFunction *>(object.ptr())->cdata;
  std::optional<bool> runs = node ? frontend::runsInPieces(*node) : std::nullopt;
  return runs ? py::object(py::bool_(*runs)) : py::none();
}

/// The engine is about to run. Returns what `endEngine` takes. A root may be a GradientEdge.
bool beginEngine(const py::object &roots) {
  frontend::showHistory(tensorsIn(roots));
  for (py::handle root : roots)
    if (!THPVariable_Check(root.ptr()) && py::hasattr(root, "node"))
      showBehind(root.attr("node"));
  return frontend::excludeAbove(true);
}

} // namespace

void bindAutograd(py::module_ &module) {
  frontend::setInterpreterLock(
      {[] { return int(PyGILState_Ensure()); }, [](int state) { PyGILState_Release(PyGILState_STATE(state)); }});
  py::class_<Watched>(module, "WatchedBackward");
  module.def("backward", &backward);
  module.def("engine", &engine);
  module.def("backward_ran", &backwardRan);
  module.def("begin_engine", &beginEngine);
  module.def("end_engine", [](bool before) { frontend::excludeAbove(before); });
  module.def("begin_whole", &beginWhole);
  module.def("end_whole", &frontend::leaveWhole);
  module.def("grad_fn", &gradFn);
  module.def("show_behind", &showBehind);
  module.def("will_run", &willRun);
  module.def("note_saved_tensor_hooks", &frontend::noteSavedTensorHooks);
}

} // namespace terra::python
