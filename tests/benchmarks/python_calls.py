"""What serving `nn.Module.__call__`, `__getattr__` and `zero_grad` from C++ brings (see python/terra/_module.py).

Each line is one piece of work, run with PyTorch's own Python code and served by C++ in turns; processor time of the
Python thread. *Forward* is a whole model under `torch.no_grad()` without Terra, *step* a training step under Terra,
once it is compiled.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import harness
import mlp_step
import programs
import terra
import torch
from rich import box
from rich.table import Table
from terra import _module
from torch import nn

# --- pieces of work --------------------------------------------------------------------------------------------------


@dataclass
class Work:
    """`run` does it `repeat` times. `served`: where C++ serves, when it does."""

    name: str
    run: Callable[[int], object]
    repeat: int
    served: str = "always"


def repeated(name: str, action: Callable[[], object], repeat: int) -> Work:
    def run(times: int) -> None:
        for _ in range(times):
            action()

    return Work(name, run, repeat)


class Same(nn.Module):
    def forward(self, x):
        return x


def module_calls() -> list[Work]:
    same, linear = Same(), nn.Linear(4, 4)
    nested = nn.Sequential(*(nn.Sequential(*(nn.Sequential(Same(), Same()) for _ in range(4))) for _ in range(4)))
    x = torch.ones(1)
    return [
        repeated("module(x), forward does nothing", lambda: same(x), 2000),
        repeated("53 nested modules that do nothing", lambda: nested(x), 100),
        repeated("module.weight", lambda: linear.weight, 5000),
        repeated("module.in_features", lambda: linear.in_features, 5000),
        repeated("hasattr(module, 'nothing')", lambda: hasattr(linear, "nothing"), 5000),
    ]


def gradients(count: int = 50) -> list[Work]:
    layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(count // 2)))
    parameters = list(layers.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    values = [torch.ones_like(p) for p in parameters]

    def clip(given) -> None:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.grad = value
        nn.utils.clip_grad_norm_(given, 1.0)

    def with_gradients(clear: Callable[[], object]) -> Callable[[], object]:
        def action() -> None:
            for parameter, value in zip(parameters, values, strict=True):
                parameter.grad = value
            clear()

        return action

    return [
        repeated(f"setting {len(values)} gradients (part of the next three)", with_gradients(lambda: None), 100),
        repeated(f"optimizer.zero_grad(), {len(values)} parameters", with_gradients(optimizer.zero_grad), 100),
        repeated(f"module.zero_grad(), {len(values)} parameters", with_gradients(layers.zero_grad), 100),
        repeated("clip_grad_norm_(module.parameters())", lambda: clip(layers.parameters()), 20),
    ]


def forwards() -> list[Work]:
    works = []
    for name, make in {"MLP, width 16": lambda: mlp_step.mlp(16, "SGD"), "ResNet": programs.PROGRAMS["ResNet"]}.items():
        program = make()
        model, images = program.modules[0], program.batches[0][0]

        @torch.no_grad()
        def forward(model=model, images=images) -> None:
            model(images)

        works.append(repeated(f"forward, {name}", forward, 5))
    return works


def steps(only: list[str] | None) -> list[Work]:
    made = {f"MLP, width 16, {o}": (lambda o=o: mlp_step.mlp(16, o)) for o in mlp_step.OPTIMIZERS}
    works = []
    for name, make in {**made, **programs.PROGRAMS}.items():
        if only is not None and not any(word.lower() in name.lower() for word in only):
            continue
        torch.manual_seed(0)
        variant = harness.under_terra("terra", make())
        harness.warm_up(variant)
        works.append(Work(f"step, {name}", variant.run, 5, served="regions"))
    return works


# --- measuring -------------------------------------------------------------------------------------------------------


def take(work: Work, where: str) -> float:
    """Seconds of this thread for one repetition."""
    _module.serve(where)
    started = time.thread_time()
    work.run(work.repeat)
    return (time.thread_time() - started) / work.repeat


def measure(work: Work, seconds: float) -> tuple[list[float], list[float]]:
    """Turns of both ways, first one and then the other first."""
    own, served = [], []
    deadline = time.perf_counter() + seconds
    for turn in range(1000):
        if turn >= 10 and time.perf_counter() > deadline:
            break
        ways = [(own, "never"), (served, work.served)]
        for samples, where in ways if turn % 2 else reversed(ways):
            samples.append(take(work, where))
    return own, served


def as_samples(name: str, seconds: list[float]) -> harness.Samples:
    program = harness.Program(lambda: None)
    return replace(harness.Samples(harness.eager(name, program)), seconds=seconds)


def show(seconds: float) -> str:
    if seconds < 1e-6:
        return f"{seconds * 1e9:.0f} ns"
    return f"{seconds * 1e6:.2f} µs" if seconds < 1e-4 else f"{seconds * 1e6:.0f} µs"


def benchmark(arguments) -> list[dict]:
    table = Table(title="Python thread, processor time", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("work")
    for heading in ("PyTorch's own", "served", "own / served"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = []
    works = [*module_calls(), *gradients(), *forwards(), *steps(arguments.only)]
    with harness.quiet_collector():
        for work in works:
            own, served = measure(work, arguments.seconds)
            ratio = harness.ratio(as_samples("own", own), as_samples("served", served))
            table.add_row(work.name, show(statistics.median(own)), show(statistics.median(served)), str(ratio))
            rows.append({"work": work.name, "own": statistics.median(own), "served": statistics.median(served),
                         "ratio": vars(ratio)})  # fmt: skip
    terra.synchronize()
    harness.console.print(table)
    return [{"title": "python calls", "rows": rows}]


if __name__ == "__main__":
    parser = harness.parser(__doc__, seconds=2)
    parser.add_argument("--only", nargs="*", metavar="WORD", help="steps of programs whose name has one of these words")
    raise SystemExit(harness.main(parser, benchmark))
