"""Backwards with hooks: called at eager's place and in its order, while the work between is recognised in pieces."""

import contextlib
import random

import pytest
import terra
import torch
import torch.nn.functional as F
from conftest import CONFORMANCE
from models import vectors
from torch import nn
from util import check

KINDS = {}
BOTH = ("exact", "fast")


def kind(fn):
    KINDS[fn.__name__] = fn
    return fn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Steps:
    """What a kind sees: `before` the first step it may hook parameters, in `forward` results."""

    def __init__(self, t):
        self.t, self.i = t, 0
        self.net = nn.Sequential(nn.Linear(8, 12), Block(12), nn.Tanh(), Block(12), nn.Linear(12, 8))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
        self.kept, self.results = [], []
        self.on = {}  # what to do with the result of a layer
        self.retain_graph = False
        self.before_backward = self.after_backward = lambda: None

    def parameters(self):
        return list(self.net.named_parameters())

    def forward(self, x):
        for number, layer in enumerate(self.net):
            x = layer(x)
            if number in self.on:
                self.on[number](x)
        return x

    def step(self, x, y):
        self.results = []
        self.optimizer.zero_grad()
        loss = F.mse_loss(self.forward(x), y)
        self.before_backward()
        loss.backward(retain_graph=self.retain_graph)
        self.after_backward()
        self.optimizer.step()
        return [loss.detach(), *self.results]


def program(prepare, turns=8, raising=False):
    def run(t):
        s = Steps(t)
        t.watch(net=s.net, optimizer=s.optimizer, kept=s.kept)
        prepare(s)
        step = t.function(s.step)
        for i in t.loop(turns):
            s.i = i
            with t.catches() if raising else contextlib.nullcontext():
                t.out(step(vectors(i), vectors(i + 100)))

    return run


@kind
def one_on_every_parameter(s):
    for _, p in s.parameters():
        p.register_hook(lambda g: g * 0.5)


@kind
def only_looking(s):
    for name, p in s.parameters():
        p.register_hook(lambda g, name=name: s.t.log(name, tuple(g.shape), g.requires_grad, torch.is_grad_enabled()))


@kind
def on_weights_only(s):
    for name, p in s.parameters():
        if "weight" in name:
            p.register_hook(lambda g: g.clamp(-0.01, 0.01))


@kind
def on_biases_only(s):
    for name, p in s.parameters():
        if "bias" in name:
            p.register_hook(lambda g: g + g.mean())


@kind
def several_on_one_parameter(s):
    p = s.net[1].up.weight
    p.register_hook(lambda g: s.t.log("first", tuple(g.shape)))
    p.register_hook(lambda g: g * 2)
    p.register_hook(lambda g: g + 1)
    p.register_post_accumulate_grad_hook(lambda q: s.t.log("after", q is p, q.grad is p.grad, q.grad._version))
    p.register_post_accumulate_grad_hook(lambda q: q.grad.mul_(0.5).dim() == 0 or None)


@kind
def order_of_all(s):
    for name, p in s.parameters():
        p.register_hook(lambda g, name=name: s.t.log("before", name))
        p.register_post_accumulate_grad_hook(lambda p, name=name: s.t.log("after", name))
    for number in range(5):
        s.on[number] = lambda h, number=number: h.register_hook(lambda g: s.t.log("result", number))


