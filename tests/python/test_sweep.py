"""The sweep: a small program with everything in it, disturbed at every event in turn, against eager.

Three disturbances: a forced divergence (nothing may change), an exception raised by the user's code at every call of
a torch function and at every gradient hook (all state as eager's at that point), and a kernel that fails.
"""

import pytest
import terra
import torch
import torch.nn.functional as F
from injection import FAILURE, events_of, fail_kernel_at, force_divergence_at
from snapshot import Tolerance, difference, freeze
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from util import describe

WARM = 4


class Everything:
    """Views, in-place writes, dropout, batch norm, two optimizers, `.item()`, a branch, random numbers."""

    def __init__(self):
        torch.manual_seed(77)
        self.net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 3))
        self.scale = nn.Parameter(torch.ones(3))
        self.first = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        self.second = torch.optim.Adam([self.scale], lr=0.05, eps=1e-3, foreach=False)
        self.mean = torch.zeros(3)
        self.history = torch.zeros(5, 3)
        self.log = []
        self.turn = 0

    def step(self, x):
        self.turn += 1
        self.first.zero_grad()
        self.second.zero_grad(set_to_none=False)
        out = self.net(x + 0.1 * torch.randn_like(x)) * self.scale
        with torch.no_grad():
            self.mean.mul_(0.9).add_(out.mean(0), alpha=0.1)
            self.history[self.turn % 5].copy_(out[0])
            self.history.t()[0].add_(1)
        loss = F.cross_entropy(out, x.argmax(1) % 3)
        loss.backward()
        self.first.step()
        self.log.append(loss.item())
        if self.turn % 2:
            self.second.step()
        return out

    def state(self):
        return freeze({**vars(self), "generator": torch.default_generator})

    def tensors(self):
        """The tensors alone: what must be right after a kernel failed and Python had run on."""
        named = {"net": self.net.state_dict(), "scale": self.scale.detach(), "mean": self.mean, "history": self.history}
        grads = [p.grad for p in (*self.net.parameters(), self.scale)]
        momenta = [self.first.state[p].get("momentum_buffer") for p in self.net.parameters()]
        return freeze([named, grads, momenta])


def batch(i):
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(i))


class RaiseAtCall(TorchFunctionMode):
    """The user's own code failing at the `n`-th torch function that it calls."""

    def __init__(self, n=None):
        super().__init__()
        self.n, self.count = n, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += 1
        if self.n is not None and self.count == self.n + 1:
            raise ValueError(f"user code failed before call {self.n}")
        return func(*args, **(kwargs or {}))


class RaiseAtOp(TorchDispatchMode):
    """Eager's picture of a kernel that fails: the `n`-th op below autograd raises."""

    def __init__(self, n):
        super().__init__()
        self.n, self.count, self.name = n, 0, None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        real = func.namespace != "profiler"
        self.count += real
        if real and self.count == self.n + 1:
            self.name = str(func)
            raise RuntimeError(FAILURE)
        return func(*args, **(kwargs or {}))


def tolerance_of(numerics):
    return Tolerance() if numerics == "exact" else Tolerance.fast(1e-3, 1e-5)


def warmed_up(numerics, **options):
    """A program after its first turns under Terra, its paths (both branches) recorded and compiled."""
    program = Everything()
    step = terra.function(program.step, numerics=numerics, **options)
    for i in range(WARM):
        step(batch(i))
        step.wait_compiled()
    return program, step


def eager_warmed_up():
    program = Everything()
    for i in range(WARM):
        program.step(batch(i))
    return program


def number_of_events():
    program, step = warmed_up("exact")
    return max(events_of(step, lambda: step(batch(90))), events_of(step, lambda: step(batch(91))))


def test_every_region_is_co_executed_without_disturbance(numerics):
    program, step = warmed_up(numerics)
    before = step.stats()
    for i in range(4):
        step(batch(10 + i))
        step.wait_compiled()
    after = step.stats()
    assert after["regions_coexecuted"] - before["regions_coexecuted"] == 4, (before, after)
    assert after["regions_diverged"] == before["regions_diverged"]
    eager = eager_warmed_up()
    for i in range(4):
        eager.step(batch(10 + i))
    found = difference(eager.state(), program.state(), tolerance_of(numerics))
    assert not found, found


