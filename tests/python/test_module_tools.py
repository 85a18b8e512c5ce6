"""What inspects, traces, compiles or wraps modules works as before while their calls are served by C++."""

import os
import re
import subprocess
import sys
import warnings

import pytest
import terra
import torch
import torch._dynamo.testing
from module_calls import check, outcome
from snapshot import Tolerance, difference
from terra import _C, _module
from torch import nn
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_utils import freeze_rng_state


@pytest.fixture(autouse=True)
def as_installed():
    torch._dynamo.reset()
    yield
    _module.serve("regions")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.ReLU()])
        self.named = nn.ModuleDict({"tail": nn.Sequential(nn.Linear(3, 3), nn.Tanh())})

    def forward(self, x):
        x = self.norm(self.linear(x))
        for layer in self.layers:
            x = layer(x)
        return self.named["tail"](x)


def data():
    return torch.randn(4, 3)


def trained(call, model):
    """Results, gradients and state after two calls."""
    out = [call(data()), call(data())]
    sum(o.sum() for o in out).backward()
    return [out, [p.grad for p in model.parameters()], list(model.state_dict().values())]


# --- TorchScript, torch.fx, Dynamo, functional calls -----------------------------------------------------------------


def test_scripted_modules():
    def case():
        model = Block()
        scripted = torch.jit.script(model)
        mixed = nn.Sequential(scripted, nn.Linear(3, 3))
        with pytest.raises(AttributeError) as missing:
            scripted.nothing  # noqa: B018
        with torch.jit.optimized_execution(False):  # else the second of two equal runs computes other last bits
            results = trained(scripted, model)
        return [results, mixed(data()), scripted.linear.weight, scripted.code, str(missing.value)]

    check(case, calls=True)


def test_traced_modules_and_their_scopes():
    def case():
        model = Block().eval()
        traced = torch.jit.trace(model, data())
        graph = re.sub(r"___torch_mangle_\d+\.", "", str(traced.inlined_graph))
        assert "scope: __module.named.tail/__module.named.tail.0 # " in graph
        return [traced(data()), traced.code, graph, model(data())]

    check(case, calls=True)


def test_symbolic_tracing():
    def case():
        model = Block()
        x = data()
        before = model(x)
        graph = torch.fx.symbolic_trace(model)
        leaves = torch.fx.Tracer().trace(model)
        return [before, trained(graph, model), graph.code, str(leaves), model(x)]

    check(case, calls=True, lookups=True)


def test_symbolic_tracing_of_parameters():
    class Uses(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x * self.weight + self.weight.sum()

    check(lambda: [str(torch.fx.symbolic_trace(Uses()).graph), Uses()(data())])


def test_dynamo_finds_the_same_graph():
    def case():
        model, graphs = Block(), []

        def backend(graph, inputs):
            graphs.append([str(node.op) + str(node.target) for node in graph.graph.nodes])
            return graph

        model(data())
        torch._dynamo.reset()
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        results = trained(compiled, model)
        return [results, graphs, model(data())]

    check(case, calls=True)


def test_dynamo_compiles_in_place_and_around_breaks():
    class Breaks(Block):
        def forward(self, x):
            x = self.linear(x)
            torch._dynamo.graph_break()
            return self.norm(x)

    def case():
        compiled, count = Breaks(), torch._dynamo.testing.CompileCounter()
        compiled.compile(backend=count)
        results = trained(compiled, compiled)
        return [results, count.frame_count, count.op_count]

    check(case)


def test_dynamo_traces_module_calls_of_a_function():
    def case():
        model, count = Block(), torch._dynamo.testing.CompileCounter()
        model.linear.register_forward_hook(lambda m, a, r: r * 2)

        @torch.compile(backend=count, fullgraph=True)
        def compute(x):
            return model(x) + model.linear.weight.sum()

        return [trained(compute, model), count.frame_count, count.op_count]

    check(case)


def test_compiled_model_inside_a_region():
    torch.manual_seed(0)
    model = Block()
    count = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, backend=count)
    step = terra.function(lambda x: compiled(x) + model(x), numerics="exact")
    model.eval()
    for _ in range(4):
        x = data()
        with torch.no_grad():
            assert torch.equal(step(x), model(x) + model(x))
    assert count.frame_count == 1


def test_compiling_a_training_step_with_zero_grad():
    def case():
        model = Block()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        @torch.compile(backend="eager")
        def step(x):
            optimizer.zero_grad()
            model.zero_grad()
            loss = model(x).sum()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return [step(data()), step(data()), step(data()), model.state_dict()]

    check(case)


def test_export():
    def case():
        program = torch.export.export(Block().eval(), (data(),))
        return [[str(node.target) for node in program.graph.nodes], program.module()(data())]

    check(case)


