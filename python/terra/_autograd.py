"""Backwards that Terra knows are one event; all others go through PyTorch's engine."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.autograd.function
import torch.autograd.graph

from terra import _C
from terra._patches import replace


def _engine(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def run(t_outputs: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return original(t_outputs, *args, **kwargs)
        watched = _recognise(t_outputs, *args, **kwargs)
        if watched is True:
            return None
        if isinstance(watched, tuple):
            return watched
        inputs = args[3] if len(args) > 3 else kwargs.get("inputs", ())
        whole = _C.begin_whole(t_outputs, inputs, bool(kwargs.get("accumulate_grad")))
        before = _C.begin_engine(t_outputs)
        try:
            results = original(t_outputs, *args, **kwargs)
        except BaseException:
            watched = None  # whoever keeps the traceback would keep it at work
            raise
        finally:
            _C.end_engine(before)
            _C.end_whole(whole)
        if watched is not None:
            _C.backward_ran(watched, results)
        return results

    return run


def _recognise(
    outputs: Any,
    gradients: Any = None,
    retain_graph: Any = None,
    create_graph: Any = True,
    inputs: Any = (),
    allow_unreachable: Any = False,
    accumulate_grad: Any = False,
    **others: Any,
) -> Any:
    """What `_C.engine` makes of it: None where it has to run and nobody watches."""
    usual = all(isinstance(tensors, tuple) for tensors in (outputs, gradients, inputs))
    if create_graph or others or not usual or _watched_by_modes():
        return None
    return _C.engine(outputs, gradients, bool(retain_graph), inputs, bool(allow_unreachable), bool(accumulate_grad))


def _watched_by_modes() -> bool:
    """Somebody wants to see every function that is called inside."""
    return torch._C._len_torch_function_stack() > 0


def _step_by_step(watched: Any, root: Any, run: Callable[[], Any]) -> None:
    """A backward that was not recognised. The ones that it starts from are part of it."""
    whole = _C.begin_whole((root,), (), True)
    try:
        run()
    finally:
        _C.end_whole(whole)
    if watched is not None:
        _C.backward_ran(watched, None)


def _tensor_backward(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def backward(
        self: Any, gradient: Any = None, retain_graph: Any = None, create_graph: Any = False, inputs: Any = None
    ) -> None:
        if torch.compiler.is_compiling() or create_graph or inputs is not None or _watched_by_modes():
            return original(self, gradient, retain_graph, create_graph, inputs)
        watched = _C.backward(self, gradient, bool(retain_graph))
        if watched is not True:
            _step_by_step(watched, self, lambda: original(self, gradient, retain_graph, create_graph, inputs))
        return None

    return backward


def _module_backward(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def backward(
        tensors: Any,
        grad_tensors: Any = None,
        retain_graph: Any = None,
        create_graph: Any = False,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if torch.compiler.is_compiling():
            return original(tensors, grad_tensors, retain_graph, create_graph, *args, **kwargs)
        simple = isinstance(tensors, torch.Tensor) and isinstance(grad_tensors, (torch.Tensor, type(None)))
        unusual = create_graph or args or any(value is not None for value in kwargs.values())
        if not simple or unusual or _watched_by_modes():
            return original(tensors, grad_tensors, retain_graph, create_graph, *args, **kwargs)
        watched = _C.backward(tensors, grad_tensors, bool(retain_graph))
        if watched is not True:
            _step_by_step(watched, tensors, lambda: original(tensors, grad_tensors, retain_graph, create_graph))
        return None

    return backward


def _register_hook(original: Callable[..., Any]) -> Callable[..., Any]:
    node = torch._C.TensorBase.grad_fn.__get__

    @functools.wraps(original)
    def register_hook(self: Any, hook: Any) -> Any:
        # What PyTorch does for the first hook of a result, but without a look at `grad_fn`: that would turn the whole
        # history into eager's, and the hook belongs to the node that is there.
        plain = type(self) is torch.Tensor and not torch.compiler.is_compiling() and not _watched_by_modes()
        if plain and self.requires_grad and not self.is_leaf and self._backward_hooks is None:
            self._backward_hooks = collections.OrderedDict()
            node(self)._register_hook_dict(self)
        return original(self, hook)

    return register_hook


def _next_functions(original: Any) -> property:
    def next_functions(self: Any) -> Any:
        _C.show_behind(self)
        return original.__get__(self)

    return property(next_functions, doc=original.__doc__)


def _register_saved_hooks(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def register_hooks(self: Any, *args: Any, **kwargs: Any) -> Any:
        _C.note_saved_tensor_hooks()
        return original(self, *args, **kwargs)

    return register_hooks


def _will_execute(original: Callable[..., bool]) -> Callable[..., bool]:
    @functools.wraps(original)
    def will_execute(node: Any) -> bool:
        answer = _C.will_run(node)
        return original(node) if answer is None else answer

    return will_execute


def install() -> None:
    engine = _engine(torch.autograd.graph._engine_run_backward)
    torch.autograd.graph._engine_run_backward = engine
    torch.autograd._engine_run_backward = engine  # imported by name
    replace(torch.autograd, "backward", torch.autograd.backward, _module_backward(torch.autograd.backward))
    torch.Tensor.backward = _tensor_backward(torch.Tensor.backward)  # type: ignore[method-assign]
    torch.Tensor.register_hook = _register_hook(torch.Tensor.register_hook)  # type: ignore[method-assign]
    base = torch._C.TensorBase.grad_fn
    torch.Tensor.grad_fn = property(_C.grad_fn, base.__set__, base.__delete__, base.__doc__)  # type: ignore[assignment]
    torch._C._will_engine_execute_node = _will_execute(torch._C._will_engine_execute_node)
    saved = torch._C._autograd.SavedTensor
    saved.register_hooks = _register_saved_hooks(saved.register_hooks)  # type: ignore[method-assign]
    function = torch.autograd.function.BackwardCFunction
    function.next_functions = _next_functions(torch._C._FunctionBase.next_functions)  # type: ignore[attr-defined]
