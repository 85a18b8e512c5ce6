"""`torch.optim.Adafactor` without looks at values in the middle of its step, inside regions.

PyTorch's code asks for the norms of each parameter and of its update as Python numbers. Here they stay tensors, and
operators of Terra's own compute with them what PyTorch's code computes in Python. Everything else is PyTorch's code,
operation by operation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import _adafactor

from terra import _C
from terra._patches import known

# Names and numbers in PyTorch's functions as this file knows them. Another version that does more is left alone.
_SINGLE = """AssertionError torch jit is_scripting isinstance float type _to_scalar enumerate finfo dtype eps item min
    max norm numel mul_ dim square_ div_ size lerp_ mean clamp_ clone rsqrt_ add_ -1 -2 0 0.5 1 1.0 2"""
_MULTI = """len AssertionError _to_scalar _group_tensors_by_device_dtype_and_is_multidim items cast list Tensor dtype
    torch finfo eps _foreach_neg TYPE_CHECKING compiler is_compiling is_cpu _foreach_add_ tensor append item min max
    zip norm numel _foreach_mul_ size _foreach_div_ _foreach_lerp_ mean _foreach_clamp_min_ _foreach_mul clone
    _foreach_rsqrt_ -1 -2 0 0.5 1 1.0 2"""


def _plain(params: Sequence[Any], grads: Sequence[Any], row_vars: Sequence[Any], lr: Any) -> bool:
    """Whether PyTorch's code meets no error, and the operators do what it does: it divides by sizes."""
    if torch.compiler.is_compiling() or not _C.in_region():
        return False
    if isinstance(lr, torch.Tensor) and (
        lr.dim() or lr.requires_grad or lr.dtype not in (torch.float32, torch.float64)
    ):
        return False
    plain = all(
        type(t) in (torch.Tensor, torch.nn.Parameter) and t.is_cpu and t.is_floating_point() and t.numel() > 0
        for t in (*params, *grads)
    )
    return plain and all((g.dim() > 1) == (r is not None) for g, r in zip(grads, row_vars, strict=True))


def _single_step(
    param: Any, grad: Any, row_var: Any, col_var: Any, variance: Any, step: Any, lr: Any, eps1: float, options: Any
) -> None:
    step += 1
    count = step.item()
    weight = count ** options["beta2_decay"]
    rho = min(lr, 1 / (count**0.5))
    norm = param.norm(2)
    if options["weight_decay"] != 0:
        param.mul_(1 - lr * options["weight_decay"])
    if grad.dim() > 1:
        row_mean = torch.norm(grad, dim=-1, keepdim=True).square_().div_(grad.size(-1))
        row_var.lerp_(row_mean, weight)
        col_mean = torch.norm(grad, dim=-2, keepdim=True).square_().div_(grad.size(-2))
        col_var.lerp_(col_mean, weight)
        estimate = row_var @ col_var
        estimate.div_(row_var.mean(dim=-2, keepdim=True).clamp_(min=eps1))
    else:
        variance.lerp_(grad * grad, weight)
        estimate = variance.clone()
    update = estimate.clamp_(min=eps1 * eps1).rsqrt_()
    update.mul_(grad)
    single = isinstance(rho, torch.Tensor) and rho.dtype == torch.float32
    torch.ops.terra.adafactor_add_(
        param, update, norm, update.norm(2), float(rho), options["eps2"], options["d"], single
    )


