"""Terra's test hooks under one roof: everything that the tests ask of `terra._testing` is asked here."""

import terra
from terra import _testing


def force_divergence_at(step, n):
    """In the next region of `step` the `n`-th event is taken for unknown: a flush happens there."""
    _testing.force_divergence_at(step, n)


def fail_kernel_at(step, n):
    """In the next region of `step` the work of the `n`-th event raises RuntimeError(FAILURE) when it is executed."""
    _testing.fail_kernel_at(step, n)


FAILURE = "terra: injected failure"


def gates_of(step):
    """Names of the ops that `step` runs on the Python thread, as far as it has learned."""
    segments = step._session.segments()
    return {name.split(".")[0] for segment in segments for name, _, gate in segment["events"] if gate}


def recorded_events(fn, *args):
    """Names of the events of one call of `fn`, in order."""
    step = terra.function(fn, numerics="exact")
    step(*args)
    names = [name.split(".")[0] for segment in step._session.segments() for name, _, _ in segment["events"]]
    assert len(names) == step.stats()["events"], "a branch or a loop: the order of segments is not that of the call"
    return names


def events_of(step, region):
    """Number of events of one call of `region()`, a region of `step`."""
    before = step.stats()["events"]
    region()
    terra.synchronize()
    return step.stats()["events"] - before
