"""The programs that the documentation shows, run as a reader would run them."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
import terra

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "python" / "examples"


def run(name, *arguments):
    """Output of an example that must succeed, with the package under test."""
    path = os.pathsep.join([str(pathlib.Path(terra.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, EXAMPLES / name, *arguments]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path, "COLUMNS": "110"}
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def test_ten_lines_train_and_explain():
    output = run("ten_lines.py")
    losses = [float(loss) for loss in re.findall(r"step \d+: loss (\d+\.\d+)", output)]
    assert len(losses) == 4 and losses == sorted(losses, reverse=True)
    assert int(re.search(r"(\d+) calls co-executed", output)[1]) > 150


def test_quick_demo_agrees_with_eager(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("transformers")
    output = run("demo.py", "--quick", "--out", str(tmp_path))
    assert "Terra and eager agree" in output and "✗" not in output
    for program in ("cnn", "transformer", "gan"):
        assert (tmp_path / f"{program}.terra.json").stat().st_size > 1000
        assert "<svg" in (tmp_path / f"{program}.svg").read_text()
    assert output.count("the same losses bit for bit") == 3
