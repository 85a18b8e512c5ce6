"""The parts of PyTorch's own Python that run between tensor calls, served by C++ inside regions.

`nn.Module.__call__`, `nn.Module.__getattr__` and `zero_grad` are a third to a half of what is left of a training step
once its tensor calls are only recognised. Each keeps its meaning: the plain case is served, everything else (hooks,
overridden methods, tracing, profilers, modes) runs PyTorch's own code. `TERRA_FAST_MODULES` says where: `0` nowhere,
`1` inside regions (the default), `always` also outside of them.
"""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.autograd.profiler as profiler

from terra import _C

_PLACES = {"0": "never", "1": "regions", "always": "always"}

# What the functions of the supported versions mention, in order. Another version that does more is left alone.
_WRAPPED_CALL = ("_compiled_call_impl", "_call_impl")
_CALL = (
    "torch",
    "_C",
    "_get_tracing_state",
    "_slow_forward",
    "forward",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_global_backward_pre_hooks",
    "_global_backward_hooks",
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
)
_GETATTR = ("__dict__", "AttributeError", "type", "__name__")
_MEMBERS = ("_parameters", "_buffers", "_modules")
_OPTIMIZER_ZERO_GRAD = (
    "defaults",
    "get",
    "hasattr",
    "_patch_step_function",
    "defaultdict",
    "torch",
    "autograd",
    "profiler",
    "record_function",
    "_zero_grad_profile_name",
    "param_groups",
    "grad",
    "grad_fn",
    "detach_",
    "requires_grad_",
    "is_sparse",
    "zero_",
    "AssertionError",
    "device",
    "dtype",
    "append",
    "values",
    "_foreach_zero_",
)
_MODULE_ZERO_GRAD = (
    "getattr",
    "warnings",
    "warn",
    "parameters",
    "grad",
    "grad_fn",
    "detach_",
    "requires_grad_",
    "zero_",
)


def _mentions(function: Any, names: tuple[str, ...]) -> bool:
    return isinstance(function, types.FunctionType) and function.__code__.co_names == names


def _known_module_calls(own: Any) -> bool:
    call, lookup = own["_call_impl"], own["__getattr__"]
    if not (_mentions(own["_wrapped_call_impl"], _WRAPPED_CALL) and _mentions(lookup, _GETATTR)):
        return False
    strings = tuple(c for c in lookup.__code__.co_consts if isinstance(c, str) and c.startswith("_"))
    if strings != _MEMBERS or not isinstance(call, types.FunctionType):
        return False
    names = call.__code__.co_names
    # Behind the test for hooks nothing is of interest; a hook that the test did not mention would be.
    later = (n for n in names[len(_CALL) :] if not n.endswith(("_always_called", "_with_kwargs")))
    return names[: len(_CALL)] == _CALL and not any("hook" in n for n in later)


def _annotated() -> bool:
    """Whether a monitor outside of the profiler wants to know what runs."""
    monitor = getattr(profiler, "_cupti_monitor_module", None)
    return getattr(monitor, "_monitor_singleton", None) is not None


def _patch_optimizer() -> None:
    original = torch.optim.Optimizer.zero_grad
    if not _mentions(getattr(original, "__wrapped__", original), _OPTIMIZER_ZERO_GRAD):
        return

    @functools.wraps(original)
    def zero_grad(self: torch.optim.Optimizer, set_to_none: bool = True) -> None:
        if torch.compiler.is_compiling() or set_to_none is not True or _annotated() or not _C.clear_optimizer(self):
            original(self, set_to_none)

    torch.optim.Optimizer.zero_grad = zero_grad  # type: ignore[method-assign]


def _patch_module() -> None:
    original = torch.nn.Module.zero_grad
    if not _mentions(original, _MODULE_ZERO_GRAD):
        return
    module = torch.nn.Module

    @functools.wraps(original)
    def zero_grad(self: torch.nn.Module, set_to_none: bool = True) -> None:
        if torch.compiler.is_compiling() or set_to_none is not True or not _C.clear_module(self, module):
            original(self, set_to_none)

    torch.nn.Module.zero_grad = zero_grad  # type: ignore[method-assign]


def serve(where: str) -> None:
    """Where C++ serves these calls: "never", "regions" or "always"."""
    if where not in _PLACES.values():
        raise ValueError(f"{where!r} is not one of {', '.join(map(repr, _PLACES.values()))}")
    _C.serve_module_calls(where)


def install() -> None:
    text = os.environ.get("TERRA_FAST_MODULES", "1")
    if text not in _PLACES:
        raise ValueError(f"TERRA_FAST_MODULES is {text!r}; it must be one of {', '.join(_PLACES)}")
    if text == "0":
        return
    own: Callable[..., Any] | Any = torch.nn.Module.__dict__
    if _known_module_calls(own):
        _C.install_module_calls(torch.nn.Module)
    _patch_optimizer()
    _patch_module()
    serve(_PLACES[text])
