"""Runs a case with PyTorch's own `nn.Module` methods and with those served by C++, and compares."""

import torch
from snapshot import Tolerance, difference, freeze
from terra import _C, _module


def outcome(case):
    """What a case returned or raised, as comparable data, and how many calls and lookups were served."""
    torch.manual_seed(0)
    before = _C.module_call_counts()
    try:
        result = freeze(case())
    except Exception as error:
        result = freeze([type(error).__name__, str(error), error.args, getattr(error, "name", None),
                         type(error.__context__).__name__, type(error.__cause__).__name__])  # fmt: skip
    after = _C.module_call_counts()
    return result, [b - a for a, b in zip(before, after, strict=True)]


def check(case, calls=None, lookups=None):
    """`calls`, `lookups`: True, it must be served sometimes; False, never; a number, so often; None, either."""
    _module.serve("never")
    own, (none, nothing) = outcome(case)
    assert (none, nothing) == (0, 0)
    _module.serve("always")
    served, counts = outcome(case)
    assert not (found := difference(own, served, Tolerance(), "result")), found
    for expected, count in zip((calls, lookups), counts, strict=True):
        if expected is not None:
            assert (count if type(expected) is int else bool(count)) == expected, counts
