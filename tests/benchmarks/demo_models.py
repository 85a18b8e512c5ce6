"""The three programs of the demo, cut to small steps: step times and peak memory of every variant."""

from __future__ import annotations

from itertools import islice

import harness
import models
import peak
import torch

SMALL = {"cnn": {"width": 8}, "transformer": {"width": 32, "layers": 2}, "gan": {"width": 16}}
BATCH = 8


def program(name: str, full: bool = False) -> harness.Program:
    """`full`: as the demo has it."""
    training = models.PROGRAMS[name](**({} if full else SMALL[name]))
    batches = list(islice(models.digits().batches(epoch=0, size=32 if full else BATCH), 8))
    return harness.Program(training.step, batches, training.modules())


def benchmark(arguments) -> list[dict]:
    results = []
    for name in arguments.programs:
        size = "as in the demo" if arguments.full else f"small, batch {BATCH}"
        title = f"{name}, {size}, {torch.get_num_threads()} thread(s)"
        make = lambda: program(name, arguments.full)  # noqa: E731, B023
        results.append(harness.compare(title, make, arguments, extra=["exact"]))
    harness.summary(results)
    if arguments.memory:
        results.append(peak.report(arguments.programs, harness.chosen_variants(arguments, [])))
    return results


if __name__ == "__main__":
    peak.serve_peak_memory(lambda name: program(name, full=True))
    parser = harness.parser(__doc__, seconds=4)
    parser.add_argument("--programs", nargs="+", choices=list(models.PROGRAMS), default=list(models.PROGRAMS))
    parser.add_argument("--full", action="store_true", help="the demo's own sizes")
    parser.add_argument("--memory", action=harness.argparse.BooleanOptionalAction, default=True, help="peak memory too")
    raise SystemExit(harness.main(parser, benchmark))
