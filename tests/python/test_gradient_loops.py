"""`zero_grad` and gradient clipping served by C++ do what PyTorch's own do, in every case that is not plain too."""

import functools
import types
import warnings

import pytest
import terra
import torch
from module_calls import check
from terra import _C, _gradients, _module, _patches
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


@pytest.fixture(autouse=True)
def as_installed():
    yield
    _module.serve("regions")


@pytest.fixture
def served(monkeypatch):
    """The calls of C++ that did the work."""
    calls = []

    def noting(name, own, *args):
        result = own(*args)
        if result:
            calls.append(name)
        return result

    for name in ("clear_optimizer", "clear_module", "gradients", "module_parameters"):
        monkeypatch.setattr(_gradients._C, name, functools.partial(noting, name, getattr(_C, name)))
    return calls


def model_with_gradients(scale=1.0):
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4)))
    model[0].weight.grad = torch.randn(4, 3) * scale
    model[1][0].weight.grad = torch.randn(4, 4) * scale
    model[1][1].bias.grad = torch.randn(4) * scale
    return model


def gradients(model):
    return [p.grad for p in model.parameters()]


CLEARING = {
    "optimizer": (lambda m, **k: torch.optim.SGD(m.parameters(), lr=0.1).zero_grad(**k), "clear_optimizer"),
    "module": (lambda m, **k: m.zero_grad(**k), "clear_module"),
}


@pytest.mark.parametrize("way", CLEARING)
@pytest.mark.parametrize("options", [{}, {"set_to_none": True}, {"set_to_none": False}, {"set_to_none": 1}], ids=str)
def test_clearing(way, options, served):
    def case():
        model = model_with_gradients()
        kept = model[0].weight.grad
        CLEARING[way][0](model, **options)
        return [gradients(model), kept]

    check(case)
    plain = options.get("set_to_none", True) is True
    assert served == ([CLEARING[way][1]] if plain else [])


def test_groups_defaults_and_loaded_state(served):
    def case():
        first, second = model_with_gradients(), model_with_gradients()
        optimizer = torch.optim.AdamW([{"params": first.parameters()}], lr=0.1, foreach=True)
        optimizer.add_param_group({"params": list(second.parameters())[::-1], "lr": 0.2})
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.param_groups[0]["params"] = tuple(optimizer.param_groups[0]["params"])
        optimizer.zero_grad()  # a tuple is PyTorch's to walk
        optimizer.param_groups[0]["params"] = list(optimizer.param_groups[0]["params"])
        first[0].weight.grad = torch.ones(4, 3)
        optimizer.zero_grad()
        return [gradients(first), gradients(second)]

    check(case)
    assert served == ["clear_optimizer"]


class OwnZeroGrad(torch.optim.SGD):
    def zero_grad(self, set_to_none=True):
        self.cleared = getattr(self, "cleared", 0) + 1
        super().zero_grad(set_to_none)


class GroupsOnClass(torch.optim.SGD):
    @property
    def param_groups(self):
        self.reads = getattr(self, "reads", 0) + 1
        return self._groups

    @param_groups.setter
    def param_groups(self, value):
        self._groups = value


def test_optimizers_of_other_classes():
    def case(kind):
        model = model_with_gradients()
        optimizer = kind(model.parameters(), lr=0.1)
        optimizer.zero_grad()
        return [gradients(model), getattr(optimizer, "cleared", 0), getattr(optimizer, "reads", 0)]

    for kind in (OwnZeroGrad, GroupsOnClass):
        check(lambda kind=kind: case(kind))


def test_optimizer_that_was_never_initialised():
    check(lambda: torch.optim.SGD.__new__(torch.optim.SGD).zero_grad())
    check(lambda: torch.optim.Optimizer.zero_grad(types.SimpleNamespace(defaults={}, param_groups=[])))


class Logged(torch.Tensor):
    log = []

    @classmethod
    def __torch_function__(cls, function, kinds, args=(), kwargs=None):
        cls.log.append(getattr(function, "__name__", str(function)))
        return super().__torch_function__(function, kinds, args, kwargs or {})


class OwnGrad(nn.Parameter):
    @property
    def grad(self):
        return "always"

    @grad.setter
    def grad(self, value):
        self.assigned = value


