"""The cache on disk as programs see it, and the compile budget."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import terra
import torch
from torch import nn

# Prints what compiling cost, how long after the first step a step ran compiled as a whole, and the parameters.
PROGRAM = """
import json, time
import torch, terra
from torch import nn
from terra import _C

torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(32, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 24), nn.LayerNorm(24), nn.Tanh())
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

@terra.function
def step(x):
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    return loss.detach()

x = torch.randn(8, 32)
for i in range(12):
    step(x)
    step.wait_compiled()  # so that all processes compute the same steps with the same kernels
    if i == 0:
        first = time.perf_counter()
    if i == 6:
        ready = time.perf_counter() - first
terra.synchronize()
parameters = [p.double().sum().item() for p in model.parameters()]
print(json.dumps({**_C.compile_cost(step._session), "ready": ready, "parameters": parameters,
                  "explained": terra.explain(step), "coexecuted": step.stats()["regions_coexecuted"]}))
"""


BUDGET = "import test_compile_cache; test_compile_cache.budget_is_kept(); print('true')"


def start(tmp_path, program=PROGRAM, **environment):
    package = os.pathsep.join([str(pathlib.Path(terra.__file__).parents[1]), str(pathlib.Path(__file__).parent)])
    variables = {**os.environ, "TERRA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": package, **environment}
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)


def result(process):
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return json.loads(out.splitlines()[-1])


def entries(tmp_path):
    return sorted((tmp_path / "cache").glob("llvmcache-*"))


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """A folder that holds a filled cache, and what the process that filled it said."""
    folder = tmp_path_factory.mktemp("filled")
    return folder, result(start(folder))


def test_a_second_process_compiles_nothing_and_computes_the_same(first_run):
    folder, first = first_run
    assert first["kernels_compiled"] > 3
    assert first["kernels_from_disk"] == 0
    second = result(start(folder))
    assert second["kernels_compiled"] == 0
    assert second["kernels_from_disk"] == first["kernels_compiled"]
    assert second["segments_from_cache"] > 0
    assert second["seconds"]["import"] == second["seconds"]["emit"] == 0
    assert second["parameters"] == first["parameters"]
    assert second["coexecuted"] > 5
    assert "came from the disk" in second["explained"]
    assert second["ready"] < 1 or os.getloadavg()[0] > os.cpu_count()


def test_damaged_entries_are_compiled_again(first_run, tmp_path):
    folder, first = first_run
    shutil.copytree(folder / "cache", tmp_path / "cache")
    for number, path in enumerate(entries(tmp_path)):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if number % 2 else whole[:-1] + bytes([whole[-1] ^ 1]))
    second = result(start(tmp_path))
    assert second["kernels_from_disk"] == 0
    assert second["kernels_compiled"] == first["kernels_compiled"]
    assert second["parameters"] == first["parameters"]
    assert [p.name for p in entries(tmp_path)] == [p.name for p in entries(folder)]


def test_processes_started_at_once_share_one_folder(first_run, tmp_path):
    folder, first = first_run
    together = [result(process) for process in [start(tmp_path) for _ in range(2)]]
    assert all(r["parameters"] == first["parameters"] for r in together)
    assert [p.name for p in entries(tmp_path)] == [p.name for p in entries(folder)]


def test_the_cache_can_be_switched_off(tmp_path):
    assert result(start(tmp_path, TERRA_CACHE="0"))["kernels_compiled"] > 3
    assert not entries(tmp_path)


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    r = result(start(tmp_path, TERRA_CACHE_DIR=str(tmp_path / "file" / "cache")))
    assert r["kernels_compiled"] > 3


def stepping(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU())

    @terra.function(**options)
    def step(x):
        loss = model(x).square().mean()
        loss.backward()
        return loss.detach()

    losses = []
    for i in range(10):
        losses.append(step(torch.full((4, 8), 0.1 * i)))
        step.wait_compiled()
    terra.synchronize()
    return step, losses


def budget_is_kept():
    """In a process that has compiled nothing yet."""
    step, losses = stepping(compile_budget_seconds=0)
    assert step.stats()["kernels_left"] > 0
    assert step.stats()["kernels_compiled"] == 0
    assert "the compile budget was spent" in terra.explain(step)
    eager = stepping(numerics="exact")[1]
    assert torch.equal(torch.stack(losses), torch.stack(eager))
    generous = stepping()[0]
    assert generous.stats()["kernels_left"] == 0
    assert "budget was spent" not in terra.explain(generous)


def test_what_the_compile_budget_leaves_runs_with_pytorch(tmp_path):
    assert result(start(tmp_path, program=BUDGET, TERRA_CACHE="0"))


def test_a_negative_compile_budget_is_refused():
    with pytest.raises(ValueError, match="compile_budget_seconds"):
        terra.function(compile_budget_seconds=-1)
