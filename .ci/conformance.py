#!/usr/bin/env python3
"""The Python tests with TERRA_CONFORMANCE=1, in processes of a few minutes each, with progress.

Tests run in an order that is fixed but mixed over all files, so that a run that was cut off is a sample of everything.
Outcomes are kept in $BUILD/reports/conformance.jsonl as they come; --resume goes on where the last run was cut off. A
test that ends its process (a crash, a hang) is counted as failed, and the next process takes the tests after it.
"""

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / os.environ.get("BUILD", "build")
SILENCE = 1200  # seconds without an outcome after which a process counts as hanging


class Shard:
    """The pytest plugin of one process: runs what is in `part` and not done, until its time is over."""

    def __init__(self, log, part, seconds):
        self.log, self.part, self.end = log, part, time.time() + seconds

    def write(self, **line):
        with open(self.log, "a") as file:
            file.write(json.dumps(line) + "\n")

    def pytest_collection_modifyitems(self, items):
        number, count = self.part
        done, started = outcomes(self.log)
        mixed = sorted(items, key=lambda item: hashlib.sha1(item.nodeid.encode()).digest())[number::count]
        items[:] = [item for item in mixed if item.nodeid not in done and item.nodeid not in started]
        self.write(total=len(mixed))

    def pytest_runtest_logstart(self, nodeid):
        self.write(start=nodeid)

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            text = report.longreprtext if report.failed else ""
            self.write(test=report.nodeid, outcome=report.outcome, seconds=report.duration, text=text)

    def pytest_runtest_logfinish(self, nodeid):
        self.write(finish=nodeid)
        if time.time() > self.end:
            raise KeyboardInterrupt("the next process goes on")


def outcomes(log):
    """What the log says: outcome by finished test, and the tests that were started and never finished."""
    found, running, done = {}, set(), {}
    for line in map(json.loads, log.read_text().splitlines() if log.exists() else ()):
        if "start" in line:
            running.add(line["start"])
        elif "test" in line and found.get(line["test"], {}).get("outcome") != "failed":
            found[line["test"]] = line
        elif "finish" in line:
            running.discard(line["finish"])
            done[line["finish"]] = found.get(line["finish"], {"outcome": "skipped"})
    return done, running


def total(log):
    totals = [line["total"] for line in map(json.loads, log.read_text().splitlines()) if "total" in line]
    return totals[-1] if totals else 0


def spend(command, log):
    """Runs one process to its end, or until it hangs. Returns its exit status."""
    environment = {**os.environ, "TERRA_CONFORMANCE": "1"}
    with open(log.with_suffix(".txt"), "a") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        while True:
            try:
                return process.wait(10)
            except subprocess.TimeoutExpired:
                if log.exists() and time.time() - log.stat().st_mtime > SILENCE:
                    process.kill()


def summary(log, seconds):
    done, dead = outcomes(log)
    failed = [name for name, line in done.items() if line["outcome"] == "failed"] + [f"{d} (crashed)" for d in dead]
    count = len(done) + len(dead)
    print(f"{count:5} of {total(log)} tests, {len(failed)} failed, {seconds / 60:.0f} min", flush=True)
    return count, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=400, help="of one process")
    parser.add_argument("--part", default="1/1", help="K/N: the Kth of N equal parts")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after as many")
    parser.add_argument("--resume", action="store_true", help="keep the outcomes of the last run")
    parser.add_argument("--log", type=pathlib.Path, default=BUILD / "reports" / "conformance.jsonl")
    parser.add_argument("--shard", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("pytest", nargs="*", default=["tests/python"], help="its files and options (default: all)")
    options = parser.parse_args()
    number, count = map(int, options.part.split("/"))
    if options.shard:
        import pytest

        shard = Shard(options.log, (number - 1, count), options.seconds)
        return pytest.main(["-q", "--timeout=900", "-p", "no:cacheprovider", *options.pytest], plugins=[shard])
    options.log.parent.mkdir(parents=True, exist_ok=True)
    if not options.resume:
        options.log.unlink(missing_ok=True)
    start, before, failed = time.time(), -1, []
    while time.time() - start < 60 * options.minutes:
        spend([sys.executable, __file__, "--shard", *sys.argv[1:]], options.log)
        ran, failed = summary(options.log, time.time() - start)
        if ran in (total(options.log), before):  # all, or no test could be started
            break
        before = ran
    print("\n".join(failed))
    return 1 if failed or ran < total(options.log) else 0


if __name__ == "__main__":
    sys.exit(main())
