"""Random numbers are eager's: generators inside, between and outside regions; data loading."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import classes, cnn, mlp, stepping, vectors
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from util import check

BODIES = {}


def body(fn):
    BODIES[fn.__name__] = fn
    return fn


@body
def many_distributions(x, i):
    return (
        torch.rand(3), torch.randn(2, 3), torch.randint(5, (4,)), torch.randperm(6), torch.bernoulli(x.sigmoid()),
        torch.normal(x, 1.0), x.clone().uniform_(), x.clone().normal_(0, 2),
        x.clone().exponential_(), torch.rand_like(x),
        torch.multinomial(x.softmax(1), 2), torch.empty(3).geometric_(0.3),
        torch.poisson(x.abs()), x.clone().random_(0, 9),
    )  # fmt: skip


@body
def dropouts(x, i):
    return (
        F.dropout(x, 0.3),
        F.dropout(x, 0.0),
        F.dropout(x, 1.0),
        F.alpha_dropout(x, 0.2),
        F.dropout1d(x.unsqueeze(0), 0.5),
    )


@body
def changing_probability(x, i):
    return F.dropout(x, 0.1 * i), torch.bernoulli(torch.full((4,), 0.1 * i))


@body
def masks_of_many_sizes(x, i):
    """The generator's outputs come in blocks of 624; a mask takes two an element and may begin at an odd one."""
    torch.rand(7)
    masks = [
        torch.empty(n).bernoulli_(p) for n, p in ((0, 0.5), (1, 0.1), (311, 0.9), (312, 1.0), (5000, 1e-4), (77, 0.0))
    ]
    strange = [
        torch.empty(9, 5, dtype=torch.float64).bernoulli_(0.3),
        torch.empty(33, dtype=torch.bfloat16).bernoulli_(0.7),
        torch.empty(6, 7).t().bernoulli_(0.5),
        torch.zeros(40)[3::2].bernoulli_(0.25),
        torch.empty(8).bernoulli_(0.5, generator=torch.Generator().manual_seed(i)),
    ]
    return (*masks, *strange, torch.rand(3))


@body
def seed_inside_the_region(x, i):
    torch.manual_seed(i // 2)
    a = torch.rand(3)
    torch.manual_seed(5)
    return a, F.dropout(x, 0.5), torch.initial_seed()


@body
def state_saved_and_restored(x, i):
    before = torch.get_rng_state()
    a = torch.randn(4)
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    b = F.dropout(x, 0.5)
    return a, b, (before == after).all().item()


@body
def fork_rng(x, i):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        a = torch.rand(2)
    return a, torch.rand(2)


@body
def other_random_modules(x, i):
    return x * random.random() + float(np.random.rand()), torch.rand(2) * random.randint(1, 5)


@body
def unused_draws_advance_the_generator(x, i):
    torch.rand(100)
    F.dropout(x, 0.5)
    return torch.rand(2)


@body
def modules_built_inside(x, i):
    layer = nn.Linear(8, 3)
    nn.init.xavier_uniform_(layer.weight)
    return layer(x)


@body
def gumbel_and_rsample(x, i):
    normal = torch.distributions.Normal(x.mean(0), x.std(0))
    torch.distributions.Categorical(logits=x).sample()
    return normal.rsample(), normal.log_prob(x), F.gumbel_softmax(x, hard=True)


@pytest.mark.parametrize("name", BODIES)
def test_random(name, numerics):
    check(stepping(BODIES[name]), numerics)


def test_generator_objects(numerics):
    def program(t):
        generator = torch.Generator().manual_seed(3)
        t.watch(generator=generator)

        @t.function
        def step(x):
            a = torch.rand(3, generator=generator)
            b = torch.rand(3)
            return a, b, torch.randn(2, generator=generator) + x[0, 0]

        for i in t.loop(8):
            t.out(*step(vectors(i)))
            if i == 5:
                generator.manual_seed(9)
            if i == 6:
                generator.set_state(torch.Generator().manual_seed(4).get_state())

    check(program, numerics)


def test_random_operations_between_regions(numerics):
    def program(t):
        net = cnn()
        t.watch(net=net)

        @t.function
        def step(x):
            return net(x).sum()

        for i in t.loop(9):
            t.out(step(torch.randn(4, 1, 8, 8)), torch.rand(2), torch.randperm(4))
            if i == 4:
                torch.manual_seed(7)
            if i == 6:
                t.log(int(torch.randint(100, ())))

    check(program, numerics)


def test_seed_read_right_after_a_region(numerics):
    def program(t):
        @t.function
        def step(x):
            return F.dropout(x @ x.t(), 0.5)

        for i in t.loop(8):
            t.out(step(vectors(i, 40)))
            state = torch.get_rng_state()
            t.log(state.numpy().tobytes().hex()[-64:], torch.default_generator.get_state().sum().item())

    check(program, numerics)


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader_with_shuffling(workers, numerics):
    def program(t):
        data = TensorDataset(torch.randn(22, 8), torch.randint(0, 5, (22,)))
        loader = DataLoader(data, batch_size=6, shuffle=True, num_workers=workers)
        net = nn.Sequential(mlp(), nn.Dropout(0.1))
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, eps=1e-3)
        t.watch(net=net, optimizer=optimizer)

        @t.function
        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            return loss

        for _ in t.loop(3):
            total = 0.0
            for x, y in loader:
                total += step(x, y).item()
            t.log(total)

    check(program, numerics, ways=(True,) if workers else (True, False))


def test_data_loader_inside_the_region(numerics):
    def program(t):
        data = TensorDataset(torch.randn(20, 8), torch.randint(0, 5, (20,)))
        net = mlp()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        t.watch(net=net)

        @t.function
        def epoch():
            for x, y in DataLoader(data, batch_size=8, shuffle=True):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()

        for _ in t.loop(4):
            epoch()

    check(program, numerics)


def test_random_numbers_after_an_exception(numerics):
    def program(t):
        @t.function
        def step(x, i):
            a = F.dropout(x, 0.5)
            if i in (3, 6):
                raise ValueError(i)
            return a + torch.rand(1), classes(i)

        for i in t.loop(10):
            with t.catches():
                t.out(*step(vectors(i), i))
            t.out(torch.rand(3))

    check(program, numerics)
