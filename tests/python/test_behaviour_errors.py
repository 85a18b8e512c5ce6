"""Errors that depend on data: exact with `precise_errors`, late but never lost without; and readers of everything."""

import sys
import threading
import warnings

import pytest
import terra
import torch
import torch.nn.functional as F
from models import classes, mlp, tokens, vectors
from torch import nn
from util import check, describe

FAILING = {
    "embedding": lambda bad: F.embedding(torch.tensor([1, 99 if bad else 2]), torch.ones(5, 3)),
    "cross_entropy": lambda bad: F.cross_entropy(torch.ones(2, 5), torch.tensor([1, 7 if bad else 2])),
    "index_select": lambda bad: torch.ones(5, 3).index_select(0, torch.tensor([-9 if bad else 0])),
    "advanced_index": lambda bad: torch.ones(5, 3)[torch.tensor([1, 9 if bad else 4])],
    "gather": lambda bad: torch.ones(5, 3).gather(0, torch.tensor([[6 if bad else 0, 0, 0]])),
    "scatter": lambda bad: torch.zeros(5, 3).scatter(0, torch.tensor([[8 if bad else 0, 0, 0]]), 1.0),
    "cholesky": lambda bad: torch.linalg.cholesky(torch.eye(3) * (-1.0 if bad else 1.0)),
    "inverse": lambda bad: torch.linalg.inv(torch.eye(3) * (0.0 if bad else 1.0)),
    "integer_division": lambda bad: torch.tensor([4, 6]) // torch.tensor([2, 0 if bad else 3]),
    "bernoulli": lambda bad: torch.bernoulli(torch.tensor([0.5, 2.0 if bad else 0.5])),
    "multinomial": lambda bad: torch.multinomial(torch.tensor([0.5, -1.0 if bad else 0.5]), 1),
    "one_hot": lambda bad: F.one_hot(torch.tensor([1, 7 if bad else 2]), 5),
    "index_add": lambda bad: torch.zeros(3).index_add_(0, torch.tensor([5 if bad else 1]), torch.ones(1)),
    "binary_cross_entropy": lambda bad: F.binary_cross_entropy(torch.tensor([1.5 if bad else 0.5]), torch.ones(1)),
}


@pytest.mark.parametrize("name", FAILING)
def test_errors_on_data_are_exact_with_precise_errors(name, numerics):
    def program(t):
        net = mlp()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        t.watch(net=net, optimizer=optimizer)
        turns = []
        t.watch(turns=turns)

        @t.function
        def step(x, y, bad):
            turns.append(bad)
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            made = FAILING[name](bad)
            optimizer.step()
            turns.append("done")
            return loss, made

        for i in t.loop(9):
            with t.catches():
                t.out(*step(vectors(i), classes(i), i in (1, 5, 6)))

    check(program, numerics, precise_errors=True)


@pytest.mark.parametrize("name", FAILING)
def test_errors_on_data_come_at_the_latest_when_waiting(name, numerics):
    """The type and message are eager's, and the next region starts clean."""
    with pytest.raises(Exception) as eager:  # noqa: PT011
        FAILING[name](True)

    @terra.function(numerics=numerics)
    def step(x, bad):
        made = FAILING[name](bad)
        return (x @ x.t()).sum() + made.float().sum()

    for _ in range(6):
        torch.manual_seed(1)
        expected = step(vectors(5), False).item()
        step.wait_compiled()
    for _ in range(2):
        with pytest.raises(type(eager.value)) as caught:
            out = step(vectors(0), True)
            terra.synchronize()
            out.item()
        assert describe(caught.value) == describe(eager.value)
        torch.manual_seed(1)
        assert step(vectors(5), False).item() == pytest.approx(expected, rel=1e-5)


def test_failed_work_leaves_storages_as_at_the_failing_op(numerics):
    """What was asked for before the failing op is there; what came after is not."""
    table = torch.ones(5, 2)
    before, after = torch.zeros(2), torch.zeros(2)

    @terra.function(numerics=numerics)
    def step(index):
        before.add_(1)
        row = F.embedding(index, table)
        after.add_(row.sum(0))
        return row

    for _ in range(5):
        step(torch.tensor([1]))
        step.wait_compiled()
    terra.synchronize()
    with pytest.raises(IndexError):
        step(torch.tensor([50]))
        terra.synchronize()
    assert before.tolist() == [6, 6] and after.tolist() == [5, 5]
    step(torch.tensor([2]))
    assert before.tolist() == [7, 7] and after.tolist() == [6, 6]