def _single(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def single(params: Any, grads: Any, row_vars: Any, col_vars: Any, variances: Any, steps: Any, *args: Any,
               **options: Any) -> None:  # fmt: skip
        lr, eps1 = options["lr"], options["eps1"]
        if _scaled(args, options) or not _plain(params, grads, row_vars, lr):
            return original(params, grads, row_vars, col_vars, variances, steps, *args, **options)
        for param, grad, *state in zip(params, grads, row_vars, col_vars, variances, steps, strict=True):
            if eps1 is None:
                eps1 = torch.finfo(param.dtype).eps
            _single_step(param, -grad if options["maximize"] else grad, *state, lr, eps1, options)
        return None

    return single


def _scaled(args: Sequence[Any], options: Any) -> bool:
    return any(value is not None for value in (*args, options.get("grad_scale"), options.get("found_inf")))


def _factored(grads: Any, row_vars: Any, col_vars: Any, weights: Any, eps1: float) -> Any:
    row_means = [torch.norm(grad, dim=-1, keepdim=True) for grad in grads]
    torch._foreach_mul_(row_means, row_means)
    torch._foreach_div_(row_means, [grad.size(-1) for grad in grads])
    torch._foreach_lerp_(row_vars, row_means, weights)
    del row_means
    col_means = [torch.norm(grad, dim=-2, keepdim=True) for grad in grads]
    torch._foreach_mul_(col_means, col_means)
    torch._foreach_div_(col_means, [grad.size(-2) for grad in grads])
    torch._foreach_lerp_(col_vars, col_means, weights)
    del col_means
    estimates = [row_var @ col_var for row_var, col_var in zip(row_vars, col_vars, strict=True)]
    row_var_means = [row_var.mean(dim=-2, keepdim=True) for row_var in row_vars]
    torch._foreach_clamp_min_(row_var_means, eps1)
    torch._foreach_div_(estimates, row_var_means)
    return estimates


def _multi_step(group: Any, factored: bool, lr: float, eps1: float, options: Any) -> None:
    params, grads, row_vars, col_vars, variances, steps = group
    if options["maximize"]:
        grads = torch._foreach_neg(grads)
    torch._foreach_add_(steps, torch.tensor(1.0, device="cpu"), alpha=1.0)
    weights = [step.item() ** options["beta2_decay"] for step in steps]
    rhos = [min(lr, 1 / (step.item() ** 0.5)) for step in steps]
    norms = [param.norm(2) for param in params]
    if options["weight_decay"] != 0:
        torch._foreach_mul_(params, 1 - lr * options["weight_decay"])
    if factored:
        updates = _factored(grads, row_vars, col_vars, weights, eps1)
    else:
        squares = torch._foreach_mul(grads, grads)
        torch._foreach_lerp_(variances, squares, weights)
        del squares
        updates = [variance.clone() for variance in variances]
    torch._foreach_clamp_min_(updates, eps1 * eps1)
    torch._foreach_rsqrt_(updates)
    torch._foreach_mul_(updates, grads)
    update_norms = [update.norm(2) for update in updates]
    torch.ops.terra.adafactor_scale_(updates, norms, update_norms, rhos, options["eps2"], options["d"])
    torch._foreach_add_(params, updates)


def _multi(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def multi(params: Any, grads: Any, row_vars: Any, col_vars: Any, variances: Any, steps: Any, *args: Any,
              **options: Any) -> None:  # fmt: skip
        lr, eps1 = options["lr"], options["eps1"]
        usual = not isinstance(lr, torch.Tensor) and not _scaled(args, options)
        if not params or not usual or not _plain(params, grads, row_vars, lr):
            return original(params, grads, row_vars, col_vars, variances, steps, *args, **options)
        groups = _adafactor._group_tensors_by_device_dtype_and_is_multidim(
            [params, grads, row_vars, col_vars, variances, steps]
        )
        for (_, dtype, factored), group in groups.items():
            if eps1 is None:
                eps1 = torch.finfo(dtype or group[0][0].dtype).eps
            _multi_step(group, factored, lr, eps1, options)
        return None

    return multi


def install() -> bool:
    """Whether PyTorch's code is the one that is known here."""
    single, multi = _adafactor._single_tensor_adafactor, _adafactor._multi_tensor_adafactor
    if not (known(single, _SINGLE) and known(multi, _MULTI)):
        return False
    _adafactor._single_tensor_adafactor = _single(single)
    _adafactor._multi_tensor_adafactor = _multi(multi)
    return True
