"""Python numbers that change from call to call: what operators take and refuse, complex ones, bounds of ranges.

A number that varies is fed to the graph; one that the operator refuses must raise where eager raises, and leave
everything as eager leaves it.
"""

import pytest
import torch
import torch.nn.functional as F
from models import vectors
from util import check


def fraction(i):
    return 0.1 + i * 0.01


def count(i):
    return 1 + i % 3


# name: (what is called, numbers that are taken, one that is not)
REFUSED = {
    "std_of_normal": (lambda h, a: torch.normal(0.0, a, (3,)), fraction, -1.0),
    "bounds_of_uniform": (lambda h, a: torch.empty(3).uniform_(0.0, a), fraction, -1.0),
    "bounds_of_uniform_nan": (lambda h, a: torch.empty(3).uniform_(0.0, a), fraction, float("nan")),
    "p_of_bernoulli": (lambda h, a: torch.empty(3).bernoulli_(a), fraction, 1.5),
    "rate_of_exponential": (lambda h, a: torch.empty(3).exponential_(a), fraction, -1.0),
    "high_of_randint": (lambda h, a: torch.randint(0, a, (3,)), count, 0),
    "low_of_randint": (lambda h, a: torch.randint(a, 5, (3,)), count, 5),
    "integer_division": (lambda h, a: h.long() // a, count, 0),
    "integer_rounded_division": (lambda h, a: torch.div(h.long(), a, rounding_mode="trunc"), count, 0),
    "integer_remainder": (lambda h, a: h.long() % a, count, 0),
    "integer_power": (lambda h, a: h.long() ** a, count, -2),
    "bytes_overflow": (lambda h, a: torch.full((3,), a, dtype=torch.uint8), count, 300),
    "bytes_overflow_in_place": (lambda h, a: torch.zeros(3, dtype=torch.uint8).fill_(a), count, -300),
    "half_overflows": (lambda h, a: h.half().masked_fill(h > 0, a), fraction, 1e6),
    "integers_are_not_nan": (lambda h, a: torch.zeros(3, dtype=torch.int32).fill_(a), fraction, float("nan")),
    "beta_of_smooth_l1": (lambda h, a: F.smooth_l1_loss(h, h * 0, beta=a), fraction, -1.0),
    "delta_of_huber": (lambda h, a: F.huber_loss(h, h * 0, delta=a), fraction, 0.0),
    "alpha_of_celu": (lambda h, a: F.celu(h, a), fraction, 0.0),
    "lambda_of_softshrink": (lambda h, a: F.softshrink(h, a), fraction, -1.0),
    "bounds_of_rrelu": (lambda h, a: F.rrelu(h, a, 0.5, True), fraction, 0.9),
    "p_of_dropout": (lambda h, a: F.dropout(h, a), fraction, 1.5),
    "index": (lambda h, a: h[a], count, 99),
    "end_of_arange": (lambda h, a: torch.arange(0, a, 1.0), fraction, -1.0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_numbers_that_are_refused_raise_where_eager_raises(name, numerics):
    call, taken, refused = REFUSED[name]

    def program(t):
        total = torch.zeros(6, 8)
        t.watch(total=total)

        @t.function
        def step(x, number):
            total.add_(1)
            h = x * 2
            result = call(h, number)
            total.mul_(2)
            return result, h

        for i in t.loop(14):
            with t.catches():
                t.out(*step(vectors(i), refused if i in (8, 11) else taken(i)))

    check(program, numerics)


def test_a_number_that_floats_take_is_no_reason_to_leave(numerics):
    def program(t):
        @t.function
        def step(x, n):
            return x / n, x**-n, x.floor_divide(n)

        for i in t.loop(8):
            t.out(*step(vectors(i), i))

    trials = check(program, numerics)
    assert all(fn.stats()["regions_coexecuted"] == 6 for t in trials for fn in t.functions)


def test_a_slice_that_always_fails(numerics):
    """Was recorded without results, which the next start was compared with."""

    def program(t):
        @t.function
        def step(x, i):
            total = x.sum()
            try:
                return total[i:]
            except IndexError as error:
                return total * i, str(error)

        for i in t.loop(8):
            t.out(step(vectors(i), i))

    check(program, numerics)


def test_positions_are_no_numbers(numerics):
    """A start that an element of the tensor could not hold."""

    def program(t):
        @t.function
        def step(x, i):
            data = (x * 3).to(torch.uint8).repeat(100, 1)
            return data[300 + i], data[300 + i :, 0], x.half().repeat(100, 1)[:, i:][i]

        for i in t.loop(6):
            t.out(step(vectors(0), i % 3))

    trials = check(program, numerics)
    assert all(fn.stats()["regions_coexecuted"] >= 2 for t in trials for fn in t.functions)


# Numbers that change and leave sizes as they are: co-executed after the second call.
CHANGING = {
    "arange_of_moving_bounds": lambda x, i: torch.arange(i, i + 6) + x[:, 0].long(),
    "arange_in_steps": lambda x, i: torch.arange(0.5 * i, 0.5 * i + 3, 0.5) + x[:, 0],
    "linspace": lambda x, i: torch.linspace(-i, i, 6) + x[:, 0],
    "randint": lambda x, i: torch.randint(-i, 5 + i, (6,)) + x[:, 0],
    "index_fill": lambda x, i: x.index_fill(0, torch.tensor([i % 3]), 0.5 * i),
    "scatter": lambda x, i: x.scatter(0, torch.tensor([[i % 3]]), 0.5 * i),
    "complex_constant": lambda x, i: torch.full((6,), 1j) * x[:, 0] * i,
    "complex_derivative": lambda x, i: gradient_of_angle(x * (1 + i)),
    "list_of_mixed_numbers": lambda x, i: torch._foreach_mul([x, x], [2, 0.5]),
}


def gradient_of_angle(x):
    z = torch.complex(x, x + 1).requires_grad_()
    z.angle().sum().backward()
    return z.grad


@pytest.mark.parametrize("name", CHANGING)
def test_numbers_that_change_without_changing_sizes(name, numerics):
    def program(t):
        step = t.function(CHANGING[name])
        for i in t.loop(10):
            t.out(step(vectors(i), i))

    trials = check(program, numerics)
    assert all(fn.stats()["regions_coexecuted"] >= 7 for t in trials for fn in t.functions)


def test_a_range_of_another_length_is_another_path(numerics):
    def program(t):
        @t.function
        def step(x, start, n):
            return torch.arange(start, start + n).sum() + x.sum()

        for i in t.loop(12):
            t.out(step(vectors(i), i, 3 + (i // 2) % 2))

    check(program, numerics)


def test_parameters_that_come_to_share_one_storage(numerics):
    """Operands that share memory in some calls only: no cut between operations serves both."""

    def program(t):
        net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        t.watch(net=net)

        @t.function
        def step(x):
            vector = torch.nn.utils.parameters_to_vector(net.parameters())
            torch.nn.utils.vector_to_parameters(vector.detach() * 0.9, net.parameters())
            return net(x)

        for i in t.loop(12):
            t.out(step(vectors(i)))

    check(program, numerics)
