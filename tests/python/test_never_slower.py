"""Calls that run without the graph, for comparison or because it loses: the program cannot tell."""

import functools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import terra
import torch
import torch.nn.functional as F
from models import classes, mlp, vectors
from terra import _testing
from util import check


def eagerly(trial, calls):
    for fn in trial.functions:
        _testing.run_eagerly(fn, calls)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_training_goes_on_from_either_side_of_the_switch(numerics, optimizer):
    def program(t):
        net = torch.nn.Sequential(mlp(), torch.nn.Dropout(0.3))
        opt = optimizer(net.parameters(), lr=0.05)
        t.watch(net=net, opt=opt)

        @t.function
        def step(x, y):
            opt.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            opt.step()
            return loss.detach()

        for i in t.loop(16):
            if i in (5, 8, 12):
                eagerly(t, i // 4)
            t.out(step(vectors(i), classes(i)))

    check(program, numerics)


def test_an_eager_call_goes_on_with_history_that_the_graph_promised(numerics):
    """Hidden state is carried on from call to call, and the whole is differentiated at the end, twice."""

    def program(t):
        cell = torch.nn.GRUCell(8, 8)
        t.watch(cell=cell)
        step = t.function(lambda x, h: torch.tanh(cell(x, h)) * 1.5)
        for i in t.loop(12):
            h, seen = torch.zeros(4, 8), []
            for turn in range(4):
                if (i, turn) in ((6, 2), (8, 0), (9, 3)):
                    eagerly(t, 1)
                h = step(vectors(turn)[:4], h)
                seen.append(h)
            total = sum(s.sum() for s in seen)
            total.backward(retain_graph=True)
            total.backward()
            t.out(total.detach())

    check(program, numerics)


def test_backward_in_an_eager_call_of_a_forward_in_the_graph(numerics):
    def program(t):
        net = mlp()
        t.watch(net=net)
        forward = t.function(lambda x: net(x).pow(2).mean())
        backward = t.function(lambda loss: loss.backward())
        for i in t.loop(12):
            net.zero_grad()
            loss = forward(vectors(i))
            if i in (6, 7, 9):
                _testing.run_eagerly(backward, 1) if t.under_terra else None
            backward(loss)
            t.out(loss.detach())

    check(program, numerics)


def test_promised_values_that_nobody_has_read_are_seen_in_eager_calls(numerics):
    def program(t):
        kept = []

        @t.function
        def step(x):
            y = torch.sin(x) * 2
            kept.append(y + 1)
            return sum(k.sum() for k in kept[-3:]) + torch.stack([k.mean() for k in kept[-2:]]).max()

        for i in t.loop(14):
            if i in (6, 7, 10):
                eagerly(t, 1)
            t.out(step(vectors(i)))

    check(program, numerics)


def test_an_exception_in_an_eager_call_leaves_as_always():
    @terra.function
    def step(x, fails):
        y = x + 1
        if fails:
            raise KeyError("here")
        return y * 2

    for i in range(12):
        if i in (6, 9):
            _testing.run_eagerly(step, 1)
        if i == 6:
            with pytest.raises(KeyError, match="here"):
                step(torch.ones(3), True)
        else:
            assert torch.equal(step(torch.full((3,), float(i)), False), torch.full((3,), 2.0 * (i + 1)))
    assert step.stats()["regions_eager"] == 2


def test_a_failure_of_the_graph_is_raised_before_an_eager_call_begins():
    table = torch.arange(4.0)

    @terra.function
    def step(index):
        return table[index] + 1

    good, bad = torch.tensor([1, 2]), torch.tensor([1, 99])
    for _ in range(8):
        step(good)
    step.wait_compiled()
    try:
        poisoned = step(bad)
        _testing.run_eagerly(step, 3)
        with pytest.raises(IndexError):
            step(good)
    except IndexError:
        poisoned = None  # raised at once: the index was looked at when it was fed
        _testing.run_eagerly(step, 2)
    for _ in range(2):
        assert torch.equal(step(good), torch.tensor([2.0, 3.0]))
    if poisoned is not None:
        with pytest.raises(IndexError):
            poisoned.sum().item()


def alone(test):
    """In a process of its own: where several threads have begun regions, the hook stays."""
    name = f"_{test.__name__.removeprefix('test_')}"
    globals()[name] = test

    @functools.wraps(test)
    def run():
        code = f"import test_never_slower; test_never_slower.{name}()"
        paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, check=True, timeout=120)

    return run