@pytest.mark.parametrize("reads", ["state read after each", "state read at the end"])
def test_divergence_at_every_event(reads, numerics):
    """One long run: in every region a divergence is forced one event later than before."""
    tolerance = tolerance_of(numerics)
    eager = eager_warmed_up()
    program, step = warmed_up(numerics)
    forced = step.stats()["regions_diverged"]
    count = number_of_events()
    assert count > 50
    torch.manual_seed(5)
    expected = []
    for n in range(count):
        expected.append((freeze(eager.step(batch(n))), eager.state() if "each" in reads or n == count - 1 else None))
    torch.manual_seed(5)
    for n in range(count):
        force_divergence_at(step, n)
        out = step(batch(n))
        if expected[n][1] is not None:
            found = difference(expected[n], (freeze(out), program.state()), tolerance, f"divergence at event {n}")
            assert not found, found
        if n % 8 == 7:
            step.wait_compiled()
    assert step.stats()["regions_diverged"] - forced >= count // 3


def run_with(mode, step, x):
    """What a call under a mode returned or raised. A mode can raise inside `no_grad().__exit__`: grad mode is part of
    the outcome, and put back."""
    try:
        with mode:
            outcome = step(x)
        outcome = freeze(outcome)
    except (ValueError, RuntimeError) as error:
        outcome = describe(error)
    outcome = [outcome, torch.is_grad_enabled()]
    torch.set_grad_enabled(True)
    return outcome


def number_of_calls():
    program, x, mode = Everything(), batch(0), RaiseAtCall()
    with mode:
        program.step(x)
    return mode.count


def test_exception_in_user_code_at_every_call(numerics):
    """Raised, caught by the caller, compared, and then the next region runs undisturbed."""
    tolerance = tolerance_of(numerics)
    count = number_of_calls()
    assert count > 30
    eager = eager_warmed_up()
    program, step = warmed_up(numerics)
    torch.manual_seed(6)
    expected = []
    for n in range(count):
        expected.append([run_with(RaiseAtCall(n), eager.step, batch(n)), eager.state()])
        expected[-1] += [freeze(eager.step(batch(n))), eager.state()]
    torch.manual_seed(6)
    for n in range(count):
        actual = [run_with(RaiseAtCall(n), step, batch(n)), program.state()]
        step.wait_compiled()
        actual += [freeze(step(batch(n))), program.state()]
        step.wait_compiled()
        found = difference(expected[n], actual, tolerance, f"exception at call {n}")
        assert not found, found


def test_exception_in_every_gradient_hook(numerics):
    """The same from hooks, which the engine calls in the middle of backward."""

    def hook_at(program):
        program.fail_at, program.hooks = None, 0

        def hook(grad):
            program.hooks += 1
            if program.hooks - 1 == program.fail_at:
                raise ValueError(f"hook {program.fail_at} failed")

        for p in (*program.net.parameters(), program.scale):
            p.register_hook(hook)
        return program

    tolerance = tolerance_of(numerics)
    eager = hook_at(eager_warmed_up())
    program, step = warmed_up(numerics)
    hook_at(program)
    states = []
    for run, thing in ((eager.step, eager), (step, program)):
        torch.manual_seed(8)
        seen = []
        for n in range(2 * 7):
            thing.hooks, thing.fail_at = 0, n if n < 7 else None
            with torch.random.fork_rng():
                torch.manual_seed(n)
                try:
                    seen.append(freeze(run(batch(n))))
                except ValueError as error:
                    seen.append(describe(error))
            seen.append(thing.state())
            if thing is program:
                step.wait_compiled()
        states.append(seen)
    found = difference(*states, tolerance, "hook")
    assert not found, found


def failing_ops():
    """For every op below autograd of an eager step, what eager is like when that op fails."""
    n = 0
    while True:
        program = eager_warmed_up()
        torch.manual_seed(9)
        mode = RaiseAtOp(n)
        outcome = run_with(mode, program.step, batch(50))
        if mode.name is None:
            return
        yield n, mode.name, outcome, program
        n += 1


@pytest.mark.parametrize("precise", [True, False])
def test_kernel_failure_at_every_event(precise, numerics):
    """Under `precise_errors` all state is eager's. Otherwise Python has run on: storages are as at the failing op, the
    error comes at the latest with `synchronize`, and the next region starts clean."""
    tolerance = tolerance_of(numerics)
    count = 0
    for n, name, outcome, eager in failing_ops():
        expected = eager.state() if precise else eager.tensors()
        program, step = warmed_up(numerics, precise_errors=precise)
        torch.manual_seed(9)
        fail_kernel_at(step, n)
        x = batch(50)
        with pytest.raises(RuntimeError, match=FAILURE) as caught:
            step(x)
            terra.synchronize()
        if precise:
            assert describe(caught.value) == outcome[0], f"failure of {name} at {n}"
        actual = program.state() if precise else program.tensors()
        found = difference(expected, actual, tolerance, f"failure of {name} at {n}")
        assert not found, found
        step(batch(51))
        terra.synchronize()
        count += 1
    assert count > 50
