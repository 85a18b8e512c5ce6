"""`terra.dump`: save what a function has learned, for `terra-dump`."""

from __future__ import annotations

import json
import os
from typing import Any


def dump(fn: Any, path: str | os.PathLike[str]) -> None:
    """Write the TraceGraph and the segments of a decorated function to `path` (JSON)."""
    from terra._function import TerraFunction

    if not isinstance(fn, TerraFunction):
        raise TypeError(f"terra.dump needs a function decorated with terra.function, got {type(fn).__name__}")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"version": 1, "graph": fn._session.graph_text(), "dot": fn._session.graph_dot()}, file)
