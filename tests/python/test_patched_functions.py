"""Functions that Terra replaces are still what TorchScript, Dynamo, modes, devices and pickle take them for."""

import copy
import importlib
import pickle
import subprocess
import sys

import pytest
import terra
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

X = torch.arange(6.0).view(2, 3)
CTC = torch.zeros(5, 2, 4), torch.ones(2, 2).long(), torch.tensor([5, 5]), torch.tensor([2, 2])


def make_tensors(a):
    return a + torch.tensor([1.0, 2.0, 3.0]) + torch.as_tensor(2.0)


def split(a):
    return torch.tensor_split(a, 2, 1)[0] + a.tensor_split(2, 1)[0]


def ctc(a, b, c, d):
    return F.ctc_loss(a, b, c, d)


def packed(a, lengths):
    pack = torch.nn.utils.rnn.pack_padded_sequence(a, lengths)
    return torch.nn.utils.rnn.pad_packed_sequence(pack)[0]


def backward(a):
    torch.autograd.backward([(a * a).sum()])
    return a.grad


SCRIPTED = {
    "make_tensors": (make_tensors, X), "split": (split, X), "ctc": (ctc, *CTC),
    "packed": (packed, X[:, None], torch.tensor([2])), "backward": (backward, X),
}  # fmt: skip


def copies(values):
    return [v.clone().requires_grad_(v.is_floating_point()) for v in values]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCRIPTED)
def test_scripted(name):
    fn, *args = SCRIPTED[name]
    assert torch.equal(torch.jit.script(fn)(*copies(args)), fn(*copies(args)))


@pytest.mark.filterwarnings("ignore")
def test_scripted_optimizers_of_distributed_training():
    importlib.import_module("torch.distributed.optim")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["make_tensors", "split"])
def test_dynamo_looks_through(name):
    fn, *args = SCRIPTED[name]
    torch._dynamo.reset()
    assert torch.equal(torch.compile(fn, backend="eager", fullgraph=True)(*args), fn(*args))


@pytest.mark.parametrize("make", [lambda: torch.tensor([1.0]), lambda: torch.as_tensor([1.0]), lambda: torch.zeros(2)])
def test_default_devices_are_kept(make):
    with torch.device("meta"):
        assert make().device.type == "meta"
    torch.set_default_device("meta")
    try:
        assert make().device.type == "meta"
    finally:
        torch.set_default_device(None)
    assert make().device.type == "cpu"


def test_modes_are_given_what_the_program_names():
    class Seen(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    seen = []
    with Seen():
        torch.tensor_split(X, 2)
        torch.tensor([1.0])
        X.numpy()
        X.tolist()
    assert [torch.tensor_split in seen, torch.tensor in seen, torch.Tensor.numpy in seen, torch.Tensor.tolist in seen]
    assert seen == [torch.tensor_split, torch.tensor, torch.Tensor.numpy, torch.Tensor.tolist]


@pytest.mark.parametrize("function", [torch.tensor, torch.as_tensor, torch.tensor_split, torch.autograd.backward])
def test_pickled_by_name(function):
    assert pickle.loads(pickle.dumps(function)) is function


def test_methods_are_pickled_by_name():
    for method in (torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.backward, torch.optim.SGD.step):
        assert pickle.loads(pickle.dumps(method)) is method


def test_symbolic_sizes_and_export():
    graph = make_fx(lambda a: a.tensor_split(2)[0].sum() + a.shape[0], tracing_mode="symbolic")(X)
    assert torch.equal(graph(X), X[:1].sum() + 2)
    program = torch.export.export(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU()), (X,))
    assert program.module()(X).shape == (2, 2)
    sizes = ({0: torch.export.Dim("batch")},)
    dynamic = torch.export.export(torch.nn.Linear(3, 2), (X,), dynamic_shapes=sizes)
    assert dynamic.module()(torch.ones(5, 3)).shape == (5, 2)


@terra.function(numerics="exact")
def named(x):
    return x.sin() * 2


class Named:
    @terra.function(numerics="exact")
    def method(self, x):
        return x.sin() * 3


def test_decorated_functions_are_pickled_by_name():
    assert pickle.loads(pickle.dumps(named)) is named
    assert pickle.loads(pickle.dumps(Named.method)) is Named.method
    assert copy.deepcopy(named) is named


def test_decorated_modules_are_copied_with_what_they_hold():
    model = terra.function(torch.nn.Linear(3, 2), numerics="exact", precise_errors=True)
    expected = model(X)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(other(X), expected)
        assert other.weight is not model.weight and other._options == model._options
    assert copy.copy(model).weight is model.weight


def test_what_is_decorated_under_another_name_is_wrapped_anew():
    wrapped = terra.function(split)
    other = pickle.loads(pickle.dumps(wrapped))
    assert other is not wrapped and torch.equal(other(X), split(X))
    assert other.__name__ == "split"


SPAWNED = """
import torch, terra
import torch.multiprocessing as mp

@terra.function
def work(rank, queue):
    queue.put(float((torch.ones(3) * rank).sum()))

if __name__ == "__main__":
    context = mp.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(2, queue))
    process.start()
    print(queue.get())
    process.join()
"""


def test_a_decorated_function_is_what_a_process_runs(tmp_path):
    (tmp_path / "spawned.py").write_text(SPAWNED)
    done = subprocess.run([sys.executable, str(tmp_path / "spawned.py")], capture_output=True, text=True, timeout=120)
    assert done.stdout == "6.0\n", done.stderr
