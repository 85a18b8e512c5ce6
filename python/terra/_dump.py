"""`terra.dump`: save what a function has learned, for `terra-dump`."""

from __future__ import annotations

import os
from typing import Any


def dump(fn: Any, path: str | os.PathLike[str]) -> None:
    """Write what a decorated function has learned to `path`: its TraceGraph, its segments and what is known of them.

    `terra-dump PATH` prints it at each stage of compilation. The file holds no tensor data.

    Raises:
        TypeError: `fn` was not made by `terra.function`.
        OSError: `path` cannot be written.
    """
    from terra._function import TerraFunction

    if not isinstance(fn, TerraFunction):
        raise TypeError(f"terra.dump needs a function decorated with terra.function, got {type(fn).__name__}")
    name = getattr(fn, "__qualname__", None) or type(fn._fn).__qualname__
    text = fn._session.serialize(name)  # before the file is opened: an error leaves an older file as it was
    with open(path, "wb") as file:
        file.write(text)
