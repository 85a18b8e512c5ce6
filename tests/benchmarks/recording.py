"""What recording costs: a region that only records against eager, on one thread, by the thread's processor time."""

from __future__ import annotations

import statistics
import time

import harness
import mlp_step
import torch


def cpu_seconds(variant: harness.Variant, steps: int) -> float:
    started = time.thread_time()
    variant.run(steps)
    return time.thread_time() - started


def ratios(title: str, make, turns: int, steps: int) -> dict:
    """Eager and recording in turns, a few steps each: the median of the ratios of neighbours."""
    eager, record = harness.build(make, ["eager", "record"])
    for variant in (eager, record):
        variant.run(20)
    pairs = [(cpu_seconds(eager, steps), cpu_seconds(record, steps)) for _ in range(turns)]
    low, ratio, high = statistics.quantiles([b / a for a, b in pairs], n=4)
    micros = 1e6 * statistics.median(a for a, _ in pairs) / steps
    harness.console.print(f"{title}: eager {micros:.0f} µs a step, recording {ratio:.2f} times ({low:.2f}–{high:.2f})")
    return {"title": title, "eager_us": micros, "ratio": ratio, "quartiles": [low, high]}


def benchmark(arguments) -> list[dict]:
    torch.set_num_threads(1)
    found = []
    for width in (16, 128):
        for optimizer in ("SGD", "AdamW"):
            title = f"MLP, width {width}, {optimizer}"
            make = lambda: mlp_step.mlp(width, optimizer)  # noqa: E731, B023
            found.append(ratios(title, make, arguments.turns, 5))
    return found


if __name__ == "__main__":
    parser = harness.parser(__doc__)
    parser.add_argument("--turns", type=int, default=100, help="pairs of runs of five steps")
    raise SystemExit(harness.main(parser, benchmark))
