"""Processor seconds spent compiling, by stage, with cold and warm caches, next to torch.compile's with cold caches.

Every line runs in a process of its own with cache folders of its own. "Compiling": what Terra's compile threads used,
by stage; for torch.compile, what the process and its children used more than the same steps cost once they are compiled
(importing its compiler is left out). "Ready after": time from the first step until a step ran compiled as a whole, by
the clock, in a program that never waits for the compiler.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import demo_models
import harness
import mlp_step
import programs
import torch
from rich import box
from rich.table import Table

ONE = "--measure-one"
PROGRAMS: dict[str, Callable[[], harness.Program]] = {
    **{name: (lambda name=name: demo_models.program(name)) for name in demo_models.SMALL},
    "MLP, AdamW": lambda: mlp_step.mlp(128, "AdamW"),
    **programs.PROGRAMS,
}
USUAL = ("cnn", "transformer", "gan", "MLP, AdamW", "GPT-2", "BERT classification", "ResNet", "YOLO-like")
TORCH_USUAL = ("cnn", "transformer", "MLP, AdamW", "GPT-2")

# --- one measurement, in its own process -----------------------------------------------------------------------------


def measure_terra(program: harness.Program) -> dict:
    from terra import _C

    variant = harness.under_terra("terra", program)
    started = time.perf_counter()
    ready = until_compiled(variant, started)
    variant.warm()
    variant.run(5)
    variant.warm()  # survivors of the first runs compile segments again
    cost = _C.compile_cost(variant.step._session)
    return {"compiling": sum(cost["seconds"].values()), "ready": ready, **cost}


def until_compiled(variant: harness.Variant, started: float, limit: float = 60) -> float | None:
    """Seconds until a step was co-executed whole, with nothing left to compile before it."""
    while time.perf_counter() - started < limit:
        before = variant.stats()
        pending = not before["segments_compiled"] or any(
            not s["compiled"] and not s["events"][0][2] and s["walks"] for s in variant.step._session.segments()
        )
        variant.run(1)
        if not pending and variant.stats()["regions_coexecuted"] > before["regions_coexecuted"]:
            return time.perf_counter() - started
    return None


def measure_torch(program: harness.Program, name: str) -> dict:
    import torch._inductor.compile_fx  # noqa: F401  (costs seconds of its own)

    variant = harness.VARIANTS[name](name, program)
    started, cpu = time.perf_counter(), harness.cpu_seconds()
    variant.run(5)
    ready, used = time.perf_counter() - started, harness.cpu_seconds() - cpu
    cpu = harness.cpu_seconds()
    variant.run(20)
    return {"compiling": used - 5 * (harness.cpu_seconds() - cpu) / 20, "ready": ready}


def serve() -> None:
    if ONE not in sys.argv:
        return
    program, variant = sys.argv[sys.argv.index(ONE) + 1 :]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = PROGRAMS[program]()
    print(json.dumps(measure_terra(made) if variant == "terra" else measure_torch(made, variant)))
    sys.exit(0)


# --- the table -------------------------------------------------------------------------------------------------------


@contextmanager
def caches() -> Iterator[dict[str, str]]:
    """An environment with empty caches."""
    with tempfile.TemporaryDirectory(prefix="terra-compile-time-") as folder:
        yield {
            **os.environ,
            "TERRA_CACHE": "1",
            "TERRA_CACHE_DIR": f"{folder}/terra",
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
            "TRITON_CACHE_DIR": f"{folder}/triton",
        }


def measure(program: str, variant: str, environment: dict[str, str]) -> dict:
    command = [sys.executable, sys.argv[0], ONE, program, variant]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        harness.failures.append(program)
        harness.console.print(f"[red]{program}, {variant}: {reason}[/]")
        return {}


def rows_of(program: str, arguments) -> list[dict]:
    with caches() as environment:
        rows = [{"variant": v, **measure(program, "terra", environment)} for v in ("terra, cold", "terra, warm")]
    for variant in arguments.variants or ["compile"]:
        if arguments.torch_compile and (arguments.only or program in TORCH_USUAL):
            with caches() as environment:
                rows.append({"variant": variant, **measure(program, variant, environment)})
    return [{"program": program, **row} for row in rows if "compiling" in row]


def milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.0f}"


def benchmark(arguments) -> list[dict]:
    chosen = [name for name in PROGRAMS if any(word.lower() in name.lower() for word in arguments.only or ())]
    table = Table(title="compiling: processor milliseconds", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("program", "variant"):
        table.add_column(heading)
    for heading in ("compiling", "ready after", "compiled", "from disk"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("stages")
    results = []
    for program in chosen or USUAL:
        rows = rows_of(program, arguments)
        for row in rows:
            stages = ", ".join(f"{k} {milliseconds(s)}" for k, s in row.get("seconds", {}).items() if s >= 5e-4)
            counts = [str(row.get(key, "")) for key in ("kernels_compiled", "kernels_from_disk")]
            times = [milliseconds(row["compiling"]), milliseconds(row["ready"])]
            table.add_row(program, row["variant"], *times, *counts, stages)
        results.append({"title": program, "rows": rows})
    harness.console.print(table)
    return results


if __name__ == "__main__":
    serve()
    parser = harness.parser(__doc__)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="programs whose name has one of these words")
    raise SystemExit(harness.main(parser, benchmark))
