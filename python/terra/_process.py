"""What happens to queued work when the process forks or ends."""

from __future__ import annotations

import atexit
import os
import sys

from terra import _C


def _at_exit() -> None:
    _C.shutdown()
    for op, location, text in _C.undelivered_errors():
        where = f" at {location}" if location else ""
        print(f"terra: {op}{where} failed, and nothing waited for its result: {text}", file=sys.stderr)


def install() -> None:
    atexit.register(_at_exit)
    os.register_at_fork(before=_C.before_fork, after_in_child=_C.forget)
