"""`terra.dump` and the command `terra-dump`: every stage in every format, and clear words for bad files."""

import json
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
import terra
import torch

TOOL = pathlib.Path(terra.__file__).parent / "bin" / "terra-dump"
STAGES = ["trace", "graph", "segments", "imported", "fused", "lowered", "llvm", "asm", "instructions"]


def show(*arguments, **options):
    """Runs terra-dump."""
    return subprocess.run([TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options)


def lines_of_step():
    """Where the body of `train`'s step stands, as locations name it."""
    source = pathlib.Path(__file__).read_text(encoding="utf-8").splitlines()
    wanted = ["loss = torch.nn.functional.mse_loss(model(x), y)", "loss.backward()", "opt.step()"]
    return [f"test_dump.py:{source.index(' ' * 8 + line) + 1}" for line in wanted]


def train(**options):
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    opt = torch.optim.SGD(model.parameters(), lr=0.1)

    @terra.function(**options)
    def step(x, y, flip):
        opt.zero_grad()
        if flip:
            x = x.tanh()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        opt.step()
        return loss

    for i in range(16):
        step(torch.randn(3, 4), torch.randn(3, 2), i % 4 == 1)
    terra.synchronize()
    step.wait_compiled()
    return step


@pytest.fixture(scope="module")
def dump_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("dump") / "step.terra.json"
    terra.dump(train(), path)
    return path


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_as_text_has_the_lines_of_the_program(dump_file, stage):
    result = show(dump_file, "--stage", stage)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for line in lines_of_step():
        assert line in result.stdout, (line, stage)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_as_picture_has_the_lines_of_the_program(dump_file, stage, tmp_path):
    source = show(dump_file, "--stage", stage, "--format", "dot")
    assert source.returncode == 0, source.stderr
    assert source.stdout.startswith("digraph") and source.stdout.rstrip().endswith("}")
    for line in lines_of_step():
        assert line in source.stdout, (line, stage)
    picture = tmp_path / "out.svg"
    drawn = show(dump_file, "--stage", stage, "--format", "svg", "-o", picture)
    assert drawn.returncode == 0, drawn.stderr
    text = "".join(ET.parse(picture).getroot().itertext())
    for line in lines_of_step():
        assert line in text, (line, stage)


def test_stages_show_what_their_names_say(dump_file):
    parts = {stage: show(dump_file, "--stage", stage).stdout for stage in STAGES}
    assert "aten::addmm" in parts["trace"] and "-> #" in parts["trace"]
    assert "-> segment" in parts["graph"] and "end" in parts["graph"]
    assert "dead at event" in parts["segments"] and "bound when the segment is walked" in parts["segments"]
    assert "terra.gelu" in parts["imported"]
    assert parts["fused"].count("terra.group") < parts["imported"].count("terra.group")
    assert "terra.launch" in parts["lowered"]
    assert "define void @" in parts["llvm"]
    assert "ret" in parts["asm"] and ".globl" in parts["asm"]
    assert "kernel, on leaving event" in parts["instructions"] and "extern, on leaving event" in parts["instructions"]
    everything = show(dump_file, "--stage", "all").stdout
    assert [line for line in everything.splitlines() if line.startswith("==== ")] == [f"==== {s}" for s in STAGES]


def test_one_segment_alone(dump_file):
    count = len(json.loads(dump_file.read_text())["data"]["segments"])
    assert count > 1
    result = show(dump_file, "--stage", "segments", "--segment", 1)
    assert result.returncode == 0
    assert "segment 1:" in result.stdout and "segment 0:" not in result.stdout
    outside = show(dump_file, "--segment", count)
    assert outside.returncode == 2
    assert f"there is no segment {count}; the dump has {count}" in outside.stderr


def test_exact_functions_have_instructions_and_no_code(tmp_path):
    path = tmp_path / "exact.json"
    terra.dump(train(numerics="exact"), path)
    assert "nothing is compiled" in show(path, "--stage", "llvm").stdout
    instructions = show(path, "--stage", "instructions").stdout
    assert "extern" in instructions and "kernel," not in instructions
    assert show(path, "--stage", "all", "--format", "svg", "-o", tmp_path / "exact.svg").returncode == 0


def test_a_function_that_never_ran_can_be_dumped(tmp_path):
    path = tmp_path / "empty.json"
    terra.dump(terra.function(lambda x: x + 1), path)
    assert "nothing has been recorded" in show(path, "--stage", "segments").stdout
    for form in ("text", "dot", "svg"):
        assert show(path, "--stage", "all", "--format", form, "-o", tmp_path / "out").returncode == 0


def test_devices_are_written_in_words(tmp_path):
    step = terra.function(lambda x: x * torch.ones(3, device="cpu"))
    for _ in range(4):
        step(torch.randn(3))
    terra.dump(step, tmp_path / "d.json")
    assert "device=<cpu>" in show(tmp_path / "d.json", "--stage", "trace").stdout


def refused(path, *words, arguments=()):
    result = show(path, *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("terra-dump: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


def test_damaged_files_are_refused_in_one_line(dump_file, tmp_path):
    data = dump_file.read_bytes()
    broken = tmp_path / "broken.json"
    for content, word in [
        (b"", "empty"),
        (data[: len(data) // 2], "damaged"),
        (data[:-3], "damaged"),
        (b"\x00\xff" * 1000, "damaged"),
        (b"[" * 1_000_000, "nested too deeply"),
        (b'{"a": 1}', "not a dump of terra"),
        (data.replace(b'"version":1', b'"version":99', 1), "version 99"),
        (data.replace(b'"f32"', b'"f64"', 1), "checksum"),
    ]:
        broken.write_bytes(content)
        refused(broken, str(broken), word)
        refused(broken, word, arguments=["--stage", "asm"])


def test_bad_arguments_are_refused_in_one_line(dump_file, tmp_path):
    refused(tmp_path / "missing.json", "No such file")
    refused(tmp_path, "Is a directory")
    refused(dump_file, "--stage", "imported", arguments=["--stage", "nonsense"])
    refused(dump_file, "--format", arguments=["--format", "png"])
    refused(dump_file, "--segment", arguments=["--segment", "-1"])
    for form in ("text", "dot", "svg"):
        refused(dump_file, "No such file", arguments=["--format", form, "-o", tmp_path / "no" / "x"])


def test_missing_graphviz_says_what_to_install(dump_file, tmp_path):
    command = [TOOL, dump_file, "--format", "svg", "-o", tmp_path / "x.svg"]
    result = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert result.returncode == 2
    assert "install graphviz" in result.stderr and result.stderr.count("\n") == 1


def test_script_of_the_package_finds_the_executable(dump_file):
    command = [sys.executable, "-m", "terra._terra_dump", dump_file, "--stage", "trace"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout == show(dump_file, "--stage", "trace").stdout


def test_help_lists_stages_and_formats():
    result = show("--help")
    assert result.returncode == 0
    for word in [*STAGES, "text", "dot", "svg", "--segment", "Examples"]:
        assert word in result.stdout


def test_dump_refuses_what_it_cannot_write(tmp_path):
    with pytest.raises(TypeError, match="decorated with terra.function"):
        terra.dump(torch.relu, tmp_path / "x.json")
    with pytest.raises(FileNotFoundError):
        terra.dump(terra.function(torch.relu), tmp_path / "no" / "x.json")
