"""Trains three programs twice from one seed, eagerly and under Terra, and compares everything.

    python demo.py            about a minute
    python demo.py --quick    a few seconds, for tests

The exit status is not zero when the two disagree.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import terra
import torch
from models import PROGRAMS, Gan, Training, digits
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

EPOCHS = {"cnn": 10, "transformer": 16, "gan": 12}

# In fast mode the last bits of a step may differ from eager's, and training amplifies them: two eager runs with
# different numbers of threads drift apart as far as this too.
TRAINING_TOLERANCE = 0.10  # mean loss of an epoch, relative to 1 + eager's
ACCURACY_TOLERANCE = 0.05
# A few compiled steps from one and the same state leave no room for drift. (Adam divides rounding errors by rounding
# errors where a gradient is zero in theory, as for an attention's key bias: hence the wider bound on parameters.)
LOCKSTEP_LOSS_TOLERANCE = 1e-4
LOCKSTEP_STATE_TOLERANCE = 1e-2

console = Console(width=None if sys.stdout.isatty() else 110)


class Run:
    """A training program with its own model and its own stream of random numbers, so that two can take turns."""

    def __init__(self, name: str, under_terra: bool, **options):
        torch.manual_seed(0)
        self.training: Training = PROGRAMS[name]()
        options.setdefault("never_slower", False)  # the times shown are the graph's
        self.step = terra.function(**options)(self.training.step) if under_terra else self.training.step
        self.random_state = torch.get_rng_state()

    def train(self, batches) -> tuple[list[dict[str, float]], float]:
        """The losses of each step, and milliseconds a step."""
        torch.set_rng_state(self.random_state)
        started = time.perf_counter()
        losses = [self.step(images, labels) for images, labels in batches]
        terra.synchronize()
        milliseconds = (time.perf_counter() - started) * 1e3 / len(losses)
        self.random_state = torch.get_rng_state()
        return [{name: float(value) for name, value in step.items()} for step in losses], milliseconds

    def continue_from(self, other: Run) -> None:
        self.training.load_from(other.training)
        self.random_state = other.random_state.clone()


@dataclass
class Outcome:
    """What is known about one program in the end."""

    name: str
    parameters: int
    eager_ms: float = 0.0
    terra_ms: float = 0.0
    python_ms: float = 0.0
    eager_accuracy: float = 0.0
    terra_accuracy: float = 0.0
    checks: list[tuple[bool, str]] = field(default_factory=list)

    def check(self, holds: bool, what: str) -> None:
        self.checks.append((holds, what))


# --- training, side by side ------------------------------------------------------------------------------------------


def train_side_by_side(eager: Run, under_terra: Run, epochs: int, steps: int | None, outcome: Outcome) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("epoch", "loss", "eager", "Terra", "difference", "eager ms/step", "Terra ms/step", "co-executed"):
        table.add_column(heading, justify="left" if heading == "loss" else "right")

    worst = 0.0
    before = under_terra.step.stats()
    with Live(table, console=console, refresh_per_second=8) if console.is_terminal else nullcontext():
        for epoch in range(epochs):
            batches = list(islice(digits().batches(epoch), steps))
            eager_losses, eager_ms = eager.train(batches)
            terra_losses, terra_ms = under_terra.train(batches)
            eager.training.end_epoch()
            under_terra.training.end_epoch()

            after = under_terra.step.stats()
            coexecuted = after["regions_coexecuted"] - before["regions_coexecuted"]
            before = after
            means, terra_means = mean_losses(eager_losses), mean_losses(terra_losses)
            for row, name in enumerate(means):
                difference = terra_means[name] - means[name]
                worst = max(worst, abs(difference) / (1 + abs(means[name])))
                numbers = [f"{means[name]:.4f}", f"{terra_means[name]:.4f}", f"{difference:+.1e}"]
                times = [f"{eager_ms:.2f}", f"{terra_ms:.2f}", f"{coexecuted} of {len(batches)}"] if row == 0 else []
                table.add_row(str(epoch + 1) if row == 0 else "", name, *numbers, *times)
    if not console.is_terminal:
        console.print(table)
    outcome.check(worst <= TRAINING_TOLERANCE, f"losses of all epochs agree (largest difference {worst:.1e})")

    outcome.eager_accuracy = eager.training.accuracy()
    outcome.terra_accuracy = under_terra.training.accuracy()
    apart = abs(outcome.eager_accuracy - outcome.terra_accuracy)
    outcome.check(
        apart <= ACCURACY_TOLERANCE,
        f"accuracy agrees (eager {outcome.eager_accuracy:.1%}, Terra {outcome.terra_accuracy:.1%})",
    )


def mean_losses(steps: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(step[name] for step in steps) for name in steps[0]}


# --- checks ----------------------------------------------------------------------------------------------------------


def check_lockstep(eager: Run, under_terra: Run, steps: int, outcome: Outcome) -> None:
    """A few compiled steps from exactly where eager stands."""
    under_terra.continue_from(eager)
    batches = list(islice(digits().batches(epoch=100), steps))
    expected, _ = eager.train(batches)
    got, _ = under_terra.train(batches)
    losses = max(abs(a[name] - b[name]) / (1 + abs(a[name])) for a, b in zip(expected, got, strict=True) for name in a)
    states = largest_difference(eager.training.state(), under_terra.training.state())
    outcome.check(
        losses <= LOCKSTEP_LOSS_TOLERANCE and states <= LOCKSTEP_STATE_TOLERANCE,
        f"{steps} compiled steps from one state agree (losses within {losses:.1e}, all state within {states:.1e})",
    )


def check_exact(name: str, steps: int, outcome: Outcome) -> None:
    """`numerics="exact"`: the host's own kernels only, so every bit is eager's."""
    eager, exact = Run(name, under_terra=False), Run(name, under_terra=True, numerics="exact")
    batches = list(islice(digits().batches(epoch=0), steps))
    recorded = 4
    expected, _ = eager.train(batches)
    got, _ = exact.train(batches[:recorded])
    exact.step.wait_compiled()
    got += exact.train(batches[recorded:])[0]

    outcome.check(expected == got, f"exact mode: {steps} steps, the same losses bit for bit")
    ours, theirs = exact.training.state(), eager.training.state()
    differing = [key for key in theirs.keys() | ours.keys() if not equal(theirs.get(key), ours.get(key))]
    where = "" if not differing else f" (not: {', '.join(sorted(differing)[:3])} …)"
    outcome.check(
        not differing, f"exact mode: parameters, gradients, buffers, optimizer state the same bit for bit{where}"
    )
    outcome.check(torch.equal(eager.random_state, exact.random_state), "exact mode: the same random numbers drawn")
    coexecuted = exact.step.stats()["regions_coexecuted"]
    outcome.check(coexecuted > 0, f"exact mode: {coexecuted} steps were co-executed")


def equal(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)


def largest_difference(expected: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> float:
    """Largest over all tensors, each relative to its own largest element (or to 1, if that is larger)."""
    if expected.keys() != got.keys():
        return float("inf")

    def difference(a: torch.Tensor, b: torch.Tensor) -> float:
        a, b = a.double(), b.double()
        return ((a - b).abs().max() / a.abs().max().clamp(min=1)).item() if a.numel() else 0.0

    return max(difference(expected[key], got[key]) for key in expected)


# --- times -----------------------------------------------------------------------------------------------------------


def measure(eager: Run, under_terra: Run, rounds: int, steps: int, outcome: Outcome) -> None:
    """Steady step times: short rounds in turns, medians."""
    batches = list(islice(digits().batches(epoch=200), steps))
    before = under_terra.step.stats()
    times = [(eager.train(batches)[1], under_terra.train(batches)[1]) for _ in range(rounds)]
    after = under_terra.step.stats()
    outcome.eager_ms, outcome.terra_ms = (statistics.median(column) for column in zip(*times, strict=True))
    outcome.python_ms = (after["skeleton_seconds"] - before["skeleton_seconds"]) * 1e3 / (rounds * steps)
    coexecuted = after["regions_coexecuted"] - before["regions_coexecuted"]
    outcome.check(coexecuted == rounds * steps, f"{coexecuted} of {rounds * steps} timed steps were co-executed")


# --- what Terra knows about the program ------------------------------------------------------------------------------


def write_dump(name: str, step, out: Path, outcome: Outcome) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    dump, picture = out / f"{name}.terra.json", out / f"{name}.svg"
    terra.dump(step, str(dump))
    command = [find_terra_dump(), str(dump), "--stage", "graph", "--format", "svg", "-o", str(picture)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        problem = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        problem = str(error)
    drawn = not problem and picture.exists() and picture.stat().st_size > 0
    outcome.check(drawn, f"dump drawn as {picture}" if drawn else f"terra-dump failed: {problem}")
    return dump


def find_terra_dump() -> str:
    """The tool beside this Python, inside the package, or on the search path."""
    package = Path(terra.__file__).parent
    places = [Path(sys.executable).parent, package / "bin", package, package.parent.parent / "bin"]
    found = (place / "terra-dump" for place in places if os.access(place / "terra-dump", os.X_OK))
    return str(next(found, "terra-dump"))


def show_stats(step, explanation: str) -> Panel:
    stats = Table.grid(padding=(0, 2))
    for name, value in step.stats().items():
        if isinstance(value, int | float):
            stats.add_row(name.replace("_", " "), f"{value:.3f}" if isinstance(value, float) else str(value))
    lines = explanation.strip().splitlines()
    shown = "\n".join(lines[:24]) + (f"\n… and {len(lines) - 24} lines more" if len(lines) > 24 else "")
    return Panel(Group(stats, Text(), Text(shown, style="dim")), title="what Terra did", title_align="left")


def show_drawings(eager: Gan, under_terra: Gan) -> Table:
    """Digits 0 … 9 as the two generators draw them, two pixels a character."""
    table = Table(box=None, show_header=False, padding=(0, 1))
    for name, gan in (("eager", eager), ("Terra", under_terra)):
        images = ((gan.drawings(torch.arange(10))[:, 0] + 1) * 127).clamp(0, 255).int().tolist()
        table.add_row(Text(f"\n{name}"), *(half_blocks(image) for image in images))
    return table


def half_blocks(image: list[list[int]]) -> Text:
    text = Text()
    for upper, lower in zip(image[0::2], image[1::2], strict=True):
        for top, bottom in zip(upper, lower, strict=True):
            text.append("▀", style=f"rgb({top},{top},{top}) on rgb({bottom},{bottom},{bottom})")
        text.append("\n")
    return text


def summary(outcomes: list[Outcome]) -> Table:
    table = Table(title="steady state", title_justify="left", box=box.SIMPLE_HEAD)
    headings = ("parameters", "eager ms/step", "Terra ms/step", "speed-up", "Python ms/step", "accuracy", "Terra's")
    table.add_column("program")
    for heading in headings:
        table.add_column(heading, justify="right")
    for o in outcomes:
        times = [f"{o.eager_ms:.2f}", f"{o.terra_ms:.2f}", f"{o.eager_ms / o.terra_ms:.2f}×", f"{o.python_ms:.2f}"]
        table.add_row(o.name, f"{o.parameters:,}", *times, f"{o.eager_accuracy:.1%}", f"{o.terra_accuracy:.1%}")
    return table


# --- main ------------------------------------------------------------------------------------------------------------


def demonstrate(name: str, quick: bool, out: Path) -> Outcome:
    console.rule(f"[bold]{name}")
    console.print(Text(PROGRAMS[name].__doc__.strip().splitlines()[0], style="dim"))
    eager, under_terra = Run(name, under_terra=False), Run(name, under_terra=True)
    outcome = Outcome(name, sum(p.numel() for module in eager.training.modules() for p in module.parameters()))

    epochs, steps = (2, 10) if quick else (EPOCHS[name], None)
    train_side_by_side(eager, under_terra, epochs, steps, outcome)
    under_terra.step.wait_compiled()
    check_lockstep(eager, under_terra, 5, outcome)
    measure(eager, under_terra, *((2, 5) if quick else (20, 10)), outcome)
    check_exact(name, 8 if quick else 16, outcome)
    dump = write_dump(name, under_terra.step, out, outcome)
    explanation = terra.explain(under_terra.step)
    (out / f"{name}.txt").write_text(explanation)

    if name == "gan" and console.is_terminal:
        console.print(show_drawings(eager.training, under_terra.training))
    console.print(show_stats(under_terra.step, explanation))
    for holds, what in outcome.checks:
        console.print(f"  [green]✓[/] {what}" if holds else f"  [bold red]✗ {what}[/]", highlight=False)
    console.print(f"  look inside: terra-dump {dump} --stage fused", style="dim", highlight=False)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"some of: {', '.join(PROGRAMS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    parser.add_argument("--threads", type=int, help="torch.set_num_threads (default: torch's own)")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="where dumps and pictures go")
    arguments = parser.parse_args()
    unknown = set(arguments.programs) - PROGRAMS.keys()
    if unknown:
        parser.error(f"no such program: {', '.join(sorted(unknown))}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    console.print(f"[bold]Terra {getattr(terra, '__version__', '')}[/] on torch {torch.__version__}, "
                  f"{torch.get_num_threads()} threads", highlight=False)  # fmt: skip
    outcomes = [demonstrate(name, arguments.quick, arguments.out) for name in arguments.programs or PROGRAMS]
    console.rule()
    console.print(summary(outcomes))
    failed = [(outcome.name, what) for outcome in outcomes for holds, what in outcome.checks if not holds]
    for name, what in failed:
        console.print(f"[bold red]✗ {name}: {what}[/]", highlight=False)
    console.print(f"[bold red]{len(failed)} checks failed[/]" if failed else "[bold green]Terra and eager agree[/]")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
