"""Steps of PyTorch's optimizers that Terra knows are one event; all others run operation by operation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import optimizer as _base

from terra import _C, _adafactor

# By exact class: a subclass may do anything.
_KINDS: dict[type, str] = {
    torch.optim.SGD: "SGD",
    torch.optim.Adam: "Adam",
    torch.optim.AdamW: "Adam",
    torch.optim.RMSprop: "RMSprop",
    torch.optim.Adadelta: "Adadelta",
    torch.optim.Adagrad: "Adagrad",
    torch.optim.Adamax: "Adamax",
    torch.optim.NAdam: "NAdam",
    torch.optim.RAdam: "RAdam",
    torch.optim.Rprop: "Rprop",
    torch.optim.ASGD: "ASGD",
}
if hasattr(torch.optim, "Muon"):  # since 2.9
    _KINDS[torch.optim.Muon] = "Muon"


def _plain(optimizer: Any) -> bool:
    """Nobody watches the step, and nothing scales it."""
    return not (
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _base._global_optimizer_pre_hooks
        or _base._global_optimizer_post_hooks
        or torch._C._len_torch_function_stack()
        or torch.autograd._profiler_enabled()
        or "grad_scale" in optimizer.__dict__
        or "found_inf" in optimizer.__dict__
    )


def _step(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return original(self, *args, **kwargs)
        kind = _KINDS.get(type(self))
        if kind is None or args or kwargs or not _C.in_region() or not _plain(self):
            return original(self, *args, **kwargs)
        watched = _C.optimizer_step(self, kind)
        if watched is True:
            return None
        before = _C.begin_step()
        try:
            result = original(self)
        finally:
            _C.end_step(before)
        if watched is not None:
            _C.optimizer_ran(watched)
        return result

    step.hooked = True  # type: ignore[attr-defined]
    return step


def install() -> None:
    if _adafactor.install():
        _KINDS[torch.optim.Adafactor] = "Adafactor"
    for kind in _KINDS:
        if "step" not in vars(kind):
            continue  # inherited from one that is patched
        original = kind.step
        if not getattr(original, "hooked", False):  # what PyTorch does when the first instance is made
            original = torch.optim.Optimizer.profile_hook_step(original)
        kind.step = _step(original)  # type: ignore[method-assign]
