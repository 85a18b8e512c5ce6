"""Reads of tensor memory that do not pass PyTorch's dispatcher wait for the graph here."""

from __future__ import annotations

import functools
import threading
from typing import Any, Callable

import torch

from terra import _C

# Look at the memory, and are done with it when they return.
_READS = ("tolist", "__reduce_ex__", "__deepcopy__", "share_memory_", "is_shared", "_typed_storage", "storage", "__repr__")
# Hand the memory out.
_EXPOSES = ("numpy", "__array__", "__dlpack__", "data_ptr", "untyped_storage", "__cuda_array_interface__")
_GENERATOR = ("manual_seed", "seed", "initial_seed", "get_state", "set_state", "clone_state")


def _waiting(original: Callable[..., Any], exposes: bool) -> Callable[..., Any]:
    @functools.wraps(original)
    def read(self: Any, *args: Any, **kwargs: Any) -> Any:
        _C.read(self, exposes)
        return original(self, *args, **kwargs)

    return read


def _drawing(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def access(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is torch.default_generator:
            _C.read_generator()
        return original(self, *args, **kwargs)

    return access


def _patch_tensor() -> None:
    for names, exposes in ((_READS, False), (_EXPOSES, True)):
        for name in names:
            original = getattr(torch.Tensor, name, None)
            if callable(original):
                setattr(torch.Tensor, name, _waiting(original, exposes))


def _patch_generator() -> None:
    """Queued draws come first. `torch.manual_seed` and its like end here too."""
    for name in _GENERATOR:
        if original := getattr(torch.Generator, name, None):
            _C.replace_method(torch.Generator, name, _drawing(original))


def _patch_threads() -> None:
    original = threading.Thread.run

    @functools.wraps(original)
    def run(self: threading.Thread) -> None:
        _C.listen()
        original(self)

    threading.Thread.run = run  # type: ignore[method-assign]


def install() -> None:
    _patch_tensor()
    _patch_generator()
    _patch_threads()
