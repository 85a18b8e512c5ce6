"""A small MLP whose steps differ: gradients accumulated, layers frozen or left out, two losses, clipping at times."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count

import harness
import programs
import torch
from torch import nn
from torch.nn import functional as F

BLOCKS = 6


class Net(nn.Module):
    def __init__(self, width: int = 32):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.GELU()) for _ in range(BLOCKS)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor, used: Callable[[int], bool] = lambda i: True) -> torch.Tensor:
        for i, block in enumerate(self.blocks):
            if used(i):
                x = x + block(x)
        return self.head(x)


def program(step_of: Callable[..., Callable[[], object]]) -> harness.Program:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    return harness.Program(step_of(model, optimizer, torch.randn(8, 32), torch.randint(0, 10, (8,))))


def accumulated(model, optimizer, x, y):
    calls = count(1)

    def step():
        loss = F.cross_entropy(model(x), y) / 4
        loss.backward()
        if next(calls) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()

    return step


def trained(before=lambda i, model: None, loss_of=lambda i, model, x, y: F.cross_entropy(model(x), y), clips=0):
    """A program that trains in every call."""

    def step_of(model, optimizer, x, y):
        calls = count(1)

        def step():
            i = next(calls)
            before(i, model)
            optimizer.zero_grad()
            loss = loss_of(i, model, x, y)
            loss.backward()
            if clips and i % clips == 0:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return loss.detach()

        return step

    return step_of


def two_losses(i, model, x, y):
    out = model(x)
    return F.cross_entropy(out, y) if i % 2 else out.square().mean()


def layers_dropped():
    choice = random.Random(0)
    return trained(loss_of=lambda i, model, x, y: F.cross_entropy(model(x, lambda k: choice.random() < 0.8), y))


PROGRAMS = {
    "gradients of four calls accumulated": lambda: program(accumulated),
    "one block frozen in every other call": lambda: program(
        trained(before=lambda i, model: model.blocks[0].requires_grad_(i % 2 == 0))
    ),
    "two losses in turns": lambda: program(trained(loss_of=two_losses)),
    "clipping in every third call": lambda: program(trained(clips=3)),
    "layers dropped at random, 64 ways": lambda: program(layers_dropped()),
}

if __name__ == "__main__":
    raise SystemExit(programs.main(__doc__, PROGRAMS, seconds=3))
