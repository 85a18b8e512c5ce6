"""Peak memory of the variants of a program, each measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import harness
import torch
from rich import box
from rich.table import Table

PEAK_OPTION = "--peak-of"


def peak_memory(program: str, variant: str) -> dict[str, int]:
    """Peak resident bytes of one variant in a process of its own: in all (`peak`), and since its first step (`grown`).

    The script must call `serve_peak_memory` before anything else.
    """
    command = [sys.executable, sys.argv[0], PEAK_OPTION, program, variant, str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        harness.console.print(f"[red]{program}, {variant}: no peak memory: {reason}[/]")
        return {}


def serve_peak_memory(make: Callable[[str], harness.Program], steps: int = 60) -> None:
    """In a process started by `peak_memory`: runs the asked variant, prints its peak and exits."""
    if PEAK_OPTION not in sys.argv:
        return
    program, name, threads = sys.argv[sys.argv.index(PEAK_OPTION) + 1 :]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    variant = harness.VARIANTS[name](name, make(program))
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    harness.warm_up(variant)
    variant.run(steps)
    print(json.dumps({"peak": resident("VmHWM"), "grown": resident("VmHWM") - before}))
    sys.exit(0)


def resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def report(programs: Iterable[str], variants: list[str]) -> dict:
    """Measures and shows all variants of all programs; the same for the JSON file."""
    peaks = {p: {v: found for v in variants if (found := peak_memory(p, v))} for p in programs}
    return {"title": "peak memory", "rows": report_peaks(peaks)}


def report_peaks(peaks: dict[str, dict[str, dict[str, int]]]) -> list[dict]:
    """Peaks by program and variant, each relative to eager's."""
    table = Table(title="peak resident memory, each in a process of its own", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("program", "variant"):
        table.add_column(heading)
    for heading in ("peak", "× eager", "since the first step", "× eager"):
        table.add_column(heading, justify="right")
    rows = []
    for program, variants in peaks.items():
        for name, found in variants.items():
            shown, relative = [], {}
            for key in ("peak", "grown"):
                base = variants.get("eager", {}).get(key)
                relative[key] = found[key] / base if base else None
                shown += [f"{found[key] / 2**20:.1f} MiB", f"{relative[key]:.3f}" if base else ""]
            table.add_row(program, name, *shown)
            rows.append({"program": program, "variant": name, **found, "relative": relative})
    harness.console.print(table)
    return rows
