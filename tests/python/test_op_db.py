"""PyTorch's own databases of operators, modules and optimizers, forward and gradient, under `terra.function`.

Every sample is called four times under the function of its operator: recorded, co-executed unfused, co-executed
compiled. `make test` runs a fixed slice; TERRA_CONFORMANCE=1 everything, in more dtypes.
"""

import copy
import os
import warnings

import op_db_known_failures as known
import pytest
import terra
import torch
from conftest import CONFORMANCE
from snapshot import Frozen, Tolerance, difference, freeze
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_optimizers import optim_db
from util import describe

EVERY = 1 if CONFORMANCE else 12
SAMPLES = int(os.environ.get("TERRA_OP_DB_SAMPLES", "1000" if CONFORMANCE else "3"))
CALLS = 4
DTYPES = [torch.float32]
if CONFORMANCE:
    DTYPES += [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64]

# Their results are whatever was in memory: only the metas are compared.
UNINITIALISED = {
    "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "resize_", "resize_as_",
}  # fmt: skip
# Eager's own result depends on what was in memory before: LAPACK's gelsy reads the uninitialised pivots it is given.
UNSTABLE = {"linalg.lstsq"}


def full_name(op):
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


def clone(value):
    """A copy with equal layout, so that calls do not see each other's writes."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided:
            return value.detach().clone().requires_grad_(value.requires_grad)
        with torch.no_grad():
            if value.numel() and any(s == 0 and n > 1 for s, n in zip(value.stride(), value.shape, strict=False)):
                copied = value.detach()
            else:
                copied = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).copy_(value)
                copied = torch._neg_view(copied.neg_()) if value.is_neg() else copied
                copied = copied.conj_physical_().conj() if value.is_conj() else copied
        return copied.requires_grad_(value.requires_grad)
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size) and not hasattr(value, "_fields"):
        return type(value)(clone(v) for v in value)
    if isinstance(value, dict):
        return {k: clone(v) for k, v in value.items()}
    return value


def leaves(value, found=None):
    """Tensors in nested containers, in order."""
    found = [] if found is None else found
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, (list, tuple)):
        for v in value:
            leaves(v, found)
    elif isinstance(value, dict):
        leaves(list(value.values()), found)
    return found


def call(fn, arguments):
    """Everything that one call shows: results, arguments afterwards, gradients, the exception."""
    args, kwargs = clone(arguments)
    torch.manual_seed(3)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = [fn(*args, **kwargs), args, kwargs]
    except Exception as error:
        outcome = [describe(error), args, kwargs]
    return freeze([outcome, torch.default_generator])


def with_gradients(op):
    """The op and, where its results have a history, the gradients of its inputs."""

    def run(*args, **kwargs):
        out = op(*args, **kwargs)
        differentiable = [v for v in leaves(out) if v.requires_grad and v.layout == torch.strided]
        if differentiable:
            seeds = [torch.full_like(v, 0.5).detach() for v in differentiable]
            torch.autograd.backward(differentiable, seeds)
        return out

    return run


def only_metas(tree):
    if isinstance(tree, Frozen):
        return Frozen(tree.meta, None, only_metas(tree.grad))
    return [only_metas(v) for v in tree] if isinstance(tree, list) else tree


LOW = (torch.bfloat16, torch.float16, torch.float32)


def mapped(value, change):
    """Nested arguments with `change` applied to each tensor."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size) and not hasattr(value, "_fields"):
        return type(value)(mapped(v, change) for v in value)
    return {k: mapped(v, change) for k, v in value.items()} if isinstance(value, dict) else value


def widened(tensor):
    return tensor.detach().double().requires_grad_(tensor.requires_grad) if tensor.dtype in LOW else tensor


def data_of(tree):
    """All tensors of a frozen tree, gradients too, in order."""
    if isinstance(tree, Frozen):
        return [tree.data, *data_of(tree.grad)]
    return [data for part in tree for data in data_of(part)] if isinstance(tree, (list, tuple)) else []


def as_precise_as_eager(eager_fn, arguments, expected, actual):
    """No further from the float64 result than twice what eager is, where the two differ."""
    exact = data_of(call(eager_fn, mapped(arguments, widened)))
    triples = list(zip(exact, data_of(expected), data_of(actual), strict=False))
    if not len(exact) == len(data_of(expected)) == len(data_of(actual)):
        return False
    for true, eager, terra_s in triples:
        if eager.dtype not in LOW or eager.shape != true.shape or not eager.numel():
            if eager.dtype != terra_s.dtype or not torch.equal(eager, terra_s):
                return False
            continue
        error = [(t.double() - true.double()).abs().max() for t in (eager, terra_s)]
        if not error[1] <= 2 * error[0] + true.abs().max() * torch.finfo(eager.dtype).eps:
            return False
    return True


