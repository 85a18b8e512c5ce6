"""`zero_grad` and gradient clipping with little Python, inside regions.

Each function serves the plain case (leaf parameters that are no subclasses, no mode or profiler that would see the
difference) and calls PyTorch's own for everything else. The operations on tensors are PyTorch's, in its order.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.autograd.profiler as profiler
from torch.nn.utils import clip_grad

from terra import _C
from terra._patches import known

Parameters = torch.Tensor | Iterable[torch.Tensor]

# Names and numbers in PyTorch's functions as this file knows them. Another version that does more is left alone.
_OPTIMIZER_ZERO_GRAD = """defaults get hasattr _patch_step_function defaultdict torch autograd profiler record_function
    _zero_grad_profile_name param_groups grad grad_fn detach_ requires_grad_ is_sparse zero_ AssertionError device dtype
    append values _foreach_zero_ list"""
_MODULE_ZERO_GRAD = "getattr warnings warn parameters grad grad_fn detach_ requires_grad_ zero_ 2"
_CLIP_NORM = """isinstance torch Tensor types GeneratorType list len warnings warn grad _get_total_norm
    _clip_grads_with_norm_ 0 3"""
_TOTAL_NORM = """isinstance torch Tensor list float len tensor device _group_tensors_by_device_and_dtype items
    _has_foreach_support _device_has_foreach_support extend _foreach_norm RuntimeError type linalg vector_norm stack to
    logical_or isnan isinf 0 0.0"""
_SCALE_BY_NORM = """isinstance torch Tensor grad float len _group_tensors_by_device_and_dtype clamp items
    _has_foreach_support _device_has_foreach_support _foreach_mul_ to RuntimeError type mul_ 0 1e-06 1.0"""
_CLIP_VALUE = """isinstance torch Tensor float grad _group_tensors_by_device_and_dtype items _has_foreach_support cast
    list _device_has_foreach_support _foreach_clamp_min_ _foreach_clamp_max_ RuntimeError type clamp_"""


def _annotated() -> bool:
    """Whether a monitor outside of the profiler wants to know what runs."""
    monitor = getattr(profiler, "_cupti_monitor_module", None)
    return getattr(monitor, "_monitor_singleton", None) is not None


def _patch_zero_grad() -> None:
    of_optimizer, of_module = torch.optim.Optimizer.zero_grad, torch.nn.Module.zero_grad
    module = torch.nn.Module

    @functools.wraps(of_optimizer)
    def optimizer_zero_grad(self: torch.optim.Optimizer, set_to_none: bool = True) -> None:
        if torch.compiler.is_compiling() or set_to_none is not True or _annotated() or not _C.clear_optimizer(self):
            of_optimizer(self, set_to_none)

    @functools.wraps(of_module)
    def module_zero_grad(self: torch.nn.Module, set_to_none: bool = True) -> None:
        if torch.compiler.is_compiling() or set_to_none is not True or not _C.clear_module(self, module):
            of_module(self, set_to_none)

    if known(of_optimizer, _OPTIMIZER_ZERO_GRAD):
        torch.optim.Optimizer.zero_grad = optimizer_zero_grad  # type: ignore[method-assign]
    if known(of_module, _MODULE_ZERO_GRAD):
        torch.nn.Module.zero_grad = module_zero_grad  # type: ignore[method-assign]


def _listed(parameters: Parameters) -> Parameters:
    """The same parameters, in a list where they can be told without running `model.parameters()`."""
    if (
        type(parameters) is types.GeneratorType
        and parameters.gi_code is torch.nn.Module.parameters.__code__
        and inspect.getgeneratorstate(parameters) == inspect.GEN_CREATED
    ):
        variables = parameters.gi_frame.f_locals
        found = _C.module_parameters(variables["self"], torch.nn.Module) if variables["recurse"] is True else None
        if found:
            parameters.close()
            return found
    return parameters


def _patch_clip_norm() -> None:
    original = clip_grad.clip_grad_norm_

    @functools.wraps(original)
    def clip_grad_norm_(
        parameters: Parameters,
        max_norm: float,
        norm_type: float = 2.0,
        error_if_nonfinite: bool = False,
        foreach: bool | None = None,
    ) -> torch.Tensor:
        if torch.compiler.is_compiling() or error_if_nonfinite or foreach is False:
            return original(parameters, max_norm, norm_type, error_if_nonfinite, foreach)
        parameters = _listed(parameters)
        gradients = _C.gradients(parameters)
        if not gradients:
            return original(parameters, max_norm, norm_type, error_if_nonfinite, foreach)
        norm_type = float(norm_type)
        with torch.no_grad():
            norms = torch._foreach_norm(gradients, norm_type)
            total = torch.linalg.vector_norm(torch.stack(norms), norm_type)
            coefficient = float(max_norm) / (total + 1e-6)
            torch._foreach_mul_(gradients, torch.clamp(coefficient, max=1.0))
        return total

    clip_grad.clip_grad_norm_ = torch.nn.utils.clip_grad_norm_ = clip_grad_norm_


def _patch_clip_value() -> None:
    original = clip_grad.clip_grad_value_

    @functools.wraps(original)
    def clip_grad_value_(parameters: Parameters, clip_value: float, foreach: bool | None = None) -> None:
        if torch.compiler.is_compiling() or foreach is False:
            return original(parameters, clip_value, foreach)
        parameters = _listed(parameters)
        gradients = _C.gradients(parameters)
        if not gradients:
            return original(parameters, clip_value, foreach)
        clip_value = float(clip_value)
        with torch.no_grad():
            torch._foreach_clamp_min_(gradients, -clip_value)
            torch._foreach_clamp_max_(gradients, clip_value)

    clip_grad.clip_grad_value_ = torch.nn.utils.clip_grad_value_ = clip_grad_value_


def install() -> None:
    _patch_zero_grad()
    parts: tuple[tuple[Callable[..., Any], str], ...] = (
        (clip_grad.clip_grad_norm_, _CLIP_NORM),
        (clip_grad._get_total_norm, _TOTAL_NORM),
        (clip_grad._clip_grads_with_norm_, _SCALE_BY_NORM),
    )
    if all(known(function, words) for function, words in parts):
        _patch_clip_norm()
    if known(clip_grad.clip_grad_value_, _CLIP_VALUE):
        _patch_clip_value()
