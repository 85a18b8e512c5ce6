#!/usr/bin/env python3
"""Runs the suites of a finished build (cpp lit asan tsan python; default all), ends with "N passed, N failed"."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / os.environ.get("BUILD", "build")
REPORTS = BUILD / "reports"
JOBS = str(os.cpu_count() or 1)
LIMIT = 1500  # seconds that one suite may take
BIN = pathlib.Path(sys.executable).parent


def count(report):
    """(passed, failed, skipped) of a JUnit file."""
    cases = list(ET.parse(report).getroot().iter("testcase"))
    failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    skipped = sum(case.find("skipped") is not None for case in cases)
    return len(cases) - failed - skipped, failed, skipped


def run(name, command, report, env=None, hide=None):
    """Runs one suite; a suite that dies, or reports no test, counts as one failure. Lines with `hide` are not shown."""
    print(f"==> {name}", flush=True)
    report.unlink(missing_ok=True)
    start = time.time()
    output = subprocess.PIPE if hide else None
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **(env or {})}, stdout=output, text=True)
    watchdog = threading.Timer(LIMIT, process.kill)
    watchdog.start()
    for line in process.stdout or ():
        if not re.search(hide, line):
            print(line, end="", flush=True)
    code = process.wait()
    watchdog.cancel()
    try:
        passed, failed, skipped = count(report)
    except (OSError, ET.ParseError):
        passed, failed, skipped = 0, 1, 0
    if code != 0 or passed + failed + skipped == 0:
        failed = max(failed, 1)
    return name, passed, failed, skipped, time.time() - start


def ctest(name, folder, prefix=()):
    report = REPORTS / f"{folder.name}.xml"
    command = [*prefix, "ctest", "--test-dir", str(folder), "-j", JOBS, "-E", "^lit$", "--output-on-failure",
               "--no-tests=error", "--output-junit", str(report)]
    return run(name, command, report, hide=r"^ +Start +\d+:|   Passed +\d|^$|^Internal ctest|^Test project")


def no_aslr():
    """g++ 12's ThreadSanitizer cannot live with the address randomisation of newer kernels."""
    setarch = [shutil.which("setarch"), os.uname().machine, "-R"]
    if setarch[0] and subprocess.run([*setarch, "true"], check=False, capture_output=True).returncode == 0:
        return setarch
    return []


def lit():
    report = REPORTS / "lit.xml"
    return run("FileCheck tests", [BIN / "lit", "-sv", "--xunit-xml-output", report, BUILD / "tests" / "lit"], report)


def pytest():
    report = REPORTS / "pytest.xml"
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", "tests/python"]
    return run("Python tests", command, report, {"PYTHONPATH": str(BUILD / "python")})


SUITES = {
    "cpp": lambda: ctest("C++ tests", BUILD),
    "lit": lit,
    "asan": lambda: ctest("C++ tests under asan", ROOT / "build-asan"),
    "tsan": lambda: ctest("C++ tests under tsan", ROOT / "build-tsan", no_aslr()),
    "python": pytest,
}


def main():
    REPORTS.mkdir(parents=True, exist_ok=True)
    results = [SUITES[name]() for name in sys.argv[1:] or SUITES]
    print()
    for name, passed, failed, skipped, seconds in results:
        print(f"{name:24} {passed:5} passed {failed:4} failed {skipped:4} skipped {seconds:7.1f} s")
    passed, failed, skipped = (sum(result[i] for result in results) for i in (1, 2, 3))
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
