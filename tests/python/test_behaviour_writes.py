"""In-place writes in grad mode: the history they give, versions, saved values, and the errors that go with them."""

import pytest
import torch
import torch.nn.functional as F
from scenes import Scene, cases, play
from torch import nn

ACTS = {}


def act(fn):
    ACTS[fn.__name__] = fn
    return fn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 5)
        self.register_buffer("mean", torch.zeros(12))
        self.register_buffer("table", torch.zeros(4, 12))
        self.gate = nn.Parameter(torch.ones(12))


class Writes(Scene):
    """A residual block whose activations are written in place, and buffers that follow them."""

    on_h = on_g = None
    between = None

    @staticmethod
    def network():
        return Block()

    def forward(self):
        self.h = self.net.first(self.x)
        if self.on_h:
            self.on_h(self.h)
        F.dropout(self.h, 0.2, inplace=True)
        self.h.relu_()
        self.g = self.net.second(self.h)
        if self.on_g:
            self.on_g(self.g)
        self.g += self.h
        self.g *= self.net.gate
        self.g.masked_fill_(self.g > 3, 3.0)
        F.leaky_relu_(self.g, 0.1)
        with torch.no_grad():
            self.net.mean.mul_(0.9).add_(self.g.mean(0), alpha=0.1)
            self.net.table[self.i % 4].copy_(self.g[0])
        self.net.table[0, 1:3] += 1
        self.logits = self.net.head(self.g)
        self.loss = F.cross_entropy(self.logits, self.y)

    def values(self):
        return self.h, self.g, self.logits, self.net.mean, self.net.table


def known(value):
    node = value.grad_fn
    return node and node.name(), value.is_leaf, value.requires_grad, value.output_nr, value._version, value._is_view()


@act
def plain_writes(s):
    s.zero_grad()
    yield
    s.log([value._version for value in s.values()])
    s.loss.backward()


@act
def nodes_of_written_values(s):
    s.zero_grad()
    yield
    s.log([known(value) for value in s.values()])
    node, names = s.g.grad_fn, []
    while node is not None:
        names.append(node.name())
        node = node.next_functions[0][0] if node.next_functions else None
    s.log(names)
    s.loss.backward()


@act
def written_after_it_was_saved(s):
    """`h` is saved by the second layer, `g` by the activation."""
    s.zero_grad()
    yield
    with torch.no_grad():
        (s.g if s.i % 2 else s.h).add_(1)
    with s.catches():
        s.loss.backward()


@act
def written_after_its_node_was_shown(s):
    s.zero_grad()
    yield
    s.log(s.g.grad_fn.name())
    with torch.no_grad():
        s.g.mul_(1.5)
    with s.catches():
        s.loss.backward()


@act
def twice_through_a_written_graph(s):
    s.zero_grad()
    yield
    s.loss.backward(retain_graph=True)
    s.loss.backward()
    with s.catches():
        s.loss.backward()


@act
def gradients_of_written_values(s):
    s.zero_grad()
    yield
    s.out(torch.autograd.grad(s.loss, [s.g, s.net.gate], retain_graph=True))
    s.loss.backward()


@act
def kept_gradients_and_hooks_move(s):
    s.zero_grad()

    def prepare(h):
        h.retain_grad()
        h.register_hook(lambda g: g * 2)

    s.on_h = prepare
    s.on_g = lambda g: g.register_hook(lambda g: g * 0.5)
    yield
    s.loss.backward()
    s.out(s.h.grad * 1)


@act
def views_of_written_values(s):
    """A view taken before the write follows it."""
    s.zero_grad()
    held = []
    s.on_h = lambda h: held.append(h[:2])
    s.on_g = lambda g: held.append(g.view(-1))
    yield
    s.log([known(view) for view in held])
    (s.loss + held[0].sum() + held[1].mean()).backward()


@act
def writes_through_views(s):
    s.zero_grad()

    def write(h):
        h[0] = 1.0
        h[:, 1:3].mul_(2)
        h.t()[3].zero_()

    s.on_h = write
    yield
    s.log(known(s.h))
    s.loss.backward()


@act
def leaves_are_not_written(s):
    s.zero_grad()
    yield
    for write in (lambda: s.net.gate.mul_(2), lambda: s.net.gate[0].add_(1), lambda: s.net.gate.relu_()):
        with s.catches():
            write()
    with torch.no_grad():
        s.net.gate.mul_(0.99)
    s.log(s.net.gate._version, s.net.gate.is_leaf)
    with s.catches():
        s.loss.backward()


@act
def buffers_get_a_history(s):
    s.zero_grad()
    yield
    buffer = torch.zeros(12)
    s.log(known(buffer))
    buffer.add_(s.g.sum(0))
    buffer[2:4].mul_(2)
    s.log(known(buffer))
    buffer.copy_(s.h[0])
    s.log(known(buffer))
    (s.loss + buffer.sum()).backward()


@act
def with_itself(s):
    s.zero_grad()

    def write(h):
        h.add_(h)
        h.mul_(h)
        h.sub_(h.detach().mean())

    s.on_h = write
    yield
    s.log(s.h._version)
    with s.catches():
        s.loss.backward()


@act
def detached_and_written(s):
    s.zero_grad()
    yield
    d = s.g.detach()
    d.mul_(0.5)
    s.log(d._version, s.g._version)
    with s.catches():
        s.loss.backward()


@act
def many_kinds_of_writes(s):
    s.zero_grad()

    def write(h):
        other = h.detach().abs() + 0.5
        h.add_(0.1).mul_(other).div_(other).sub_(other, alpha=0.1).clamp_(-2, 2)
        h.addcmul_(other, other, value=0.1).addcdiv_(other, other).lerp_(other, 0.25).neg_()
        h.index_add_(0, torch.tensor([0, 1]), h.detach()[:2].clone()).index_fill_(1, torch.tensor([3]), 0.5)
        h.masked_fill_(other > 1, 0.25).copy_(h * 2).sin_()
        h.scatter_(1, torch.zeros(2, 1, dtype=torch.long), 0.3).square_()
        h[other > 1.2] = 0.125
        F.hardtanh(h, inplace=True)

    s.on_g = write
    yield
    s.log(known(s.g))
    s.loss.backward()


@act
def counters_and_averages(s):
    s.zero_grad()
    yield
    count = s.net.__dict__.setdefault("count", torch.zeros(3, dtype=torch.long))
    count.add_(1)
    count[s.i % 3] += 2
    average = s.net.__dict__.setdefault("average", [p.detach().clone() for p in s.net.parameters()])
    with torch.no_grad():
        for a, p in zip(average, s.net.parameters(), strict=True):
            a.lerp_(p, 0.1)
        torch._foreach_mul_(average, 0.999)
    s.out(count * 1, [a._version for a in average])
    s.loss.backward()


@act
def out_arguments(s):
    s.zero_grad()
    yield
    out = torch.empty(6, 12)
    with torch.no_grad():
        torch.mul(s.h, 2, out=out)
        torch.add(out, 1, out=out)
    s.log(out._version)
    with s.catches():
        torch.mul(s.h, 2, out=out)
    s.out(out * 1)
    s.loss.backward()


@pytest.mark.parametrize("name, when, numerics", cases(ACTS))
def test_acts(name, when, numerics):
    play(ACTS[name], when, numerics, scene=Writes)