def listening():
    return torch._C._dispatch_tls_is_dispatch_key_included("Fake")


@alone
def test_an_eager_call_is_without_the_hook_once_nothing_is_promised():
    seen = []

    @terra.function
    def step(x):
        seen.append(listening())
        return (x * 2).sum()

    x = torch.ones(4)
    for _ in range(6):
        kept = step(x)
    _testing.run_eagerly(step, 3)
    step(x)  # `kept` has not been given its data: somebody has to do that
    assert seen[-1]
    assert kept.item() == 8
    step(x)
    assert not seen[-1]
    assert listening()
    kept = step(x)
    assert not seen[-1]
    step(x)
    assert seen[-1]


@alone
def test_functions_called_in_an_eager_call_are_part_of_it():
    modes = []

    @terra.function
    def inner(x):
        modes.append(listening())
        return x * 3

    @terra.function
    def outer(x):
        return inner(x + 1) - 1

    x = torch.ones(4)
    for _ in range(6):
        outer(x).sum().item()
    _testing.run_eagerly(outer, 2)
    outer(x).sum().item()
    assert torch.equal(outer(x), torch.full((4,), 5.0))
    assert not modes[-1]
    assert inner.stats()["regions_recorded"] == inner.stats()["regions_coexecuted"] == 0


@alone
def test_while_one_thread_is_without_the_hook_no_other_begins_a_region():
    inside, leave = threading.Event(), threading.Event()

    @terra.function
    def waits(x):
        y = x + 1
        inside.set()
        assert leave.wait(60)
        return y

    @terra.function
    def other(x):
        return torch.cos(x) * 2

    x = torch.ones(4)
    _testing.run_eagerly(waits, 1)
    thread = threading.Thread(target=waits, args=(x,))
    thread.start()
    assert inside.wait(60)
    for _ in range(5):
        assert torch.equal(other(x), torch.cos(x) * 2)
    assert other.stats()["regions_recorded"] == 0
    leave.set()
    thread.join()
    for _ in range(5):
        assert torch.equal(other(x), torch.cos(x) * 2)
    assert other.stats()["regions_recorded"] + other.stats()["regions_coexecuted"] == 5


def until_compared(step, *args):
    for _ in range(1_000_000):
        result = step(*args)
        if step.stats()["verdicts"]:
            return result
    raise AssertionError("never compared")


@alone
def test_a_function_that_loses_is_given_back():
    @terra.function(never_slower=True)
    def step(x):
        if listening():  # what else is sure to lose on every machine?
            time.sleep(2e-3)
        return (x + 1).sum().item()

    x = torch.ones(4)
    assert until_compared(step, x) == 8.0
    stats = step.stats()
    assert stats["given_back"]
    assert stats["graph_call_seconds"] > 2e-3
    assert stats["graph_call_seconds"] > stats["eager_call_seconds"] > 0
    for _ in range(100):
        assert step(x) == 8.0
    assert step.stats()["regions_coexecuted"] == stats["regions_coexecuted"]
    assert "given back to eager" in terra.explain(step)


@alone
def test_a_function_that_wins_is_not():
    @terra.function(never_slower=True)
    def step(x):
        if not listening():
            time.sleep(2e-3)
        return (x + 1).sum().item()

    x = torch.ones(4)
    assert until_compared(step, x) == 8.0
    stats = step.stats()
    assert not stats["given_back"]
    assert stats["regions_eager"] > 0
    assert stats["eager_call_seconds"] > 2e-3
    assert "compared with eager" in terra.explain(step)


def test_it_can_be_switched_off(monkeypatch):
    step = terra.function(lambda x: (x + 1).sum().item(), never_slower=False)
    monkeypatch.setenv("TERRA_NEVER_SLOWER", "0")
    default = terra.function(lambda x: (x + 1).sum().item())
    x = torch.ones(4)
    for _ in range(3000):
        step(x), default(x)
    assert step.stats()["regions_eager"] == default.stats()["regions_eager"] == 0
