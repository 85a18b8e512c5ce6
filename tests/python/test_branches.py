"""Programs whose steps differ: each kind of backward and each kind of optimizer step is one event all the same."""

import random

import pytest
import terra
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self, width=8, blocks=3):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width)) for _ in range(blocks))
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        for block in self.blocks:
            x = F.gelu(block(x))
        return self.head(x)


def accumulated(model, optimizer, x, y):
    """Gradients of four calls; the first finds none, the others add."""
    calls = 0

    def step():
        nonlocal calls
        calls += 1
        loss = F.cross_entropy(model(x), y) / 4
        loss.backward()
        if calls % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()

    return step


def frozen_in_turns(model, optimizer, x, y):
    calls = 0

    def step():
        nonlocal calls
        calls += 1
        for p in model.blocks[0].parameters():
            p.requires_grad_(calls % 2 == 0)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def two_losses(model, optimizer, x, y):
    calls = 0

    def step():
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        out = model(x)
        loss = F.cross_entropy(out, y) if calls % 3 else out.square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def narrowed_somewhere(model, optimizer, x, y):
    """The same operations in the backward at first, and of other sizes in the end."""
    choice = random.Random(0)

    def step():
        point, side = choice.choice([None, 0, 1]), choice.choice([4, 6])
        optimizer.zero_grad()
        h = x
        for i, block in enumerate(model.blocks):
            h = torch.relu(block(h))
            if i == point:
                h = F.pad(h[:, :side], (0, 8 - side))
        loss = F.cross_entropy(model.head(h), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def one_block_left_out(model, optimizer, x, y):
    """Parameters without a gradient are other ones each time."""
    choice = random.Random(1)

    def step():
        out = choice.randrange(4)
        optimizer.zero_grad()
        h = x
        for i, block in enumerate(model.blocks):
            if i != out:
                h = h + block(h)
        loss = F.cross_entropy(model.head(h), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


PROGRAMS = [accumulated, frozen_in_turns, two_losses, narrowed_somewhere, one_block_left_out]


def make(program, optimizer_of):
    torch.manual_seed(3)
    model = Net()
    optimizer = optimizer_of(model.parameters())
    step = program(model, optimizer, torch.randn(6, 8), torch.randint(0, 5, (6,)))
    return model, optimizer, step


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
}


def assert_same_state(a, b):
    (model, optimizer, _), (reference, expected, _) = a, b
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(p, q)
        assert (p.grad is None) == (q.grad is None)
        assert p.grad is None or torch.equal(p.grad, q.grad)
        for key, value in expected.state.get(q, {}).items():
            assert torch.equal(torch.as_tensor(optimizer.state[p][key]), torch.as_tensor(value)), key


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_each_kind_of_step_is_a_handful_of_spans(program, optimizer):
    made, expected = make(program, OPTIMIZERS[optimizer]), make(program, OPTIMIZERS[optimizer])
    fn = terra.function(made[2], numerics="exact")
    for i in range(200):
        if i == 160:
            before = fn.stats()
        assert torch.equal(expected[2](), fn()), i
    after = fn.stats()
    counts = {key: after[key] - before[key] for key in ("regions_coexecuted", "spans", "span_events", "events")}
    assert counts["regions_coexecuted"] == 40, fn._session.divergences()
    assert counts["span_events"] == counts["events"], terra.explain(fn)
    assert_same_state(made, expected)


def test_more_kinds_of_backward_than_are_kept_apart():
    """Layers dropped at random: 64 kinds. Paths that meet in the middle of a backward keep the graph small."""

    def program(model, optimizer, x, y):
        choice = random.Random(2)

        def step():
            optimizer.zero_grad()
            h = x
            for block in model.blocks:
                if choice.random() < 0.7:
                    h = h + block(h)
            loss = F.cross_entropy(model.head(h), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    def made():
        torch.manual_seed(3)
        model = Net(blocks=6)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        return model, optimizer, program(model, optimizer, torch.randn(6, 8), torch.randint(0, 5, (6,)))

    actual, expected = made(), made()
    fn = terra.function(actual[2], numerics="exact")
    for i in range(300):
        if i == 200:
            before = fn.stats()
        assert torch.equal(expected[2](), fn()), i
    assert fn.stats()["regions_recorded"] - before["regions_recorded"] < 30, fn._session.divergences()
    assert_same_state(actual, expected)
