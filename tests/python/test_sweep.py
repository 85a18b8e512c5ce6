"""The sweep: a small program with everything in it, disturbed at every event in turn, against eager.

Three disturbances: a forced divergence (nothing may change), an exception raised by the user's code at every call of
a torch function and at every gradient hook (all state as eager's at that point), and a kernel that fails.
"""

import pytest
import terra
import torch
import torch.nn.functional as F
from injection import FAILURE, events_of, fail_kernel_at, force_divergence_at, gates_of, recorded_events
from snapshot import Frozen, Tolerance, difference, freeze
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

    def counters(self):
        """Real 0-dim tensors: ops on them run at once, and are no events."""
        return [self.net[1].num_batches_tracked, self.second.state[self.scale]["step"]]

    def tensors(self):
        """What must be right after a kernel failed and Python had run on: all storages that were there before."""
        kept = {"net": self.net.state_dict(), "scale": self.scale.detach(), "mean": self.mean, "history": self.history}
        kept["net"].pop("1.num_batches_tracked")
        kept["scale gradient"] = self.scale.grad
        kept["momenta"] = [self.first.state[p]["momentum_buffer"] for p in self.net.parameters()]
        kept["moments"] = [self.second.state[self.scale][name] for name in ("exp_avg", "exp_avg_sq")]
        return [v.data for v in self._flat(freeze(kept))]

    def _flat(self, tree):
        if isinstance(tree, Frozen):
            return [tree]
        return [leaf for part in tree for leaf in self._flat(part)] if isinstance(tree, (list, tuple)) else []


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
    """Eager's picture of a kernel that fails: the op below autograd that is Terra's event `n` raises.

    `events`: the names of all events. Other ops are passed over: tools, uninitialised memory, arithmetic on real
    0-dim tensors, and the `detach` of saved results that a mode on the Python key causes.
    """

    def __init__(self, n, events, counters):
        super().__init__()
        self.n, self.count, self.func, self.events, self.counters = n, 0, None, events, counters

    def is_event(self, func, args):
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        if func._schema.name.startswith(("profiler::", "aten::empty", "aten::new_empty")):
            return False
        if tensors and all(any(a is c for c in self.counters) for a in tensors):
            return False
        expected = self.events[self.count] if self.count < len(self.events) else "the end"
        if expected != func._schema.name and func is torch.ops.aten.detach.default:
            return False
        assert expected == func._schema.name, f"Terra's event {self.count} is {expected}, eager calls {func}"
        return True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        event = self.is_event(func, args)
        self.count += event
        if event and self.n is not None and self.count == self.n + 1:
            self.func = func
            raise RuntimeError(FAILURE)
        return func(*args, **(kwargs or {}))


def has_a_kernel(func):
    """False for views: they only make another tensor of the same memory."""
    aliases = [r.alias_info for r in func._schema.returns]
    return not aliases or any(a is None or a.is_write for a in aliases)


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
    """For every event of a step, what eager is like when that op fails."""
    events = recorded_events(eager_warmed_up().step, batch(50))
    for n in range(len(events)):
        program = eager_warmed_up()
        torch.manual_seed(9)
        mode = RaiseAtOp(n, events, program.counters())
        outcome = run_with(mode, program.step, batch(50))
        assert mode.func is not None, outcome
        yield n, mode.func, outcome[0], program


def test_sweep_counts_what_terra_counts():
    """The sweep of failures below relies on it."""
    events = recorded_events(eager_warmed_up().step, batch(50))
    eager = eager_warmed_up()
    mode = RaiseAtOp(None, events, eager.counters())
    run_with(mode, eager.step, batch(50))
    program, step = warmed_up("exact")
    assert events_of(step, lambda: step(batch(50))) == mode.count == len(events)


@pytest.mark.parametrize("precise", [True, False])
def test_kernel_failure_at_every_event(precise, numerics):
    """Python has run on, but storages are as at the failing op, the error comes at the latest with `synchronize`, and
    the next region starts clean. Ops that can fail on data are gates under `precise_errors`: all state is eager's.
    """
    tolerance = tolerance_of(numerics)
    failures = precisely = 0
    for n, func, outcome, eager in failing_ops():
        program, step = warmed_up(numerics, precise_errors=precise)
        gates = gates_of(step)
        name = func._schema.name
        torch.manual_seed(9)
        fail_kernel_at(step, n)
        x = batch(50)
        try:
            step(x)
            terra.synchronize()
            excused = not has_a_kernel(func) or (name in gates and not precise)
            assert excused, f"{name}, event {n}, did not fail"
            continue
        except RuntimeError as error:
            assert FAILURE in str(error), f"{name}, event {n}: {error}"
            raised = describe(error)
        where = f"failure of {name} at event {n}"
        pairs = zip(eager.tensors(), program.tensors(), strict=True)
        found = [k for k, (a, b) in enumerate(pairs) if difference(Frozen({}, a), Frozen({}, b), tolerance)]
        assert not found, f"{where}: tensors {found} are not as at the failing op"
        if precise and name in gates:
            found = difference([outcome, eager.state()], [raised, program.state()], tolerance, where)
            assert not found, found
            precisely += 1
        step(batch(51))
        terra.synchronize()
        failures += 1
    assert failures > 40
    assert precisely > 0 or not precise
