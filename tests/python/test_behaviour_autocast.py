"""Autocast: which casts are made, which are kept in its cache, and that calls under it are seen whole."""

import pytest
import terra
import torch
import torch.nn.functional as F
from models import vectors
from snapshot import Tolerance
from torch import nn
from util import check

HALF = torch.bfloat16
BODIES = {}


def body(fn):
    BODIES[fn.__name__] = fn
    return fn


def autocast(**options):
    return torch.autocast("cpu", **{"dtype": HALF, **options})


def network():
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 4))


@body
def plain(net, x, i):
    with autocast():
        out = net(x)
        return F.mse_loss(out, torch.zeros(len(x), 4)), out


@body
def a_weight_used_twice(net, x, i):
    """Its cast is in the cache the second time: one node, whose gradients are summed in half precision."""
    with autocast():
        out = net(x) + net(x * 2)
        return out.float().square().mean(), out


@body
def without_a_cache(net, x, i):
    with autocast(cache_enabled=False):
        out = net(x) + net(x * 2)
        return out.float().square().mean(), out


@body
def switched_off_inside(net, x, i):
    with autocast():
        h = net[0](x)
        with autocast(enabled=False):
            g = net[1](h.float())
        out = net[4](net[2](g + net[0](x)))
        return out.logsumexp(1).mean(), h, out


@body
def a_weight_changes_behind_the_cache(net, x, i):
    with autocast():
        first = net[0](x)
        with torch.no_grad():
            net[0].weight.mul_(0.9)
        second = net[0](x)
        return (first + second).sum() * 1e-3, first, second


@body
def the_cache_is_cleared_inside(net, x, i):
    with autocast():
        first = net[0](x)
        with torch.no_grad():
            net[0].weight.mul_(0.9)
        if i % 2:
            torch.clear_autocast_cache()
        second = net[0](x)
        return (first + second).sum() * 1e-3, first, second


@body
def one_after_another(net, x, i):
    with autocast():
        a = net[0](x)
    with autocast():
        b = net[0](x)
    with autocast(dtype=torch.float16):
        c = net[0](x)
    return (a.float() + b + c).square().mean(), a, b, c


@body
def attention(net, x, i):
    with autocast():
        q = net[0](x).view(1, -1, 2, 8).transpose(1, 2)
        a = F.scaled_dot_product_attention(q, q, q)
        b = torch.einsum("bhsd,bhtd->bhst", q, q).softmax(-1) @ q
        h = (a + b).transpose(1, 2).reshape(-1, 16)
        out = net[4](torch.cat([h, net[2](net[1](h))], 0))
        return F.cross_entropy(out, torch.arange(len(out)) % 4), out


@body
def convolutions(net, x, i):
    w = net[0].weight.view(8, 4, 2, 2)
    with autocast():
        y = F.conv2d(x.view(1, 1, -1, 8).expand(1, 4, -1, 8), w)
        y = F.dropout(F.batch_norm(y, torch.zeros(8), torch.ones(8)).relu(), 0.2)
        y = F.interpolate(F.avg_pool2d(y, 2), scale_factor=2.0)
        return y.float().square().mean(), y


@body
def recurrent(net, x, i):
    cell = nn.LSTMCell(16, 4)
    with autocast():
        h, c = cell(net[0](x))
        return h.float().sum() + c.float().sum(), h, c


@body
def without_grad_mode_first(net, x, i):
    """Casts that were made without grad mode are in the cache too."""
    with autocast():
        with torch.no_grad():
            a = net[0](x)
        b = net[0](x)
        return (b.float().mean() if b.requires_grad else net[4].bias.sum()), a, b


@body
def sometimes(net, x, i):
    with autocast(enabled=i % 3 != 0):
        out = net(x)
        return out.float().square().mean(), out


@body
def kernels_that_meet_autocast_again(net, x, i):
    """`matrix_exp` multiplies matrices below autograd: in half precision."""
    with autocast():
        w = net[0].weight[:8, :8]
        e, d = torch.matrix_exp(w), torch.cdist(x, x)
        inverse = torch.linalg.inv(torch.eye(8) * 2 + w * 0.01)
        return e.float().sum() * 1e-3 + d.sum() * 1e-3 + inverse.sum() * 1e-3, e, d, inverse


@body
def written_results(net, x, i):
    with autocast():
        h = net[0](x)
        h += 1
        h[:, 0] = 0
        F.relu_(h)
        return net[4](h).float().mean(), h


def stepping(fn, inside):
    def program(t):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        t.watch(net=net, optimizer=optimizer)

        @t.function
        def step(x, i):
            optimizer.zero_grad()
            if inside:
                with autocast():
                    loss, *outs = fn(net, x, i)
                    loss.backward()
            else:
                loss, *outs = fn(net, x, i)
                loss.backward()
            optimizer.step()
            return loss, outs, [out.grad_fn and out.grad_fn.name() for out in outs] if i == 7 else None

        for i in t.loop(10):
            t.out(*step(vectors(i), i))

    return program


# With one autocast around both dtypes the cache gives the wrong one: an error of PyTorch's.
CASES = [(name, inside) for name in BODIES for inside in (False, True) if (name, inside) != ("one_after_another", True)]


@pytest.mark.parametrize("name, inside", CASES, ids=lambda value: "inside" if value is True else value or "")
def test_autocast_is_as_in_eager(name, numerics, inside):
    check(stepping(BODIES[name], inside), numerics, tolerance=Tolerance.fast(2e-2, 2e-2))


def test_a_cache_that_outlives_a_region_is_as_in_eager(numerics):
    """The program is inside autocast, its functions are called there: weights stay cast as they were."""

    def program(t):
        net = network()
        t.watch(net=net)

        @t.function
        def forward(x):
            return net(x).float().square().mean()

        for i in t.loop(8):
            with autocast():
                for _ in range(2):
                    loss = forward(vectors(i))
                    loss.backward()
                    with torch.no_grad():
                        for p in net.parameters():
                            p.sub_(p.grad, alpha=0.01)
                    t.out(loss)

    check(program, numerics, tolerance=Tolerance.fast(2e-2, 2e-2))


def test_under_autocast_everything_is_recognised_above_autograd():
    def run(wrap):
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
        x = torch.randn(4, 8)

        @wrap
        def step():
            net.zero_grad()
            with autocast():
                loss = F.mse_loss(net(net(x)), x)
            loss.backward()
            return loss.detach()

        return step, net

    (eager, reference), (step, net) = run(lambda f: f), run(lambda f: terra.function(f, numerics="exact"))
    for i in range(30):
        if i == 20:
            before = step.stats()
        assert torch.equal(eager(), step())
    after = step.stats()
    counts = {key: (after[key] - before[key]) / 10 for key in ("regions_coexecuted", "spans", "span_events", "events")}
    assert counts["regions_coexecuted"] == 1, counts
    assert counts["span_events"] == counts["events"], counts
    # Casts of x, of four parameters, and of the loss's operand; four linears, two GELUs; loss, backward, detach.
    assert counts["spans"] == 6 + 6 + 3, counts
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(net.parameters(), reference.parameters(), strict=True))
