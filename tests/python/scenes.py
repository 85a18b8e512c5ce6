"""One training step with a hole in it: acts are generators that do something unusual before and after its forward.

An act gets a `Scene`, may prepare things, yields once where the forward happens, and goes on in place of
`loss.backward()`. Steps of a program play an act in every turn or only in some, after plain ones were learned.
"""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from conftest import CONFORMANCE
from models import classes, vectors
from torch import nn
from util import check


class Scene:
    """What an act sees of a step. `out`: results to compare. `log`: Python values to compare."""

    def __init__(self, t, net, optimizer, x, y, i):
        self.net, self.optimizer, self.x, self.y, self.i = net, optimizer, x, y, i
        self.trial, self.results = t, []
        self.h = self.g = self.logits = self.loss = None
        self.on_h = None  # called with `h` in the middle of the forward
        self.update = True  # whether the step ends with optimizer.step()

    @staticmethod
    def network():
        return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 5))

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none=set_to_none)

    def forward(self):
        self.h = self.net[0](self.x)
        if self.on_h is not None:
            self.on_h(self.h)
        self.g = self.net[2](self.net[1](self.h))
        self.logits = self.net[4](self.net[3](self.g))
        self.loss = F.cross_entropy(self.logits, self.y)

    def out(self, *values):
        self.results.extend(values)

    def log(self, *values):
        self.trial.log(*values)

    @contextlib.contextmanager
    def catches(self):
        with self.trial.catches():
            yield


def plain(s):
    s.zero_grad()
    yield
    s.loss.backward()


def playing(act, turns, unusual, scene=Scene):
    """A program whose step plays `act` in the turns for which `unusual(i)`, else a plain step."""

    def program(t):
        net = scene.network()
        net.spare = nn.Linear(3, 2)  # its gradients stay None
        optimizer = torch.optim.SGD([p for n, p in net.named_parameters() if "spare" not in n], lr=0.1, momentum=0.9)
        t.watch(net=net, optimizer=optimizer)

        @t.function
        def step(x, y, i):
            s = scene(t, net, optimizer, x, y, i)
            playing = (act if unusual(i) else plain)(s)
            next(playing)
            s.forward()
            next(playing, None)
            if s.update:
                optimizer.step()
            return s.loss, s.logits, s.results

        for i in t.loop(turns):
            with t.catches() if "raise" in act.__name__ else contextlib.nullcontext():
                t.out(step(vectors(i), classes(i), i))

    return program


ALWAYS, SOMETIMES = lambda i: True, lambda i: i in (1, 6, 7, 10)


def cases(acts, broken=None):
    """Each act in every turn and as a surprise; under conformance both with both numerics.

    `broken`: names of acts that must fail, with the reason.
    """
    ways = [("always", ALWAYS, "fast"), ("sometimes", SOMETIMES, "exact")]
    if CONFORMANCE:
        ways += [("always", ALWAYS, "exact"), ("sometimes", SOMETIMES, "fast")]
    marks = {name: [pytest.mark.xfail(strict=True, reason=reason)] for name, reason in (broken or {}).items()}
    return [
        pytest.param(name, when, numerics, id=f"{name}-{word}-{numerics}", marks=marks.get(name, []))
        for name in acts
        for word, when, numerics in ways
    ]


def play(act, when, numerics, scene=Scene, **options):
    # A step that ends with an exception each time need not be learned.
    learned = when is SOMETIMES or "raise" not in act.__name__
    check(playing(act, 7 if when is ALWAYS else 12, when, scene), numerics, coexecutes=learned, **options)
