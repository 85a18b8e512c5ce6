"""What every benchmark here shares: variants of one program, interleaved timing, tables.

A benchmark builds the same `Program` once for each variant and hands the variants to `compare`. All run in one process,
in turns and in random order, so that noise of the machine meets them alike; a ratio is the median of the ratios of
turns of one round, with a 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python" / "examples"))
# Before torch looks: one compile thread, so that the processor time of compiling can be measured, and cold caches.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import torch  # noqa: E402
import torch._dynamo  # noqa: E402
import torch._logging  # noqa: E402
from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

torch._logging.set_logs(all=logging.ERROR)
console = Console(width=None if sys.stdout.isatty() else 144, highlight=False)

# --- programs and their variants -------------------------------------------------------------------------------------


@dataclass
class Program:
    """A step, the arguments it is called with in turn, and what torch.compile is to compile."""

    step: Callable[..., object]
    batches: list[tuple] = field(default_factory=lambda: [()])
    modules: list[torch.nn.Module] = field(default_factory=list)


@dataclass
class Variant:
    """A program made ready in one way. `stats` counts what Terra did, where it is Terra."""

    name: str
    program: Program
    step: Callable[..., object]
    finish: Callable[[], object] = lambda: None
    warm: Callable[[], object] = lambda: None
    stats: Callable[[], dict] = dict
    warm_cpu_seconds: float = 0.0

    def __post_init__(self):
        self._batches = cycle(self.program.batches)

    def run(self, steps: int) -> float:
        """Seconds for so many steps and everything they asked for."""
        started = time.perf_counter()
        for _ in range(steps):
            self.step(*next(self._batches))
        self.finish()
        return time.perf_counter() - started


def eager(name: str, program: Program) -> Variant:
    return Variant(name, program, program.step)


def under_terra(name: str, program: Program, **options) -> Variant:
    import terra

    step = terra.function(**{"never_slower": False, **options})(program.step)
    return Variant(name, program, step, terra.synchronize, step.wait_compiled, step.stats)


def compiled_model(name: str, program: Program, **options) -> Variant:
    """The model compiled, the optimizer as the user has it. Without a module, the step itself is the model."""
    if not program.modules:
        return Variant(name, program, torch.compile(program.step, **options))
    for module in program.modules:
        compile_in_place(module, **options)
    return Variant(name, program, program.step)


def compile_in_place(module: torch.nn.Module, **options) -> None:
    """As `torch.compile(module)`, for a program that holds the module itself.

    `module.compile()` silently does nothing for containers of torch.nn: Dynamo skips frames of that package.
    """

    def call(*args, **kwargs):
        return module._call_impl(*args, **kwargs)

    call.__code__ = call.__code__.replace()  # Dynamo's limit of recompilations is for each code object
    module._compiled_call_impl = torch.compile(call, **options)


def compiled_step(name: str, program: Program, **options) -> Variant:
    """The whole step, backward and optimizer included, as far as Dynamo can follow it."""
    torch._dynamo.config.trace_autograd_ops = True
    return Variant(name, program, torch.compile(program.step, **options))


VARIANTS: dict[str, Callable[[str, Program], Variant]] = {
    "eager": eager,
    "terra": under_terra,
    "exact": lambda name, program: under_terra(name, program, numerics="exact"),
    "never-slower": lambda name, program: under_terra(name, program, never_slower=True),
    "record": lambda name, program: under_terra(name, program, mode="record"),
    "compile": compiled_model,
    "compile-step": compiled_step,
    "compile-max": lambda name, program: compiled_model(name, program, mode="max-autotune"),
}


failures: list[str] = []


def build(make: Callable[[], Program], names: list[str]) -> list[Variant]:
    """Fresh programs from one seed, warmed up. A variant that cannot be made is reported and left out."""
    ready = []
    torch._dynamo.reset()
    for name in names:
        torch.manual_seed(0)
        if caches := os.environ.get("TERRA_BENCHMARK_CACHES"):
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(dir=caches)
        try:
            variant = VARIANTS[name](name, make())
            warm_up(variant)
            ready.append(variant)
        except Exception as error:  # a benchmark of the others is still worth having
            failures.append(name)
            console.print(f"[red]{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}[/]")
            if os.environ.get("TERRA_BENCHMARK_DEBUG"):
                console.print_exception()
    return ready


def warm_up(variant: Variant) -> None:
    started = cpu_seconds()
    for _ in range(2):
        variant.run(5)
        variant.warm()
    variant.run(5)
    variant.warm_cpu_seconds = cpu_seconds() - started
    if variant.name.startswith("compile") and not torch._dynamo.utils.counters["stats"]["unique_graphs"]:
        raise RuntimeError("torch.compile compiled nothing")
    torch._dynamo.utils.counters.clear()


def cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


# --- timing ----------------------------------------------------------------------------------------------------------


@dataclass
class Samples:
    """Seconds a step of one variant, one number a round; the same in processor time of the Python thread, which other
    processes do not disturb; what Terra counted, over all timed steps.
    """

    variant: Variant
    seconds: list[float] = field(default_factory=list)
    python_seconds: list[float] = field(default_factory=list)
    steps: int = 0
    counted: dict[str, float] = field(default_factory=dict)

    def take_turn(self, steps: int) -> None:
        before = self.variant.stats()
        python = time.thread_time()
        self.seconds.append(self.variant.run(steps) / steps)
        self.python_seconds.append((time.thread_time() - python) / steps)
        self.steps += steps
        for name, value in self.variant.stats().items():
            if isinstance(value, int | float):
                self.counted[name] = self.counted.get(name, 0) + value - before.get(name, 0)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def quantile(self, q: float) -> float:
        return float(torch.tensor(self.seconds, dtype=torch.float64).quantile(q))

    @property
    def python(self) -> float:
        return statistics.median(self.python_seconds)

    def a_step(self, counter: str) -> float | None:
        return self.counted[counter] / self.steps if counter in self.counted else None

    def coexecuted(self) -> str:
        return f"{self.counted['regions_coexecuted']:.0f}/{self.steps}" if self.counted else ""


def steps_a_turn(variant: Variant, turn: float) -> int:
    """So many steps take about `turn` seconds: at least three; one, if steps are long."""
    step = min(variant.run(3) / 3 for _ in range(2))
    return max(1 if step > 0.1 else 3, round(turn / step))


def interleave(variants: list[Variant], seconds: float, turn: float = 0.05, rounds: int = 200) -> dict[str, Samples]:
    """Each round gives each variant one turn of about `turn` seconds: the same time, not the same number of steps, as
    each turn begins with what the others left in the caches and ends with the graph drained.
    """
    steps = {variant.name: steps_a_turn(variant, turn) for variant in variants}
    samples = {variant.name: Samples(variant) for variant in variants}
    order, generator = list(variants), random.Random(0)
    deadline = time.perf_counter() + seconds
    with quiet_collector():
        for done in range(rounds):
            if done >= 5 and time.perf_counter() > deadline:
                break
            generator.shuffle(order)
            for variant in order:
                samples[variant.name].take_turn(steps[variant.name])
    return samples


@contextmanager
def quiet_collector():
    """What exists now is never collected; what steps make is, as in real training."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@dataclass
