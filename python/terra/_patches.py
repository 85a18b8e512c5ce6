"""Reads of tensor memory that do not pass PyTorch's dispatcher wait for the graph here."""

from __future__ import annotations

import functools
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.utils.dlpack

from terra import _C

# Look at the memory, and are done with it when they return.
_READS = (
    "tolist",
    "__reduce_ex__",
    "__deepcopy__",
    "share_memory_",
    "is_shared",
    "_typed_storage",
    "storage",
    "__repr__",
)
# Hand the memory out.
_EXPOSES = (
    "numpy",
    "__array__",
    "__dlpack__",
    "data_ptr",
    "const_data_ptr",
    "untyped_storage",
    "__cuda_array_interface__",
)
# Functions that read the memory of tensors among their arguments before any operation is dispatched.
_READERS = (
    (torch, ("tensor", "as_tensor", "asarray", "tensor_split", "ctc_loss", "to_dlpack")),
    (torch.Tensor, ("tensor_split", "new_tensor")),
    (torch._VF, ("_pad_packed_sequence", "_pack_padded_sequence")),
    (torch._C, ("_to_dlpack", "_to_dlpack_versioned")),
    (torch.utils.dlpack, ("to_dlpack",)),
)
# The same, and they read what they compute from them.
_REAL = ("sparse_coo_tensor",)
_WHOLE_NUMBERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
# Settings of the whole process that decide what queued work computes.
_SETTINGS = (
    "_set_default_dtype",
    "_set_default_tensor_type",
    "_set_deterministic_algorithms",
    "_set_deterministic_fill_uninitialized_memory",
    "_set_mkldnn_enabled",
    "_set_mkldnn_deterministic",
    "_set_onednn_allow_tf32",
    "_set_float32_matmul_precision",
    "_set_fp32_precision_setter",
    "_set_nnpack_enabled",
    "_set_sdp_use_flash",
    "_set_sdp_use_math",
    "_set_sdp_use_mem_efficient",
    "set_flush_denormal",
)
_GENERATOR = ("manual_seed", "seed", "initial_seed", "get_state", "set_state", "clone_state")


def _words(code: types.CodeType) -> set[str]:
    words = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            words |= _words(constant)
        elif isinstance(constant, (int, float)) and not isinstance(constant, bool):
            words.add(str(constant))
    return words


def known(function: Any, words: str) -> bool:
    """Whether this is PyTorch's function, in PyTorch's decorators only, as the caller knows it."""
    while isinstance(function, types.FunctionType) and function.__code__.co_filename.startswith(torch.__path__[0]):
        if not hasattr(function, "__wrapped__"):
            return _words(function.__code__) == set(words.split())
        function = function.__wrapped__
    return False


def _waiting(original: Callable[..., Any], exposes: bool) -> Callable[..., Any]:
    @functools.wraps(original)
    def read(self: Any, *args: Any, **kwargs: Any) -> Any:
        _C.read(self, exposes)
        _C.begin_real()  # what the method calls inside is not the program's
        try:
            return original(self, *args, **kwargs)
        finally:
            _C.end_real()

    return read


def _read_all(values: Any, exposes: bool) -> None:
    for value in values:
        if isinstance(value, torch.Tensor):
            _C.read(value, exposes)
        elif isinstance(value, (list, tuple)):
            _read_all(value, exposes)


def _reading_arguments(original: Callable[..., Any], exposes: bool) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():  # Dynamo looks through the rest
            _read_all(args, exposes)
            _read_all(kwargs.values(), exposes)
        return original(*args, **kwargs)

    return call


def _running_for_real(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return original(*args, **kwargs)
        _C.begin_real()
        try:
            return original(*args, **kwargs)
        finally:
            _C.end_real()

    return call


def replace(module: Any, name: str, original: Callable[..., Any], patched: Callable[..., Any]) -> None:
    """Puts `patched` in the place of a function of PyTorch's, also for those who know functions by their identity."""
    setattr(module, name, patched)
    if operator := torch.jit._builtins._find_builtin(original):  # a builtin of TorchScript's
        torch.jit._builtins._register_builtin(patched, operator)
    if module is torch:
        patched.__qualname__ = name  # pickled by name
        functions = torch._C._VariableFunctionsClass
        if name in vars(functions):  # what `__torch_function__` is given
            _C.replace_method(functions, name, staticmethod(patched))


def _forget_originals() -> None:
    """Sets and tables of functions that PyTorch makes once, and may have made already."""
    caches = {
        "torch.utils._device": ("_device_constructors",),
        "torch.overrides": ("get_ignored_functions", "get_testing_overrides", "_get_overridable_functions"),
    }
    for module, names in caches.items():
        for name in names:
            cached = getattr(sys.modules.get(module), name, None)
            if clear := getattr(cached, "cache_clear", None):
                clear()


def _with_plain_lengths(original: Callable[..., Any]) -> Callable[..., Any]:
    """`ctc_loss` reads the lengths through contiguous copies, which it makes itself: here they are made before it."""

    def plain(value: Any) -> Any:
        whole = isinstance(value, torch.Tensor) and value.dtype in _WHOLE_NUMBERS
        return value.to("cpu", torch.long).contiguous() if whole else value

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            args = (*args[:2], *map(plain, args[2:4]), *args[4:])
            kwargs = {key: plain(value) if key.endswith("_lengths") else value for key, value in kwargs.items()}
        return original(*args, **kwargs)

    return call


def _patch_readers() -> None:
    for name in _REAL:
        original = getattr(torch, name)
        replace(torch, name, original, _reading_arguments(_running_for_real(original), exposes=False))
    for module, names in _READERS:
        for name in names:
            if callable(original := getattr(module, name, None)):
                reading = _reading_arguments(original, exposes="dlpack" in name)
                replace(module, name, original, _with_plain_lengths(reading) if name == "ctc_loss" else reading)


def _drawing(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def access(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is torch.default_generator:
            _C.read_generator()
        _read_all(args, exposes=False)  # a state to set
        return original(self, *args, **kwargs)

    return access


def _patch_tensor() -> None:
    for names, exposes in ((_READS, False), (_EXPOSES, True)):
        for name in names:
            original = getattr(torch.Tensor, name, None)
            if callable(original):
                patched = _waiting(original, exposes)
                if patched.__module__ == __name__:  # methods written in C have none
                    patched.__module__, patched.__qualname__ = "torch", f"Tensor.{name}"
                setattr(torch.Tensor, name, patched)


def _patch_generator() -> None:
    """Queued draws come first. `torch.manual_seed` and its like end here too."""
    for name in _GENERATOR:
        if original := getattr(torch.Generator, name, None):
            _C.replace_method(torch.Generator, name, _drawing(original))


def _setting(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def change(*args: Any, **kwargs: Any) -> Any:
        _C.barrier()
        return original(*args, **kwargs)

    return change


def _patch_settings() -> None:
    for name in _SETTINGS:
        for module in (torch._C, torch):
            if callable(original := getattr(module, name, None)):
                setattr(module, name, _setting(original))


def _patch_threads() -> None:
    original = threading.Thread.run

    @functools.wraps(original)
    def run(self: threading.Thread) -> None:
        _C.listen()
        original(self)

    threading.Thread.run = run  # type: ignore[method-assign]


def install() -> None:
    _patch_tensor()
    _patch_readers()
    _patch_generator()
    _patch_settings()
    _patch_threads()
    _forget_originals()