@kind
def optimizers_in_backward(s):
    optimizers = {p: torch.optim.Adam([p], lr=0.01) for _, p in s.parameters()}

    def update(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in optimizers:
        p.register_post_accumulate_grad_hook(update)
    s.t.watch(optimizers=list(optimizers.values()))


@kind
def updates_in_place(s):
    def update(p):
        with torch.no_grad():
            p.add_(p.grad, alpha=-0.05)
        p.grad = None

    for _, p in s.parameters():
        p.register_post_accumulate_grad_hook(update)


@kind
def result_is_clamped(s):
    s.on[2] = lambda h: h.register_hook(lambda g: g.clamp(-0.01, 0.01))


@kind
def results_everywhere(s):
    for number in range(5):
        s.on[number] = lambda h, number=number: h.register_hook(lambda g: g * (1 + 0.1 * number))


@kind
def two_on_a_result(s):
    def hook(h):
        h.register_hook(lambda g: s.t.log("first", tuple(g.shape)))
        h.register_hook(lambda g: g * 2)

    s.on[1] = hook


@kind
def retained(s):
    s.on[0] = s.on[3] = lambda h: (h.retain_grad(), s.kept.append(h))

    def look():
        s.results += [h.grad for h in s.kept]
        s.kept.clear()

    s.after_backward = look


@kind
def retained_and_hooked(s):
    def both(h):
        h.register_hook(lambda g: g * 2)
        h.retain_grad()
        h.register_hook(lambda g: g * 3)
        s.kept.append(h)

    s.on[1] = both

    def look():
        s.results += [s.kept.pop().grad]

    s.after_backward = look


@kind
def gradients_are_kept(s):
    """A gradient that somebody holds is not taken over but copied."""
    for name in ("0.weight", "1.norm.bias", "4.bias"):
        p = s.net.get_parameter(name)
        p.register_hook(s.kept.append)
    s.before_backward = s.kept.clear
    s.after_backward = lambda: s.results.extend(g * 1 for g in s.kept)


@kind
def sometimes_kept(s):
    p = s.net[1].up.bias
    p.register_hook(lambda g: s.kept.append(g) if s.i % 3 == 2 else None)
    s.after_backward = lambda: [g.add_(1) for g in s.kept] if s.i % 3 == 2 else None


@kind
def result_gradients_are_kept(s):
    s.on[1] = lambda h: h.register_hook(lambda g: s.kept.append(g) if s.i % 3 == 1 else None)
    s.after_backward = lambda: [g.add_(1) for g in s.kept]


@kind
def written_in_place(s):
    """Forbidden by the documentation, and done."""
    s.on[3] = lambda h: h.register_hook(lambda g: g.mul_(0.5).mean() and None)
    s.net[0].weight.register_hook(lambda g: g.mul_(2))


@kind
def other_ways_by_turn(s):
    s.net[3].down.weight.register_hook(lambda g: g * 2 if s.i % 2 else None)
    s.net[1].norm.weight.register_hook(lambda g: g.sin() if s.i % 3 == 0 else g.cos())


@kind
def other_ways_by_data(s):
    s.net[3].down.weight.register_hook(lambda g: g * 2 if g.sum() > 0 else g + 0.1)


@kind
def values_are_read(s):
    for _, p in s.parameters()[::3]:
        p.register_hook(lambda g: s.t.log(round(float(g.norm()), 3)))


@kind
def come_and_go(s):
    handles = []

    def change():
        if s.i in (2, 5):
            handles.append(s.net[1].down.weight.register_hook(lambda g: g * 3))
        if s.i in (4, 7):
            handles.pop().remove()

    s.before_backward = change


@kind
def hooks_that_add_hooks(s):
    first, second = s.net[4].weight, s.net[0].bias
    added = []

    def add(g):
        if s.i in (3, 6):
            added.append(second.register_hook(lambda g: g * 5))

    def remove():
        while added:
            added.pop().remove()

    first.register_hook(add)
    s.after_backward = remove


@kind
def other_gradients_are_changed(s):
    early, late = s.net[4].bias, s.net[0].weight

    def change(g):
        early.grad.mul_(2)
        if s.i % 2:
            s.net[1].norm.bias.grad = torch.ones(12)

    late.register_hook(change)
    s.net[3].down.bias.register_hook(change)


@kind
def parameters_are_frozen_meanwhile(s):
    def freeze(g):
        s.net[0].bias.requires_grad_(s.i not in (3, 4))

    s.net[4].bias.register_hook(freeze)
    s.after_backward = lambda: s.net[0].bias.requires_grad_(True)


@kind
def other_backwards_inside(s):
    w = nn.Parameter(torch.ones(3))
    s.t.watch(w=w)

    def differentiate(g):
        with torch.enable_grad():
            (w * w * g.sum()).sum().backward()

    s.net[1].up.bias.register_hook(differentiate)
    s.net[3].up.bias.register_hook(lambda g: g + w.grad.sum() if w.grad is not None else g)


@kind
def graph_is_kept(s):
    s.retain_graph = True
    s.net[1].up.bias.register_hook(lambda g: g * 2)
    s.on[1] = lambda h: h.register_hook(lambda g: g * 3)


@kind
def accumulated_over_turns(s):
    s.optimizer.zero_grad = lambda: None if s.i % 2 else torch.optim.SGD.zero_grad(s.optimizer)
    for _, p in s.parameters()[::2]:
        p.register_hook(lambda g: g * 0.5)


@kind
def inside_a_backward(s):
    def look(g):
        s.t.log(torch._C._current_graph_task_id() >= 0)
        torch.autograd.Variable._execution_engine.queue_callback(lambda: s.t.log("the end"))

    s.net[3].up.bias.register_hook(look)


@kind
def accumulators_of_parameters(s):
    node = (s.net[1].up.weight * 1).grad_fn.next_functions[0][0]
    s.kept_node = node
    node.register_prehook(lambda grads: (grads[0] * 2,))
    node.register_hook(lambda *_: s.t.log("accumulated", s.net[1].up.weight.grad is not None))


@kind
def with_hooks_of_modules(s):
    s.net[1].register_full_backward_hook(lambda m, inputs, outputs: (inputs[0] * 2,))
    s.net[3].up.bias.register_hook(lambda g: g * 2)


@kind
def results_are_none(s):
    """Only a part of the results has a gradient."""
    s.on[0] = lambda h: [part.register_hook(lambda g: g * 2) for part in h.split(4, 1)]


@kind
def schedule_by_numbers(s):
    """Numbers that vary, inside hooks and in the loss."""
    for _, p in s.parameters()[::4]:
        p.register_hook(lambda g: g * (1 + s.i / 10))
    s.on[4] = lambda h: h.register_hook(lambda g: g * (0.5 + s.i))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("numerics", BOTH)
@pytest.mark.parametrize("name", KINDS)
def test_hooks(name, numerics):
    check(program(KINDS[name]), numerics)


@pytest.mark.parametrize("numerics", BOTH)
@pytest.mark.parametrize("where", ["parameter", "result", "after"])
def test_hook_that_raises_leaves_what_eager_leaves(where, numerics):
    def prepare(s):
        def fail(*_):
            if s.i in (4, 6, 7):
                raise LookupError(f"in turn {s.i}")

        if where == "parameter":
            s.net[1].up.bias.register_hook(fail)
        elif where == "after":
            s.net[1].up.bias.register_post_accumulate_grad_hook(fail)
        else:
            s.on[1] = lambda h: h.register_hook(fail)

    check(program(prepare, turns=10, raising=True), numerics)


@pytest.mark.parametrize("numerics", BOTH)
def test_backward_again_after_a_hook_raised(numerics):
    def run(t):
        a, b = nn.Linear(6, 6), nn.Linear(6, 6)
        t.watch(a=a, b=b)
        fails = [False]

        def hook(g):
            if fails[0]:
                raise LookupError("now")
            return g * 2

        b.bias.register_hook(hook)

        @t.function
        def step(x):
            h = torch.tanh(a(x))
            loss = b(h).square().sum()
            for again in range(2):
                try:
                    loss.backward(retain_graph=again == 0 and not fails[0])
                except Exception as error:
                    t.log(type(error).__name__, str(error))
                t.log([p.grad is None for p in (a.weight, a.bias, b.weight, b.bias)])
            return loss.detach()

        for i in t.loop(9):
            fails[0] = i in (5, 7)
            a.zero_grad()
            b.zero_grad()
            t.out(step(torch.randn(3, 6)))

    check(run, numerics)


@pytest.mark.parametrize("numerics", BOTH)
def test_several_roots_and_shared_parameters(numerics):
    def run(t):
        a, b = nn.Linear(6, 6), nn.Linear(6, 6)
        t.watch(a=a, b=b)
        a.weight.register_hook(lambda g: g * 2)
        b.bias.register_hook(lambda g: t.log("b"))

        @t.function
        def step(x):
            h = a(x)
            h.register_hook(lambda g: g + 1)
            first, second = b(a(h)).sum(), b(h).square().mean()
            torch.autograd.backward([first, second, h], [None, torch.tensor(0.5), torch.ones(3, 6)])
            with torch.no_grad():
                for p in (*a.parameters(), *b.parameters()):
                    p.sub_(p.grad, alpha=0.01)
                    p.grad = None
            return first.detach(), second.detach()

        for _ in t.loop(8):
            t.out(step(torch.randn(3, 6)))

    check(run, numerics)


# Random programs


def operation(what, layer, one, other):
    width = one.shape[-1]
    return [
        lambda: layer(one),
        lambda: one + other,
        lambda: one * other,
        lambda: torch.tanh(one),
        lambda: one - other.mean(0),
        lambda: F.layer_norm(one, (width,)),
        lambda: (one.view(-1, 2, width // 2).transpose(1, 2) * 0.5).reshape(-1, width),
        lambda: layer(other).relu() + one,
    ][what]()


def network_and_hooks(chance, t, state):
    """A random graph of layers, and what hooks some of its values and parameters."""
    width = 6
    layers = nn.ModuleList(nn.Linear(width, width) for _ in range(chance.randint(2, 4)))
    plan = [(chance.randrange(8), chance.randrange(100), chance.randrange(100)) for _ in range(chance.randint(3, 9))]
    choices = [
        lambda g: None,
        lambda g: g * 0.5,
        lambda g: g,
        lambda g: g.clamp(-0.1, 0.1),
        lambda g: t.log(tuple(g.shape), tuple(g.stride())),
        lambda g: g + state["i"],
        lambda g: g * 2 if state["i"] % 3 == 0 else None,
        lambda g: state["kept"].append(g) if state["i"] % 4 == 1 else None,
        lambda g: (g.t().contiguous().t() * 1) if g.dim() == 2 else g.flip(0),
    ]
    hooked = {number: (chance.choice("hrb"), chance.choice(choices)) for number in range(12) if chance.random() < 0.3}
    for p in layers.parameters():
        if chance.random() < 0.4:
            p.register_hook(chance.choice(choices))
        if chance.random() < 0.2:
            p.register_post_accumulate_grad_hook(lambda p: t.log(tuple(p.shape), p.grad._version))

    def forward(x):
        values = [x]
        for number, (what, a, b) in enumerate(plan):
            one, other = values[a % len(values)], values[b % len(values)]
            layer = layers[a % len(layers)]
            made = operation(what, layer, one, other)
            if number in hooked and made.requires_grad:
                way, hook = hooked[number]
                if way in "hb":
                    made.register_hook(hook)
                if way in "rb":
                    made.retain_grad()
                    state["retained"].append(made)
            values.append(made)
        return sum(layer(values[-1]).square().mean() for layer in layers) + values[-1].sum()

    return layers, forward


@pytest.mark.parametrize("numerics", BOTH)
@pytest.mark.parametrize("seed", range(60 if CONFORMANCE else 12))
def test_random_hooks(seed, numerics):
    def run(t):
        chance = random.Random(seed)
        state = {"i": 0, "kept": [], "retained": []}
        layers, forward = network_and_hooks(chance, t, state)
        accumulates = chance.random() < 0.3
        t.watch(layers=layers, kept=state["kept"])

        @t.function
        def step(x):
            state["retained"].clear()
            if not accumulates:
                layers.zero_grad()
            loss = forward(x) * 0.1
            loss.backward()
            with torch.no_grad():
                for p in layers.parameters():
                    if p.grad is not None:
                        p.sub_(p.grad, alpha=0.01)
            return loss.detach(), [h.grad for h in state["retained"]]

        for i in t.loop(9):
            state["i"] = i
            t.out(step(torch.randn(4, 6)))

    check(run, numerics)


# Cost


STEADY = [
    "one_on_every_parameter",
    "only_looking",
    "on_weights_only",
    "on_biases_only",
    "several_on_one_parameter",
    "order_of_all",
    "optimizers_in_backward",
    "updates_in_place",
    "result_is_clamped",
    "results_everywhere",
    "retained",
    "retained_and_hooked",
    "values_are_read",
    "graph_is_kept",
]


class Quiet:
    """A trial of which nothing is compared."""

    def log(self, *_):
        pass

    def watch(self, **_):
        pass


def steady_steps(kind):
    """`stats` before and after five steps, once all has been learned: each backward is recognised, in pieces."""
    torch.manual_seed(0)
    s = Steps(Quiet())
    kind(s)
    step = terra.function(s.step, never_slower=False)
    for i in range(40):
        step(vectors(i), vectors(i + 100))
        step.wait_compiled()
    before = step.stats()
    for i in range(5):
        step(vectors(i), vectors(i + 100))
    after = step.stats()
    assert after["pieces"] > before["pieces"]
    assert after["pieces_stepped"] == before["pieces_stepped"]
    assert after["regions_coexecuted"] == before["regions_coexecuted"] + 5
    return before, after


@pytest.mark.parametrize("name", STEADY)
def test_steady_steps_are_recognised_in_pieces(name):
    before, after = steady_steps(KINDS[name])
    assert after["span_events"] - before["span_events"] > 0.8 * (after["events"] - before["events"])


def test_explain_tells_what_is_left_to_the_engine():
    layer = nn.Linear(4, 4)

    @terra.function(never_slower=False)
    def step(x):
        h = layer(x)
        h.register_hook(lambda g: g * 2)
        return torch.autograd.grad(torch.tanh(h).sum(), layer.weight)

    for _ in range(8):
        step(torch.ones(3, 4))
    text = terra.explain(step)
    assert "backwards that were left to PyTorch's engine" in text
    assert "for some inputs only" in text