class Ratio:
    """How many times faster than `base`: above 1 is faster."""

    value: float
    low: float
    high: float

    def __str__(self):
        return f"{self.value:.2f} [{self.low:.2f}–{self.high:.2f}]"


def ratio(base: Samples, other: Samples, resamples: int = 400) -> Ratio:
    pairs = [b / o for b, o in zip(base.seconds, other.seconds, strict=True)]
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(pairs, k=len(pairs))) for _ in range(resamples))
    return Ratio(statistics.median(pairs), medians[int(0.025 * resamples)], medians[int(0.975 * resamples)])


def geometric_mean(values: list[float]) -> float:
    return statistics.geometric_mean(values) if values else float("nan")


# --- reports ---------------------------------------------------------------------------------------------------------


def show_time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def report(title: str, samples: dict[str, Samples], base: str = "eager") -> dict:
    """Prints a table of one program; returns the same as plain data.

    Python CPU: processor time of the Python thread a step. Skeleton, graph: what Terra says of its two threads, without
    waiting, by the clock. Warm-up CPU: processor time of the whole process, compilers included, until all was compiled.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("variant")
    times = ("median", "p10", "p90", f"× {base}")
    for heading in (*times, "Python CPU", f"of {base}", "skeleton", "graph", "co-executed", "warm-up CPU"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = []
    for name, s in samples.items():
        faster = ratio(samples[base], s) if base in samples else None
        share = s.python / samples[base].python if base in samples else None
        skeleton, graph = s.a_step("skeleton_seconds"), s.a_step("graph_seconds")
        table.add_row(
            name, show_time(s.median), show_time(s.quantile(0.1)), show_time(s.quantile(0.9)),
            str(faster) if faster else "", show_time(s.python), "" if share is None else f"{share:.2f}",
            show_time(skeleton), show_time(graph), s.coexecuted(), f"{s.variant.warm_cpu_seconds:.1f} s",
        )  # fmt: skip
        rows.append({
            "program": title, "variant": name, "median": s.median, "p10": s.quantile(0.1), "p90": s.quantile(0.9),
            "ratio": vars(faster) if faster else None, "python_cpu": s.python, "python_cpu_share": share,
            "skeleton": skeleton, "graph": graph, "steps": s.steps, "rounds": len(s.seconds), "counted": s.counted,
            "warm_up_cpu_seconds": s.variant.warm_cpu_seconds,
        })  # fmt: skip
    console.print(table)
    return {"title": title, "rows": rows}


def compare(title: str, make: Callable[[], Program], arguments, extra=(), beside: tuple[Variant, ...] = ()) -> dict:
    """The usual benchmark: build the chosen variants of one program, time them in turns, print.

    `beside`: ready variants of something else that is to be timed with them.
    """
    variants = [*build(make, chosen_variants(arguments, list(extra))), *beside]
    return report(title, interleave(variants, arguments.seconds)) if variants else {"title": title, "rows": []}


def summary(results: list[dict]) -> None:
    """Geometric means of the ratios to eager and to torch.compile."""
    by_variant: dict[str, list[float]] = {}
    for result in results:
        medians = {row["variant"]: row["median"] for row in result["rows"]}
        for base in ("eager", "compile", "compile-step"):
            if base in medians and "terra" in medians:
                by_variant.setdefault(base, []).append(medians[base] / medians["terra"])
    for base, ratios in by_variant.items():
        worst, best = min(ratios), max(ratios)
        console.print(
            f"Terra against {base}: geometric mean {geometric_mean(ratios):.2f} times faster over {len(ratios)} "
            f"programs ({worst:.2f} … {best:.2f})"
        )


# --- the setting -----------------------------------------------------------------------------------------------------


def setting() -> dict[str, str]:
    malloc = {k: v for k, v in os.environ.items() if k.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))}
    openmp = {k: v for k, v in os.environ.items() if k.startswith(("OMP_", "KMP_", "GOMP_"))}
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "processor": f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads, Python {platform.python_version()}",
        "malloc": " ".join(f"{k}={v}" for k, v in malloc.items()) or "glibc's defaults",
        "openmp": " ".join(f"{k}={v}" for k, v in openmp.items()) or "defaults",
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# --- the command line ------------------------------------------------------------------------------------------------

# Freed memory stays with the process: no page faults for large fresh tensors.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}


def parser(description: str, threads: tuple[int, ...] = (1,), seconds: float = 8) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=description.strip(), formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--threads", type=int, nargs="+", default=list(threads), help="each count runs in its own process")
    p.add_argument("--seconds", type=float, default=seconds, help="time for each table")
    p.add_argument("--variants", nargs="+", choices=list(VARIANTS), help="these only, instead of the usual ones")
    p.add_argument("--torch-compile", action=argparse.BooleanOptionalAction, default=True, help="needs a C++ compiler")
    p.add_argument("--malloc", choices=("default", "keep"), default="default", help="keep: freed memory is kept")
    p.add_argument("--json", type=Path, help="also write the results here, one JSON object a line")
    return p


def chosen_variants(arguments, extra: list[str]) -> list[str]:
    usual = ["eager", "terra", *extra, *(["compile", "compile-step"] if arguments.torch_compile else [])]
    return arguments.variants or usual


def main(p: argparse.ArgumentParser, benchmark: Callable[[argparse.Namespace], list[dict]]) -> int:
    """Runs the benchmark once for each number of threads, each in a process of its own with cold compile caches."""
    arguments = p.parse_args()
    child = os.environ.get("TERRA_BENCHMARK_CHILD") == str(os.getppid())
    if not child:
        return max(run_child(threads, arguments.malloc) for threads in arguments.threads)
    torch.set_num_threads(int(os.environ["TERRA_BENCHMARK_THREADS"]))
    where = setting()
    for name, value in where.items():
        console.print(f"[dim]{name:>10}  {value}[/]")
    results = benchmark(arguments)
    if arguments.json:
        with arguments.json.open("a") as file:
            file.writelines(json.dumps({"setting": where, **result}) + "\n" for result in results)
    return 1 if failures else 0


def run_child(threads: int, malloc: str) -> int:
    with tempfile.TemporaryDirectory(prefix="terra-benchmark-") as caches:
        environment = {
            **os.environ,
            **(KEEP_FREED_MEMORY if malloc == "keep" else {}),
            "TERRA_BENCHMARK_CHILD": str(os.getpid()),
            "TERRA_BENCHMARK_THREADS": str(threads),
            "TERRA_BENCHMARK_CACHES": caches,
            "TERRA_CACHE": os.environ.get("TERRA_CACHE", "0"),
        }
        return subprocess.run([sys.executable, *sys.argv], env=environment).returncode
