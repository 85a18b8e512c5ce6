"""The rules of the source tree: who includes whom, file sizes, nothing that only holds on one machine."""

import functools
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

# graph < {tracer, passes} < codegen < runtime < frontend < python
ALLOWED = {
    "graph": set(),
    "tracer": {"graph"},
    "passes": {"graph"},
    "codegen": {"graph", "tracer", "passes"},
    "runtime": {"graph", "tracer", "passes", "codegen"},
    "frontend": {"graph", "tracer", "passes", "codegen", "runtime"},
    "python": {"graph", "tracer", "passes", "codegen", "runtime", "frontend"},
}
# Headers of the big libraries and the folders that may see them.
LIBRARIES = {
    r"(torch|ATen|c10|caffe2|pybind11)/|Python\.h": ("frontend/torch/", "python/"),
    r"(llvm|mlir)(-c)?/": ("graph/dialect/", "passes/", "codegen/"),
}
LINES = {".h": 150, ".cpp": 400, ".td": 400, ".py": 400, ".mlir": 400}
TEST_LINES = 650  # tests are lists of cases, read one at a time
# Files that may be longer, each with its reason.
LONGER: dict[str, str] = {"runtime/Session.h": "one class, whose parts are in the Session*.cpp"}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home|opt|mnt|usr(?!/bin/env))/")


@functools.cache
def files():
    """Every file of the repository that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return [name for name in sorted(filter(None, listed)) if (ROOT / name).is_file()]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8", errors="replace")


def layer_violation(name, quote, header):
    """What is wrong with `name` including `header`, or None."""
    folder = name.split("/")[0]
    if folder in ALLOWED:
        for pattern, homes in LIBRARIES.items():
            if re.match(pattern, header) and not name.startswith(homes):
                return f"{name} includes {header}: only {', '.join(homes)} may"
        target = header.split("/")[0]
        if target in ALLOWED and "/" in header and target != folder and target not in ALLOWED[folder]:
            return f"{name} includes {header}: {target} is not to the left of {folder}"
        if quote == '"' and "/" not in header:
            return f"{name} includes {header}: write the path from the repository's root"
    return None


def sources():
    return [name for name in files() if name.endswith((".h", ".cpp")) and name.split("/")[0] in ALLOWED]


def test_each_folder_includes_only_folders_to_its_left():
    assert sources(), "no sources found"
    found = [layer_violation(name, *include) for name in sources() for include in INCLUDE.findall(text(name))]
    assert not list(filter(None, found)), "\n".join(filter(None, found))


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("graph/Event.h", "runtime/Session.h"),
        ("tracer/Merge.cpp", "passes/Passes.h"),
        ("passes/Fuse.cpp", "codegen/Abi.h"),
        ("runtime/Session.cpp", "ATen/ATen.h"),
        ("graph/Event.cpp", "mlir/IR/Builders.h"),
        ("frontend/cpp/Terra.cpp", "torch/torch.h"),
        ("tracer/Cursor.cpp", "Recorder.h"),
    ],
)
def test_the_layering_check_sees_a_violation(name, header):
    assert layer_violation(name, '"', header)


def test_the_layering_check_accepts_what_is_right():
    right = [
        ("runtime/A.cpp", "codegen/Abi.h"),
        ("passes/A.cpp", "mlir/IR/Builders.h"),
        ("graph/A.h", "vector"),
        ("frontend/torch/A.cpp", "ATen/ATen.h"),
        ("graph/dialect/A.cpp", "graph/dialect/TerraOps.h.inc"),
    ]
    assert [layer_violation(name, '"' if "/" in header else "<", header) for name, header in right] == [None] * 5


def line_limit(name):
    return TEST_LINES if name.startswith("tests/") else LINES[pathlib.Path(name).suffix]


def test_files_stay_short():
    lengths = {name: len(text(name).splitlines()) for name in files() if pathlib.Path(name).suffix in LINES}
    long = [
        f"{name}: {lines} lines, {line_limit(name)} allowed"
        for name, lines in lengths.items()
        if lines > line_limit(name) and name not in LONGER
    ]
    assert not long, "\n".join(long)


def test_no_file_names_a_path_of_one_machine():
    found = []
    for name in files():
        for number, line in enumerate(text(name).splitlines(), 1):
            if MACHINE_PATH.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)