def test_parameters_of_other_classes(served):
    def case(kind):
        Logged.log.clear()
        parameter = kind(torch.ones(3)) if kind is OwnGrad else torch.ones(3).as_subclass(kind).requires_grad_()
        if kind is Logged:
            parameter.grad = torch.ones(3)
        optimizer = torch.optim.SGD([parameter], lr=0.1)
        optimizer.zero_grad()
        return [vars(parameter), list(Logged.log)]

    for kind in (Logged, OwnGrad):
        check(lambda kind=kind: case(kind))
    assert served == []


def test_parameters_that_are_no_leaves_warn():
    def case():
        leaf = torch.ones(2, requires_grad=True)
        model = nn.Linear(2, 2)
        del model.weight
        model._parameters["weight"] = leaf * 2
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.zero_grad()
        return [str(w.message)[:60] for w in caught]

    check(case)


def test_replicas_warn():
    def case():
        model = model_with_gradients()
        model._is_replica = True
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.zero_grad()
        return [[str(w.message) for w in caught], gradients(model)]

    check(case)


class OwnParameters(nn.Linear):
    def named_parameters(self, *args, **kwargs):
        yield from list(super().named_parameters(*args, **kwargs))[:1]


class OwnWalk(nn.Linear):
    def named_modules(self, *args, **kwargs):
        return iter(())


def test_modules_that_list_their_parameters_themselves(served):
    def case(kind):
        inner = kind(2, 2)
        model = nn.Sequential(inner)
        inner.weight.grad, inner.bias.grad = torch.ones(2, 2), torch.ones(2)
        model.zero_grad()
        first = gradients(nn.ParameterList(inner._parameters.values()))
        inner.zero_grad()
        return [first, inner._parameters["weight"].grad, inner._parameters["bias"].grad]

    for kind in (OwnParameters, OwnWalk):
        check(lambda kind=kind: case(kind))
    assert served == []


def test_shared_and_nested_parameters(served):
    def case():
        model = nn.Module()
        model.layer = model_with_gradients()
        model.again, model.itself = model.layer, model
        model.list = nn.ParameterList([model.layer[0].weight, torch.ones(2)])
        model.table = nn.ParameterDict({"a": torch.ones(2), "b": model.layer[0].weight})
        model.sparse = nn.Embedding(4, 2, sparse=True)
        model.sparse(torch.tensor([1, 1])).sum().backward()
        order = [id(p) for p in model.parameters()]
        seen = [order == [id(p) for p in _gradients._listed(model.parameters())]]
        model.zero_grad()
        return [*seen, gradients(model)]

    check(case)
    assert served == ["module_parameters", "clear_module"]


def test_gradient_with_history_and_hooks():
    def case():
        weight, log = torch.ones(2, requires_grad=True), []
        (gradient,) = torch.autograd.grad((weight**3).sum(), weight, create_graph=True)
        weight.grad = gradient
        weight.register_hook(lambda g: log.append("hook"))
        torch.optim.SGD([weight], lr=0.1).zero_grad()
        gradient.sum().backward()
        return [log, weight.grad]

    check(case)


def test_profiler_shows_zero_grad(served):
    _module.serve("always")
    model = model_with_gradients()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.profiler.profile() as profile:
        optimizer.zero_grad()
    assert "Optimizer.zero_grad#SGD.zero_grad" in {event.name for event in profile.events()}
    optimizer.zero_grad()
    assert served == ["clear_optimizer"]


