"""Ten training programs cut down to at most 10 ms a step, where the host is the limit."""

from __future__ import annotations

import harness
import programs
import torch


def benchmark(arguments) -> list[dict]:
    results = []
    for name, make in programs.PROGRAMS.items():
        if arguments.only and not any(word.lower() in name.lower() for word in arguments.only):
            continue
        results.append(harness.compare(f"{name}, {torch.get_num_threads()} thread(s)", make, arguments))
    harness.summary(results)
    return results


if __name__ == "__main__":
    parser = harness.parser(__doc__, seconds=3)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="programs whose name has one of these words")
    raise SystemExit(harness.main(parser, benchmark))