def test_failure_met_by_another_thread_first_is_raised_on_the_regions_own_too(numerics):
    table, after, large = torch.ones(5, 2), torch.zeros(2), torch.ones(1000, 1000)

    @terra.function(numerics=numerics)
    def step(index):
        large @ large  # Python has left the region when the graph fails
        row = F.embedding(index, table)
        after.add_(row.sum(0))
        return row

    for _ in range(5):
        step(torch.tensor([1]))
        step.wait_compiled()
    row = step(torch.tensor([50]))
    met = []

    def read():
        try:
            row.tolist()
        except IndexError as error:
            met.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    reader.join()
    assert len(met) == 1
    with pytest.raises(IndexError):
        after.tolist()  # what the region was to add has been dropped
    assert after.tolist() == [5, 5]


def test_debugger_that_prints_every_local_at_every_line(numerics):
    """Reads wherever Python can stop."""

    def program(t):
        net = nn.Sequential(nn.Embedding(11, 8), nn.Flatten(), nn.Linear(56, 5))
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01, eps=1e-3)
        t.watch(net=net, optimizer=optimizer)

        def body(x, y):
            optimizer.zero_grad()
            embedded = net[0](x)
            hidden = embedded.mul(2).flatten(1)
            hidden = hidden.tanh()
            out = net[2](hidden)
            loss = F.cross_entropy(out, y)
            loss.backward()
            grad = net[2].weight.grad
            optimizer.step()
            return loss, grad.norm()

        step = t.function(body)

        def tracer(frame, event, arg):
            if frame.f_code is not body.__code__:
                return None
            for name, value in sorted(frame.f_locals.items()):
                if isinstance(value, torch.Tensor):
                    print(event, name, tuple(value.shape), value.detach().flatten()[:2].tolist())
            return tracer

        for i in t.loop(9):
            if i in (3, 6, 7):
                sys.settrace(tracer)
            try:
                t.out(*step(tokens(i), classes(i)))
            finally:
                sys.settrace(None)

    check(program, numerics)


def test_synchronize_waits_and_can_be_called_anywhere(numerics):
    def program(t):
        total = torch.zeros(8)
        t.watch(total=total)

        @t.function
        def step(x, i):
            y = (x * 2).sum(0)
            if t.under_terra and i == 4:
                terra.synchronize()
            total.add_(y)
            return y

        for i in t.loop(7):
            out = step(vectors(i), i)
            if t.under_terra:
                terra.synchronize()
                terra.synchronize()
            t.out(out)

    check(program, numerics)


def test_module_attributes_reach_through_the_decorator():
    net = mlp()
    fast = terra.function(net)
    assert [p is q for p, q in zip(fast.parameters(), net.parameters(), strict=True)] == [True] * 6
    fast.eval()
    assert not net.training
    assert list(fast.state_dict()) == list(net.state_dict())


def test_options_are_checked():
    with pytest.raises((ValueError, TypeError), match="numerics"):
        terra.function(lambda: None, numerics="sloppy")
    with pytest.raises(TypeError):
        terra.function(lambda: None, no_such_option=True)


def test_warnings_of_kernels_reach_the_program_every_time(numerics):
    """They come on the thread that calls, as Python's warnings, also when it has been seen what is called."""

    def program(t):
        @t.function
        def step(x):
            return x.std(0, correction=9).nan_to_num() + torch.searchsorted(torch.arange(5.0), x.T).sum()

        for i in t.loop(8):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                t.out(step(vectors(i)))
            t.log([str(warning.message)[:60] for warning in caught if "degrees of freedom" in str(warning.message)])

    check(program, numerics)


def test_warnings_that_are_errors(numerics):
    def program(t):
        state = torch.zeros(8)
        t.watch(state=state)

        @t.function
        def step(x, correction):
            state.add_(1)
            state.add_(x.std(0, correction=correction))
            state.mul_(2)

        for i in t.loop(9):
            with t.catches(UserWarning), warnings.catch_warnings():
                warnings.simplefilter("error")
                step(vectors(i), 6 if i % 3 == 2 else 1)

    check(program, numerics)
