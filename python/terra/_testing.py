"""Hooks for Terra's own tests."""

from __future__ import annotations

from typing import Any


def force_divergence_at(fn: Any, event: int) -> None:
    """Leave the graph at event number `event` of the next co-executed region of `fn`."""
    fn._session.force_divergence_at = event


def run_eagerly(fn: Any, calls: int) -> None:
    """Run the next `calls` calls of `fn` without its graph."""
    fn._session.force_eager(calls)


def fail_kernel_at(fn: Any, event: int) -> None:
    """Make the execution of event number `event` of the next co-executed region raise RuntimeError."""
    fn._session.fail_kernel_at = event
