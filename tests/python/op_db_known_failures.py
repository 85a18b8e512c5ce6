"""Operators, modules and optimizers of PyTorch's own databases that do not yet agree with eager, each with the reason.

Every entry runs as a strict expected failure: a fixed one fails the test until its line is removed here.
Keys: ("op" | "module" | "optimizer", name, numerics or "*").
"""

KNOWN_FAILURES: dict[tuple[str, str, str], str] = {}


def reason(kind, name, numerics):
    return KNOWN_FAILURES.get((kind, name, numerics)) or KNOWN_FAILURES.get((kind, name, "*"))
