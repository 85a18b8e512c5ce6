"""What the built package looks like from outside, and what a build says when something is missing."""

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def package():
    import terra

    return pathlib.Path(terra.__file__).parent


def test_core_library_exports_nothing_but_terra():
    """Else another LLVM in the process (torch's, triton's) could be bound to ours."""
    library = package() / "libterra_core.so"
    listing = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[-1] for line in listing.splitlines()]
    assert len(symbols) > 50
    assert [symbol for symbol in symbols if "5terra" not in symbol] == []


def test_module_does_not_bring_a_second_openmp_or_llvm():
    module = next(package().glob("_C*.so"))
    needed = subprocess.run(
        ["readelf", "-d", module, package() / "libterra_core.so"], capture_output=True, text=True, check=True
    ).stdout
    assert "libterra_core.so" in needed
    assert not [word for word in ("libgomp", "libomp", "libLLVM", "libMLIR", "libstdc++fs") if word in needed]


def test_import_works_before_and_after_torch():
    for order in ("import terra, torch", "import torch, terra"):
        code = f"{order}\nassert torch.ones(2).add(1).sum().item() == 4\nimport torch._inductor"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake")
def test_missing_llvm_says_which_packages_to_install(tmp_path):
    command = [
        "cmake",
        "-S",
        ROOT,
        "-B",
        tmp_path,
        "-G",
        "Ninja",
        "-DTERRA_TORCH=OFF",
        "-DCMAKE_DISABLE_FIND_PACKAGE_MLIR=ON",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "libmlir-22-dev" in result.stderr
    assert "-DTERRA_COMPILER=OFF" in result.stderr


@pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake")
def test_python_without_torch_says_so(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    command = [
        "cmake",
        "-S",
        ROOT,
        "-B",
        tmp_path / "build",
        "-G",
        "Ninja",
        "-DTERRA_TORCH=ON",
        f"-DPython_EXECUTABLE={tmp_path / 'venv' / 'bin' / 'python'}",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "cannot import torch" in result.stderr
