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


def exported(library):
    command = ["nm", "-D", "--defined-only", "--format=posix", package() / library]
    return [line.split()[0] for line in subprocess.check_output(command, text=True).splitlines()]


def test_core_library_exports_nothing_but_terra():
    """Else another library in the process could be bound to what ours contains."""
    symbols = exported("libterra_core.so")
    assert len(symbols) > 50
    assert [symbol for symbol in symbols if "5terra" not in symbol] == []


def test_compiler_library_exports_its_entry_only():
    """LLVM is inside it."""
    assert exported("libterra_compiler.so") == ["terraCompilerEntry"]


def test_compiler_is_opened_when_the_first_compilation_is_due():
    code = """
import torch, terra
def opened():
    return "libterra_compiler" in open("/proc/self/maps").read()
exact, fast = (terra.function(numerics=n)(lambda x: x.sin() + 1) for n in ("exact", "fast"))
for _ in range(6):
    exact(torch.ones(8))
exact.wait_compiled()
assert not opened()
for _ in range(6):
    fast(torch.ones(8))
fast.wait_compiled()
assert opened() and fast.stats()["kernels_compiled"] > 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_missing_compiler_leaves_everything_to_the_host(tmp_path):
    folder = tmp_path / "terra"
    shutil.copytree(package(), folder, ignore=shutil.ignore_patterns("libterra_compiler.so"))
    code = """
import torch, terra
f = terra.function(lambda x: x.sin() + 1)
for _ in range(6):
    assert torch.equal(f(torch.ones(8)), torch.ones(8).sin() + 1)
f.wait_compiled()
assert f.stats()["regions_coexecuted"] > 0 and f.stats()["kernels_compiled"] == 0
assert "the compiler cannot be opened" in terra.explain(f), terra.explain(f)
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=120, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}
    )


def test_module_does_not_bring_a_second_openmp_or_llvm():
    module = next(package().glob("_C*.so"))
    needed = subprocess.run(
        ["readelf", "-d", module, package() / "libterra_core.so", package() / "libterra_compiler.so"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "libterra_core.so" in needed
    assert not [word for word in ("libgomp", "libomp", "libLLVM", "libMLIR", "libstdc++fs") if word in needed]


def test_import_works_before_and_after_torch():
    for order in ("import terra, torch", "import torch, terra"):
        code = f"{order}\nassert torch.ones(2).add(1).sum().item() == 4\nimport torch._inductor"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def configure(folder, *options):
    """Configures the source tree into `folder`."""
    command = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DTERRA_TORCH=OFF", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake")
@pytest.mark.parametrize(
    ("header", "package"), [("nlohmann_json_hpp", "nlohmann-json3-dev"), ("CLI_CLI_hpp", "libcli11-dev")]
)
def test_missing_header_says_which_package_to_install(header, package, tmp_path):
    """CMake's cached answer stands for a machine without the header."""
    result = configure(tmp_path, f"-DTERRA_HAS_{header}=OFF", "-DTERRA_COMPILER=OFF", "-DTERRA_TESTS=OFF")
    assert result.returncode != 0
    assert f"apt-get install {package}" in result.stderr


@pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake")
def test_missing_llvm_says_which_packages_to_install(tmp_path):
    result = configure(tmp_path, "-DCMAKE_DISABLE_FIND_PACKAGE_MLIR=ON")
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