def compare(name, samples, eager_fn, numerics, metas_only=False, close=False):
    """Calls each sample `CALLS` times under one decorated function. Returns the number of co-executed regions.

    `close`: also in exact, results need only be close."""
    step = terra.function(eager_fn, numerics=numerics)
    for number, arguments in enumerate(samples):
        expected = call(eager_fn, arguments)
        stable = not metas_only and difference(expected, call(eager_fn, arguments), Tolerance()) is None
        tolerance = Tolerance() if numerics == "exact" and not close else Tolerance.fast(5e-5, 1e-5)
        for turn in range(CALLS):
            actual = call(step, arguments)
            step.wait_compiled()
            pair = (expected, actual) if stable else (only_metas(expected), only_metas(actual))
            found = difference(*pair, tolerance, f"{name} sample {number} call {turn}")
            if found and numerics == "fast" and as_precise_as_eager(eager_fn, arguments, expected, actual):
                found = None
            assert not found, f"{found}\narguments: {str(arguments)[:600]}"
    return step.stats()["regions_coexecuted"]


def samples_of(op, dtype):
    torch.manual_seed(11)
    gradients = dtype in op.supported_backward_dtypes("cpu") and op.supports_autograd
    limit = SAMPLES if dtype == torch.float32 else min(SAMPLES, 10)
    for number, sample in enumerate(op.sample_inputs("cpu", dtype, requires_grad=gradients)):
        if number == limit:
            return
        yield [(sample.input, *sample.args), sample.kwargs]


def marked(kind, name, numerics):
    reason = known.reason(kind, name, numerics)
    marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
    return pytest.param(name, numerics, marks=marks, id=f"{name}-{numerics}")


def cases(kind, names):
    """Every name in both ways under conformance, else alternately."""
    ways = [("exact", "fast") if CONFORMANCE else (("exact", "fast")[n % 2],) for n in range(len(names))]
    return [marked(kind, name, way) for name, both in zip(names, ways, strict=True) for way in both]


OPS = {full_name(op): op for op in op_db}
MODULES = {info.name: info for info in module_db}
OPTIMIZERS = {info.optim_cls.__name__: info for info in optim_db}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "numerics"), cases("op", sorted(OPS)[::EVERY]))
def test_operator(name, numerics):
    op = OPS[name]
    for dtype in DTYPES:
        if dtype in op.supported_dtypes("cpu"):
            kinds = op.name in UNINITIALISED, op.name in UNSTABLE
            compare(f"{name} {dtype}", samples_of(op, dtype), with_gradients(op.op), numerics, *kinds)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "numerics"), cases("module", sorted(MODULES)[:: max(1, EVERY // 2)]))
def test_module(name, numerics):
    info = MODULES[name]
    for training in (True, False):
        torch.manual_seed(12)
        inputs = info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=True, training=training)
        for number, module_input in enumerate(inputs):
            if number == SAMPLES or module_input.forward_input is None:
                continue
            build = module_input.constructor_input
            torch.manual_seed(13)
            module = info.module_cls(*build.args, **build.kwargs).train(training)

            def run(*args, module=module, **kwargs):
                fresh = copy.deepcopy(module)
                if any(v.dtype == torch.float64 for v in leaves([args, kwargs])):
                    fresh.double()  # the reference of `as_precise_as_eager`
                with_gradients(fresh)(*args, **kwargs)
                return fresh

            forward = module_input.forward_input
            compare(f"{name} input {number}", [[tuple(forward.args), forward.kwargs]], run, numerics)


def settings_of(info):
    """Options of the optimizer's own database, and its implementations."""
    for sample in info.optim_inputs_func(device="cpu"):
        for way in info.supported_impls:
            if way in ("fused", "foreach"):
                yield {**sample.kwargs, way: True}
            elif way == "forloop":
                yield {**sample.kwargs, **({"foreach": False} if "foreach" in info.supported_impls else {})}


def optimize(info, options, decorate):
    """Six steps of two parameters, from one seed; all state after each."""
    torch.manual_seed(14)
    sparse = info.only_supports_sparse_grads
    layer = torch.nn.EmbeddingBag(7, 3, mode="sum", sparse=True) if sparse else torch.nn.Linear(7, 3)
    data = torch.randint(0, 7, (5, 2)) if sparse else torch.randn(5, 7)
    optimizer = info.optim_cls(layer.parameters(), **copy.deepcopy(options))

    def closure():
        optimizer.zero_grad()
        loss = layer(data).pow(2).sum()
        loss.backward()
        return loss

    @decorate
    def step():
        if info.step_requires_closure:
            return optimizer.step(closure)
        loss = closure()
        optimizer.step()
        return loss

    states = []
    for _ in range(6):
        out = step()
        states.append(freeze([out, layer, optimizer]))
        if hasattr(step, "wait_compiled"):
            step.wait_compiled()
    return states


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "numerics"), cases("optimizer", sorted(OPTIMIZERS)))
def test_optimizer(name, numerics):
    info = OPTIMIZERS[name]
    every = list(settings_of(info))
    for options in every if CONFORMANCE else every[:: max(1, len(every) // 3)]:
        try:
            expected = optimize(info, options, lambda fn: fn)
        except (RuntimeError, TypeError, ValueError):
            continue  # options that eager does not take on this machine
        actual = optimize(info, options, lambda fn: terra.function(fn, numerics=numerics))
        # The first steps of adaptive optimizers divide small numbers by small numbers.
        tolerance = Tolerance() if numerics == "exact" else Tolerance.fast(2e-3, 2e-4)
        found = difference(expected, actual, tolerance, f"{name} {options}")
        assert not found, found