def test_modes_see_every_call():
    class Functions(TorchFunctionMode):
        def __init__(self):
            super().__init__()
            self.log = []

        def __torch_function__(self, function, kinds, args=(), kwargs=None):
            self.log.append(getattr(function, "__name__", str(function)))
            return function(*args, **(kwargs or {}))

    class Dispatch(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.log = []

        def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
            self.log.append(str(function))
            return function(*args, **(kwargs or {}))

    def case(kind):
        model = model_with_gradients()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with kind() as mode:
            optimizer.zero_grad()
            model[0].weight.grad = torch.ones(4, 3)
            clip_grad_norm_(model.parameters(), 1.0)
            model.zero_grad()
        return [mode.log, gradients(model)]

    for kind in (Functions, Dispatch):
        check(lambda kind=kind: case(kind))


CLIPPING = {
    "norm": lambda p: clip_grad_norm_(p, 0.5),
    "norm, large": lambda p: clip_grad_norm_(p, 1e6),
    "norm, options": lambda p: clip_grad_norm_(parameters=p, max_norm=torch.tensor(0.5), norm_type="inf"),
    "norm 1": lambda p: clip_grad_norm_(p, 1, 1),
    "norm, foreach": lambda p: clip_grad_norm_(p, 0.5, foreach=True),
    "norm, loop": lambda p: clip_grad_norm_(p, 0.5, foreach=False),
    "norm, finite": lambda p: clip_grad_norm_(p, 0.5, error_if_nonfinite=True),
    "norm, bad": lambda p: clip_grad_norm_(p, "much"),
    "value": lambda p: clip_grad_value_(p, 0.5),
    "value, loop": lambda p: clip_grad_value_(p, 0.5, foreach=False),
    "value, int": lambda p: clip_grad_value_(p, 1),
}
LISTS = {
    "generator": (lambda m: m.parameters(), True),
    "list": (lambda m: list(m.parameters()), True),
    "tuple": (lambda m: tuple(m.parameters()), True),
    "tensor": (lambda m: m[0].weight, False),
    "other generator": (lambda m: (p for p in m.parameters()), False),
    "one layer only": (lambda m: m.parameters(recurse=False), False),
    "begun": (lambda m: [g := m.parameters(), next(g)][0], False),
    "twice": (lambda m: [m[0].weight, m[0].weight], True),
    "empty": (lambda m: [], False),
    "nothing": (lambda m: None, False),
}


@pytest.mark.parametrize("clip", CLIPPING)
@pytest.mark.parametrize("given", LISTS)
def test_clipping(clip, given, served):
    def case():
        model = model_with_gradients(scale=3.0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = CLIPPING[clip](LISTS[given][0](model))
        return [result, gradients(model), [str(w.message) for w in caught]]

    check(case)
    plain = LISTS[given][1] and not clip.endswith(("loop", "finite"))
    assert ("gradients" in served) == plain


@pytest.mark.parametrize("what", ["mixed dtypes", "nan", "sparse", "no gradients", "subclass"])
def test_clipping_unusual_gradients(what):
    def case(clip):
        model = model_with_gradients()
        if what == "mixed dtypes":
            model[0].double()
            model[0].weight.grad = torch.randn(4, 3, dtype=torch.float64)
        elif what == "nan":
            model[0].weight.grad[0, 0] = torch.nan
        elif what == "sparse":
            model[0].weight.grad = torch.randn(4, 3).to_sparse()
        elif what == "no gradients":
            model.zero_grad()
        else:
            model[0].weight.grad = torch.randn(4, 3).as_subclass(Logged)
        return [clip(model.parameters()), gradients(model)]

    check(lambda: case(CLIPPING["norm"]))
    check(lambda: case(CLIPPING["value"]))


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_training_with_clipping_in_regions(numerics, served):
    def run(wrap):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def step(x):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            clip_grad_value_(list(model.parameters()), 0.05)
            optimizer.step()
            return loss.detach(), norm

        step = wrap(step)
        results = [step(torch.randn(4, 3)) for _ in range(12)]
        return [v for pair in results for v in pair] + [p.detach() for p in model.parameters()], step

    expected, _ = run(lambda f: f)
    assert served == []
    actual, step = run(terra.function(numerics=numerics))
    assert set(served) == {"clear_optimizer", "gradients", "module_parameters"}
    assert step.stats()["regions_coexecuted"] > 0
    for e, a in zip(expected, actual, strict=True):
        assert torch.equal(e, a) if numerics == "exact" else torch.allclose(e, a, rtol=1e-4, atol=1e-6)


def test_functions_in_other_hands_are_left_alone():
    def zero_grad(self, set_to_none=True):
        pass

    zero_grad.__wrapped__ = torch.optim.Optimizer.zero_grad.__wrapped__
    assert _patches.known(torch.optim.Optimizer.zero_grad.__wrapped__, _gradients._OPTIMIZER_ZERO_GRAD)
    assert not _patches.known(zero_grad, _gradients._OPTIMIZER_ZERO_GRAD)
    assert not _patches.known(nn.Module.parameters, _gradients._MODULE_ZERO_GRAD)
