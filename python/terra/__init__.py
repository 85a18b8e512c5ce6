"""Terra runs an imperative PyTorch program and a compiled graph of its tensor work at the same time."""

from __future__ import annotations

import torch as _torch  # loads PyTorch's libraries before the extension module needs them

from terra import _versions

_versions.check()

from terra import _C, _autograd, _module, _optimizers, _patches, _process  # noqa: E402
from terra._dump import dump  # noqa: E402
from terra._explain import explain  # noqa: E402
from terra._function import TerraFunction, function  # noqa: E402

__version__ = _versions.VERSION
__all__ = ["TerraFunction", "dump", "explain", "function", "synchronize"]


def synchronize() -> None:
    """Wait until all queued graph work has been executed.

    Raises the error of a region whose queued work failed, if nobody has seen it yet.
    """
    _C.synchronize()


_patches.install()
_autograd.install()
_optimizers.install()
_module.install()
_process.install()
del _torch
