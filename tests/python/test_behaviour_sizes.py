"""Sizes that change from call to call: what is learned at one serves the others, and results are eager's at each."""

import random

import pytest
import terra
import torch
import torch.nn.functional as F
from torch import nn
from util import check

WIDTH, HEADS, WORDS = 16, 2, 19


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, t, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        hidden = torch.ones(t, t, dtype=torch.bool).triu(1)
        weights = (q @ k.transpose(-2, -1) / 3).masked_fill(hidden, -torch.inf).softmax(-1)
        return x + F.dropout(F.gelu(self.out((weights @ v).transpose(1, 2).reshape(b, t, WIDTH))), 0.2)


def transformer():
    model = nn.Sequential(nn.Embedding(WORDS, WIDTH), Block(), Block(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-3)


def training(t, sizes, **options):
    """A step at each of the sizes (batch, length)."""
    model, optimizer = transformer()
    t.watch(model=model, optimizer=optimizer)

    @t.function(**options)
    def step(ids):
        optimizer.zero_grad()
        logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        return loss.detach(), logits.mean().detach()

    for i in t.loop(len(sizes)):
        b, length = sizes[i]
        t.out(*step((torch.arange(b * (length + 1)).view(b, length + 1) * (i + 3)) % WORDS))


def drawn(sizes, calls):
    return random.Random(0).choices(sizes, k=calls)


def test_lengths_that_come_back(numerics):
    check(lambda t: training(t, drawn([(3, 5), (3, 8), (3, 13), (3, 4)], 36)), numerics)


def test_dimensions_that_are_equal_now_and_then(numerics):
    sizes = [(4, 4), (4, WIDTH), (WIDTH, 4), (2, HEADS), (4, 7), (1, 5), (5, 1), (1, 1), (4, WORDS), (11, 11)]
    check(lambda t: training(t, drawn(sizes, 50)), numerics)


def test_a_smaller_last_batch_of_every_epoch(numerics):
    def program(t):
        model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                              nn.Flatten(), nn.Linear(6, 4))  # fmt: skip
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        t.watch(model=model, optimizer=optimizer)

        @t.function
        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        for i in t.loop(24):
            n, side = (2 if i % 4 == 3 else 5), (6, 9, 8)[i % 3]
            x = torch.sin(torch.arange(n * 3 * side * (side + 1)).view(n, 3, side, side + 1) * (i + 1.0))
            t.out(step(x, torch.arange(n) % 4))

    check(program, numerics)


def test_slices_of_varying_length_and_position(numerics):
    """The same operand, other arguments: an argument that was learned at one size must not serve another."""

    def program(t):
        weight = nn.Parameter(torch.linspace(-1, 1, 12))
        data = torch.sin(torch.arange(40.0))
        t.watch(weight=weight)

        @t.function
        def step(start, n):
            weight.grad = None
            x = data[start : start + n]
            loss = (x.unsqueeze(1) * weight[:n]).softmax(0).narrow(1, 0, n // 2).square().mean() / n
            loss.backward()
            return loss.detach(), weight.grad.sum()

        generator = random.Random(1)
        for _ in t.loop(60):
            n = generator.choice([4, 6, 7, 12])
            t.out(*step(generator.randrange(40 - n), n))

    check(program, numerics)


def test_no_elements(numerics):
    def program(t):
        layer = nn.Linear(3, 3)
        t.watch(layer=layer)

        @t.function
        def step(x):
            layer.zero_grad()
            y = F.gelu(layer(x))
            y.sum().backward()
            return y.detach() * 2

        for i in t.loop(24):
            t.out(step(torch.ones((0, 5, 1, 3)[i % 4], 3) * i))

    check(program, numerics)


def test_scalars_that_vary_with_sizes_that_vary(numerics):
    def program(t):
        weight = nn.Parameter(torch.linspace(-1, 1, 6))
        t.watch(weight=weight)

        @t.function
        def step(x, k):
            weight.grad = None
            loss = (x @ weight * k).tanh().mean() * (1 / x.shape[0])
            loss.backward()
            return loss.detach(), weight.grad

        for i in t.loop(40):
            n = (3, 5, 8, 13)[i * 7 % 4]
            t.out(*step(torch.sin(torch.arange(n * 6.0)).view(n, 6), 0.5 + i / 3))

    check(program, numerics)


def test_one_recording_is_enough_for_a_new_size():
    """Once a size is known, another one is co-executed whole, and compiled, at its second call."""
    model, optimizer = transformer()

    @terra.function
    def step(ids):
        optimizer.zero_grad()
        F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
        optimizer.step()

    def call(length):
        step(torch.arange(3 * length).view(3, length) % WORDS)
        terra.synchronize()
        step.wait_compiled()

    for length in [5, 7] * 14:
        call(length)
    before = step.stats()
    call(7)
    usual = {key: step.stats()[key] - before[key] for key in ("spans", "span_events", "events")}
    assert usual["span_events"] > usual["events"] / 2
    for length in (9, 11, 23):
        before = step.stats()
        call(length)
        recorded = step.stats()
        assert recorded["regions_recorded"] == before["regions_recorded"] + 1
        assert recorded["segments_inherited"] > before["segments_inherited"]
        call(length)
        after = step.stats()
        assert after["regions_coexecuted"] == recorded["regions_coexecuted"] + 1
        assert usual == {key: after[key] - recorded[key] for key in usual}
        assert after["survivors"] == recorded["survivors"]
    assert all(s["compiled"] for s in step._session.segments() if s["walks"] and len(s["events"]) > 1)


def test_sizes_without_end_keep_the_graph_bounded():
    model, optimizer = transformer()

    @terra.function
    def step(ids):
        optimizer.zero_grad()
        F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
        optimizer.step()

    step._session.most_nodes = 4000
    largest = 0
    for i in range(60):
        step(torch.arange(2 * (i + 2)).view(2, i + 2) % WORDS)
        largest = max(largest, step.stats()["graph_nodes"])
    assert 2000 < largest <= 4000
    lengths = [60, 61] * 3  # the newest are known
    before = step.stats()["regions_recorded"]
    for length in lengths:
        step(torch.arange(2 * length).view(2, length) % WORDS)
    terra.synchronize()
    assert step.stats()["regions_recorded"] == before


def test_a_program_whose_sizes_never_come_back_is_left_alone():
    @terra.function
    def step(x):
        return (x * 2 + 1).tanh().sum()

    for i in range(300):
        x = torch.ones(i + 1)
        assert torch.equal(step(x), (x * 2 + 1).tanh().sum())
    stats = step.stats()
    assert stats["regions_recorded"] <= 201
    assert stats["regions_eager"] >= 99


@pytest.mark.parametrize("paths", [12, 40])
def test_many_sizes_of_one_call(paths):
    """The first call decides between all of them."""

    @terra.function(numerics="exact")
    def step(x):
        return (x * 2 + 1).relu().sum()

    for turn in range(4):
        for i in range(paths):
            x = torch.arange(i + 1.0) - turn
            assert torch.equal(step(x), (x * 2 + 1).relu().sum())
    assert step.stats()["sizes"] >= paths
    assert step.stats()["regions_coexecuted"] >= paths
