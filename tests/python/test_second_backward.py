"""A second backward over a graph that another one has released, in whole or in part: refused where eager does."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from util import check

# What lies between `h` and both losses. Eager's nodes of some of them save nothing, or only a number.
SHARED = {
    "tanh": torch.tanh,
    "times_a_number": lambda h: h * 2,
    "by_a_number": lambda h: h / 3.0,
    "plus_a_number": lambda h: h + 1,
    "plus_twice": lambda h: torch.add(h, h, alpha=2),
    "product": lambda h: h * h,
    "power": lambda h: h**2,
    "sum": lambda h: h.sum(0),
    "mean": lambda h: h.mean(0),
    "view": lambda h: h.view(-1),
    "picked": lambda h: h[:, [0, 2]],
    "where": lambda h: torch.where(h > 0, h, h * 2),
    "softmax": lambda h: h.softmax(-1),
    "masked": lambda h: h.masked_fill(h > 0.5, 0.0),
    "dropout": lambda h: F.dropout(h, 0.3),
    "several": lambda h: torch.tanh(h * 2) * 3 + h,
}
FIRST = {
    "released": lambda a, h: a.backward(),
    "kept": lambda a, h: a.backward(retain_graph=True),
    "released_down_to_h": lambda a, h: torch.autograd.grad(a, h),
    "kept_down_to_h": lambda a, h: torch.autograd.grad(a, h, retain_graph=True),
}
SECOND = {
    "grad": lambda b, h: torch.autograd.grad(b, h),
    "inputs": lambda b, h: b.backward(inputs=[h]),
    "plain": lambda b, h: b.backward(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("first", FIRST)
def test_second_backward(first, shared, numerics):
    def run(t):
        layer = nn.Linear(4, 6)
        t.watch(layer=layer)

        def stepping(second):
            @t.function
            def step(x):
                layer.zero_grad()
                h = layer(x)
                s = SHARED[shared](h)
                a, b = s.sum(), (s + s).mean()
                FIRST[first](a, h)
                with t.catches(RuntimeError):
                    t.log(SECOND[second](b, h))
                return a.detach(), h.grad

            return step

        steps = [stepping(second) for second in SECOND]
        for _ in t.loop(8):
            for step in steps:
                t.out(step(torch.randn(3, 4)))

    check(run, numerics)


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_node_of_an_input_runs_with_its_hooks(numerics):
    """`backward(inputs=[h])` runs the node of `h` itself, though nobody gets what it returns."""

    def run(t):
        layer = nn.Linear(4, 6)
        t.watch(layer=layer)

        @t.function
        def step(x):
            h = layer(x)
            h.grad_fn.register_hook(lambda inputs, outputs: t.log("after", len(inputs), outputs[0].sum() * 1))
            h.grad_fn.register_prehook(lambda outputs: t.log("before", outputs[0].sum() * 1))
            torch.tanh(h).sum().backward(inputs=[h], retain_graph=True)
            return h.grad, layer.weight.grad

        for _ in t.loop(8):
            t.out(step(torch.randn(3, 4)))

    check(run, numerics)
