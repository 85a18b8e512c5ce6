"""Turns results written with `--json` into Markdown tables, for the README.

python tests/benchmarks/mlp_step.py --json results.jsonl
python tests/benchmarks/report.py results.jsonl                      prints
python tests/benchmarks/report.py results.jsonl --write README.md    replaces what stands between its marks
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path

MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")
COLUMNS = ("terra", "exact", "compile", "compile-step")


def times(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def faster(row: dict | None) -> str:
    if not row or not row["ratio"]:
        return ""
    r = row["ratio"]
    return f"{r['value']:.2f} ({r['low']:.2f}–{r['high']:.2f})"


def table(command: str, results: list[dict]) -> list[str]:
    """One run of one benchmark: how many times faster than eager each variant was."""
    timed = [r for r in results if any("median" in row for row in r["rows"])]
    variants = [v for v in COLUMNS if any(row["variant"] == v for r in timed for row in r["rows"])]
    lines = [
        f"| `{command}` | eager | " + " | ".join(f"{v}, × eager" for v in variants) + " | Python thread / eager's |",
        "| --- " * (len(variants) + 3) + "|",
    ]
    for result in timed:
        rows = {row["variant"]: row for row in result["rows"]}
        share = rows.get("terra", {}).get("python_cpu_share")
        cells = [result["title"], times(rows["eager"]["median"]) if "eager" in rows else ""]
        cells += [faster(rows.get(v)) for v in variants] + [f"{share:.2f}" if share is not None else ""]
        lines.append("| " + " | ".join(cells) + " |")
    if len(timed) > 1:
        lines.append("| geometric mean | | " + " | ".join(mean(timed, v) for v in variants) + " | |")
    return lines + peaks(results)


def mean(results: list[dict], variant: str) -> str:
    ratios = [row["ratio"]["value"] for r in results for row in r["rows"] if row["variant"] == variant and row["ratio"]]
    return f"{statistics.geometric_mean(ratios):.2f}" if ratios else ""


def peaks(results: list[dict]) -> list[str]:
    found = [row for r in results for row in r["rows"] if "peak" in row and row["variant"] != "eager"]
    shown = [f"{row['program']}, {row['variant']}: {row['relative']['peak']:.2f}" for row in found]
    return ["", "Peak memory of the process relative to eager's: " + "; ".join(shown) + "."] if shown else []


def markdown(lines: list[dict]) -> str:
    runs: dict[tuple, list[dict]] = {}
    for line in lines:
        s = line["setting"]
        runs.setdefault((s["command"], s["torch"], s["date"], s["processor"], s["malloc"]), []).append(line)
    parts = []
    for (command, torch, date, processor, malloc), results in runs.items():
        command = re.sub(r" --json \S+", "", command)
        parts += [f"{date}, {processor}; torch {torch}; malloc: {malloc}.", "", *table(command, results), ""]
    return "\n".join(parts).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--write", type=Path, help="a file with the marks")
    arguments = parser.parse_args()
    text = markdown([json.loads(line) for path in arguments.results for line in path.read_text().splitlines()])
    if not arguments.write:
        print(text, end="")
        return
    before, rest = arguments.write.read_text().split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    arguments.write.write_text(f"{before}{MARKS[0]}\n{text}{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