def test_functional_call_and_transforms():
    def case():
        model = Block().eval()
        parameters = {name: p.detach() * 2 for name, p in model.named_parameters()}
        loss = lambda p, x: torch.func.functional_call(model, p, (x[None],)).sum()  # noqa: E731
        return [
            torch.func.functional_call(model, parameters, (data(),)),
            torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, data()),
            torch.func.jacrev(lambda x: model(x))(data()),
            model(data()),
        ]

    check(case, calls=True)


def test_wrappers():
    def case():
        parallel = nn.DataParallel(Block())
        averaged = torch.optim.swa_utils.AveragedModel(Block())
        averaged.update_parameters(Block())
        lazy = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
        quantized = torch.ao.quantization.quantize_dynamic(Block(), {nn.Linear})
        checkpointed = torch.utils.checkpoint.checkpoint(Block(), data(), use_reentrant=False)
        return [parallel(data()), averaged(data()), lazy(data()), lazy(data()), quantized(data()), checkpointed]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(case, calls=True)


# --- every module of torch.nn ----------------------------------------------------------------------------------------


def runs_of(info, training):
    """All samples of one module class: result or error, state and gradients of each."""

    def case():
        seen = []
        samples = info.module_inputs_func(
            info, device="cpu", dtype=torch.float32, requires_grad=True, training=training
        )
        for sample in samples:
            arguments, call = sample.constructor_input, sample.forward_input
            if call is None:
                continue
            module = info.module_cls(*arguments.args, **arguments.kwargs).to(torch.float32)
            module.train(training)
            with freeze_rng_state():
                module(*call.args, **call.kwargs)  # the first call of a lazy module is its last with a hook
                out = module(*call.args, **call.kwargs)
                if isinstance(out, torch.Tensor) and out.requires_grad and out.is_floating_point():
                    out.sum().backward()
            seen.append([out, [p.grad for p in module.parameters()], module.state_dict(), repr(module)])
        return seen

    return case


@pytest.mark.parametrize("info", module_db, ids=lambda info: info.formatted_name)
def test_every_module(info):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for training in (True, False):
            case = runs_of(info, training)
            _module.serve("never")
            own, _ = outcome(case)
            _module.serve("always")
            served, (calls, _) = outcome(case)
            assert not (found := difference(own, served, Tolerance(), "result")), found
            assert calls > 0


@pytest.mark.parametrize("info", [i for i in module_db if i.module_error_inputs_func], ids=lambda i: i.formatted_name)
def test_errors_of_modules(info):
    samples = info.module_error_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True)
    for sample in samples:
        given = sample.module_error_input

        def case(given=given):
            module = info.module_cls(*given.constructor_input.args, **given.constructor_input.kwargs)
            return module(*given.forward_input.args, **given.forward_input.kwargs)

        check(case)


# --- where it is on --------------------------------------------------------------------------------------------------


def test_only_regions_are_served():
    model, x = Block().eval(), data()
    before = _C.module_call_counts()
    model(x)
    assert _C.module_call_counts() == before
    step = terra.function(lambda x: model(x))
    step(x)
    assert _C.module_call_counts() > before


def run(code, **environment):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)


def test_switching_it_off():
    code = """
import torch
own = torch.optim.Optimizer.zero_grad, torch.nn.Module.zero_grad
import terra
from terra import _C
model = torch.nn.Linear(2, 2)
terra.function(model)(torch.ones(1, 2))
print(_C.module_call_counts() > (0, 0), own == (torch.optim.Optimizer.zero_grad, torch.nn.Module.zero_grad))
"""
    assert run(code, TERRA_FAST_MODULES="0").stdout == "False True\n"
    assert run(code, TERRA_FAST_MODULES="1").stdout == "True False\n"
    assert "TERRA_FAST_MODULES is '2'" in run(code, TERRA_FAST_MODULES="2").stderr
    with pytest.raises(ValueError, match="'sometimes' is not one of"):
        _module.serve("sometimes")


def test_other_versions_of_the_methods_are_left_alone():
    own = dict(nn.Module.__dict__)
    assert _module._known_module_calls(own)

    def call_impl(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    def lookup(self, name):
        return self.__dict__["_parameters"][name]

    assert not _module._known_module_calls({**own, "_call_impl": call_impl})
    assert not _module._known_module_calls({**own, "__getattr__": lookup})
    assert not _module._known_module_calls({**own, "_wrapped_call_impl": call_impl})
    assert not _module._known_module_calls({**own, "_call_impl": len})


def test_modules_patched_before_the_import():
    code = """
import torch
own, seen = torch.nn.Module.__call__, []
def call(self, *args):
    seen.append(type(self).__name__)
    return own(self, *args)
torch.nn.Module.__call__ = call
import terra
from terra import _C
terra.function(torch.nn.Sequential(torch.nn.Identity()))(torch.ones(1))
print(seen, _C.module_call_counts()[0])
"""
    done = run(code, TERRA_FAST_MODULES="1")
    assert done.stdout == "['Sequential', 'Identity'] 2\n", done.stderr
