"""Runs one program eagerly and under Terra and compares everything that the program could see.

A program is a function of a `Trial`. It builds its model from the trial's seed, hands the functions that Terra should
co-execute to `Trial.function`, says with `Trial.watch` which objects hold its state, and iterates with `Trial.loop`:

    def program(t):
        model, opt = ...
        t.watch(model=model, opt=opt)

        @t.function
        def step(x): ...

        for i in t.loop(6):
            t.out(step(data[i]))

    check(program, "exact")

On the eager side `Trial.function` returns its argument. Each side runs in two ways: *stepwise*, where all state is
read after every iteration, and *ahead*, where nothing is read before the last iteration has been called, so that
Python may run ahead of the graph and results of the middle of the program are awaited at the end.
"""

import contextlib
import io
import random
import re
import traceback

import numpy as np
import terra
import torch
from snapshot import Tolerance, difference, freeze

SEED = 1234


class Trial:
    """One run of a program: which side, how, and what was seen."""

    def __init__(self, side, stepwise, options):
        self.side, self.stepwise, self.options = side, stepwise, options
        self.functions = []
        self.watched = {}
        self.snapshots = []
        self.outs = []
        self.logs = []
        self.stdout = ""
        self.error = None
        self.trace = ""

    @property
    def under_terra(self):
        return self.side == "terra"

    def function(self, fn=None, **options):
        """`terra.function` on Terra's side, nothing on the eager side. A decorator, with or without options."""
        if fn is None:
            return lambda inner: self.function(inner, **options)
        if not self.under_terra:
            return fn
        wrapped = terra.function(fn, **{**self.options, **options})
        self.functions.append(wrapped)
        return wrapped

    def watch(self, **objects):
        """Names objects whose whole state is compared: tensors, modules, optimizers, generators, containers."""
        self.watched.update(objects)

    def loop(self, count):
        """Iterations of the program. On Terra's side compilation is awaited between them, so that every program goes
        through recording, unfused and compiled co-execution."""
        for i in range(count):
            yield i
            if self.stepwise or i in (2, 4):
                self.wait_compiled()
            if self.stepwise:
                self.snapshot(f"iteration {i}")

    def wait_compiled(self):
        for fn in self.functions:
            fn.wait_compiled()

    def out(self, *values):
        """Results to compare: at once when stepwise, as late as possible when ahead."""
        self.outs.append([freeze(v) for v in values] if self.stepwise else list(values))

    def log(self, *values):
        """Python values to compare."""
        self.logs.append([freeze(value) for value in values])

    @contextlib.contextmanager
    def catches(self, kind=Exception):
        """Expects that the block may raise and keeps what it raised."""
        try:
            yield
            self.logs.append("nothing raised")
        except kind as error:
            self.logs.append(describe(error))

    def snapshot(self, name):
        everything = {**self.watched, "torch generator": torch.default_generator}
        if name == "end":
            everything["outs"] = self.outs
        self.snapshots.append((name, freeze(everything, memory=name == "end")))

    def run(self, program):
        torch.manual_seed(SEED)
        np.random.seed(SEED)
        random.seed(SEED)
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            try:
                program(self)
            except Exception as error:
                self.error = describe(error)
                self.trace = traceback.format_exc()
                self.outs = []
            self.snapshot("end")
            self.outs = [freeze(values) for values in self.outs]
        self.stdout = text.getvalue()
        self.logs.append(["python random", random.random(), "numpy random", float(np.random.rand())])
        return self


def describe(error):
    return [type(error).__name__, str(error)]


FLOAT = re.compile(r"(?<![\w.])[-+]?\d+\.\d*(?:[eE][-+]?\d+)?")


def text_difference(eager, other, tolerance):
    """Printed text must agree; numbers in it as closely as tensors."""
    if eager == other:
        return None
    if tolerance.exact or FLOAT.sub("#", eager) != FLOAT.sub("#", other):
        return f"printed text differs:\n--- eager\n{eager}\n--- terra\n{other}"
    numbers = [[float(n) for n in FLOAT.findall(text)] for text in (eager, other)]
    if not np.allclose(numbers[0], numbers[1], rtol=max(tolerance.rtol, 1e-3), atol=max(tolerance.atol, 2e-4)):
        return f"printed numbers differ:\n--- eager\n{eager}\n--- terra\n{other}"
    return None


def trial_difference(eager, other, tolerance):
    """The first difference between two trials in words, or None."""
    if eager.error != other.error:
        where = other.trace or eager.trace
        return f"program ended with {other.error}, eagerly with {eager.error}\n{where}"
    found = difference(eager.outs, other.outs, tolerance, "out") or difference(eager.logs, other.logs, tolerance, "log")
    if found:
        return found
    if len(eager.snapshots) != len(other.snapshots):
        return f"{len(other.snapshots)} snapshots, eagerly {len(eager.snapshots)}"
    for (name, expected), (_, actual) in zip(eager.snapshots, other.snapshots, strict=False):
        found = difference(expected, actual, tolerance, name)
        if found:
            return found
    return text_difference(eager.stdout, other.stdout, tolerance)


def check(program, numerics="exact", *, coexecutes=True, tolerance=None, ways=(True, False), **options):
    """Fails unless `program` behaves under Terra as eagerly. Returns Terra's trials.

    `coexecutes`: at least one region must have been co-executed, so that the test says something.
    """
    tolerance = Tolerance() if numerics == "exact" else tolerance or Tolerance.fast()
    trials = []
    for stepwise in ways:
        eager = Trial("eager", stepwise, {}).run(program)
        other = Trial("terra", stepwise, {"numerics": numerics, **options}).run(program)
        way = "stepwise" if stepwise else "ahead"
        assert eager.error is None, f"the program itself fails: {eager.trace}"
        found = trial_difference(eager, other, tolerance)
        assert not found, f"[{numerics}, {way}] {found}"
        counts = [fn.stats() for fn in other.functions]
        if coexecutes:
            ran = sum(c["regions_coexecuted"] for c in counts)
            assert ran > 0, f"[{numerics}, {way}] nothing was co-executed: {counts}"
        trials.append(other)
    return trials
