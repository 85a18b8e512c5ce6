"""The parts of PyTorch's own Python that run between tensor calls, served by C++ inside regions.

`nn.Module.__call__` and `nn.Module.__getattr__`, `zero_grad` and gradient clipping (see `_gradients.py`) are a good
part of what is left of a training step once its tensor calls are only recognised. Each keeps its meaning: the plain
case is served, everything else (hooks, overridden methods, tracing, profilers, modes) runs PyTorch's own code.
`TERRA_FAST_MODULES` says where: `0` nowhere, `1` inside regions (the default), `always` also outside of them.
"""

from __future__ import annotations

import os
import types
from typing import Any

import torch

from terra import _C, _gradients

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
    if _known_module_calls(torch.nn.Module.__dict__):
        _C.install_module_calls(torch.nn.Module)
    _gradients.install()
    serve(_PLACES[text])
