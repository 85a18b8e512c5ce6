"""Backwards that make numbers or memory of their own (`where`'s zero, a transposed gradient's copy) are one event."""

import pytest
import terra
import torch
import torch.nn.functional as F
from util import check

MASK = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) > 0.5

FUNCTIONS = {
    "where, broadcast": lambda w, v: torch.where(MASK[0], w, -1.0),
    "where, number first": lambda w, v: torch.where(MASK, 2.0, w),
    "where, 0-dim": lambda w, v: torch.where(MASK, w, torch.tensor(-1.0)),
    "where, both": lambda w, v: torch.where(w > 0, w, v * w),
    "where, half": lambda w, v: torch.where(MASK, w.half(), -1.0).float(),
    "transposed": lambda w, v: w.t(),
    "permuted": lambda w, v: w.view(4, 3, 2).permute(2, 0, 1),
    "product with a transposed": lambda w, v: v @ w.t(),
    "einsum": lambda w, v: torch.einsum("ij,kj->ik", v, w),
    "joined": lambda w, v: torch.cat([w, v, w * 2]),
    "stacked": lambda w, v: torch.stack([w, v], dim=1),
    "rot90": lambda w, v: w.rot90(),
    "diagonal": lambda w, v: w.diagonal() + v.diagonal(),
    "addcdiv": lambda w, v: torch.addcdiv(w, v, v + 9, value=0.5),
    "prelu": lambda w, v: F.prelu(w, v[0, :1]),
    "tied embedding": lambda w, v: F.embedding(torch.tensor([0, 2, 2]), w) @ w.t(),
    "atan2": lambda w, v: torch.atan2(w, v),
    "block_diag": lambda w, v: torch.block_diag(w, v),
}


def parameters():
    torch.manual_seed(0)
    return torch.nn.Parameter(torch.randn(4, 6)), torch.nn.Parameter(torch.rand(4, 6) + 0.5)


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - {"einsum"}))  # which is not recognised as a call
def test_it_is_one_event(name):
    w, v = parameters()

    @terra.function(never_slower=False, numerics="exact")
    def step():
        w.grad = v.grad = None
        FUNCTIONS[name](w, v).square().mean().backward()

    for _ in range(8):
        step()
    before = step.stats()
    for _ in range(4):
        step()
    after = step.stats()
    assert after["regions_coexecuted"] == before["regions_coexecuted"] + 4
    events, in_spans = (after[key] - before[key] for key in ("events", "span_events"))
    assert events - in_spans <= 4 * 2, terra.explain(step)  # but for what a function makes itself


@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_eagers(name, numerics):
    """Set and accumulated, with and without an optimizer, with a hook that cuts the backward in two."""

    def program(t):
        w, v = parameters()
        opt = torch.optim.SGD([w, v], 0.1, momentum=0.9)
        t.watch(w=w, v=v, opt=opt)

        @t.function
        def step(i, hooked):
            result = FUNCTIONS[name](w, v)
            if hooked:
                result.register_hook(lambda g: g * 2)
            loss = (result * 1.5).square().mean()
            loss.backward()
            if i % 2:
                opt.step()
                opt.zero_grad(set_to_none=i % 4 == 1)
            return loss

        for i in t.loop(24):
            t.out(step(i, i >= 12))

    check(program, numerics)


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_numbers_of_a_backward_that_are_not_always_the_same(numerics):
    """What looks like a constant of the backward while the scalar stands still may be the scalar."""

    def program(t):
        w, v = parameters()
        t.watch(w=w, v=v)

        @t.function
        def step(k):
            w.grad = v.grad = None
            x = torch.where(w > k, w * k, k)
            x = F.leaky_relu(x - v, k) + F.threshold(w, k, 0.25) + F.elu(v, k) + x.clamp(-k, k + 1)
            x = torch.where(MASK, x, v.pow(k)).masked_fill(MASK, k)
            loss = (x * w).sum() + F.smooth_l1_loss(w, v, beta=k + 0.5)
            loss.backward()
            return loss, w.grad, v.grad

        numbers = [0.5] * 6 + [0.0] * 4 + [1.0] * 4 + [0.25 + 0.125 * i for i in range(10)] + [0.0, 1.0, 0.5]
        for i in t.loop(len(numbers)):
            t.out(step(numbers[i]))

    check(program, numerics)


def test_sizes_may_change():
    def program(t):
        torch.manual_seed(0)
        w = torch.nn.Parameter(torch.randn(5, 6))
        t.watch(w=w)

        @t.function
        def step(x):
            w.grad = None
            h = x.detach().requires_grad_()
            scores = h.t() @ torch.where(h > 0, h, -1.0) @ w.t()
            loss = scores.square().mean() + torch.cat([h.t(), w.t()], dim=1).mean()
            loss.backward()
            return loss, h.grad, w.grad

        sizes = [3, 3, 3, 3, 4, 4, 7, 3, 8, 9, 4, 10, 11, 12, 3, 13]
        for i in t.loop(len(sizes)):
            t.out(step(torch.randn(sizes[i], 6)))

    check(program, "exact")
    check(program, "fast")
