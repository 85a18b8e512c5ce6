"""The versions of PyTorch that this build works with."""

from __future__ import annotations

import torch

try:
    from terra import _build

    VERSION, BUILT_FOR = _build.version, _build.torch_version
except ImportError:  # a source tree that was never built
    VERSION, BUILT_FOR = "0.1.0", None

OLDEST, NEWEST = (2, 11), (2, 14)


def _minor(version: str) -> tuple[int, int]:
    major, minor = version.split("+")[0].split(".")[:2]
    return int(major), int(minor)


def check() -> None:
    """Raise ImportError when the installed PyTorch is not the one that the extension module was compiled for."""
    installed = _minor(torch.__version__)
    if not OLDEST <= installed <= NEWEST:
        raise ImportError(
            f"terra supports PyTorch 2.{OLDEST[1]} to 2.{NEWEST[1]}, but {torch.__version__} is installed"
        )
    if BUILT_FOR is None:
        raise ImportError("terra was not built: run `pip install --no-build-isolation .` or `make build`")
    if _minor(BUILT_FOR) != installed:
        raise ImportError(
            f"terra was built for PyTorch {BUILT_FOR}, but {torch.__version__} is installed: "
            "build it again with `pip install --no-build-isolation .`"
        )
