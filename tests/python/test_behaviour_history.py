"""The autograd graph is changed, looked at or entered in unusual ways after its calls were recognised as a whole."""

import pytest
import torch
import torch.nn.functional as F
from models import classes, mlp, vectors
from torch import nn
from util import check

TURNS = 15
UNUSUAL = (9, 10, 12)  # spans are learned by then


def training(between, net=mlp):
    """A program whose step calls `between(net, loss, i)` after the forward; what it returns is compared."""

    def program(t):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        t.watch(model=model, optimizer=optimizer)

        @t.function
        def step(x, y, i):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            extra = between(model, loss, i)
            with t.catches(RuntimeError):
                loss.backward()
            optimizer.step()
            return loss, extra

        for i in t.loop(TURNS):
            t.out(*step(vectors(i), classes(i), i))

    return program


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.weight", "3.weight"])
def test_leaf_frozen_between_forward_and_backward(name, numerics):
    def freeze(model, loss, i):
        model.get_parameter(name).requires_grad_(i not in UNUSUAL)

    check(training(freeze), numerics)


def test_history_looked_at_while_a_leaf_is_frozen(numerics):
    def look(model, loss, i):
        if i in UNUSUAL:
            model[3].weight.requires_grad_(False)
            kind = loss.grad_fn.name()
            model[3].weight.requires_grad_(True)
            return kind

    check(training(look), numerics)


@pytest.mark.parametrize("name", ["0.weight", "1.weight", "3.weight", "3.bias"])
def test_leaf_modified_between_forward_and_backward(name, numerics):
    """The messages are compared too."""

    def modify(model, loss, i):
        if i in UNUSUAL:
            with torch.no_grad():
                model.get_parameter(name).mul_(0.9)

    check(training(modify), numerics)


def test_backward_from_a_leaf(numerics):
    def from_leaves(model, loss, i):
        seed = torch.full((16,), 0.5)
        model[0].bias.backward(seed)
        (model[1].bias * 1).backward(seed, retain_graph=i % 2 == 0)
        model[1].weight.view(16).backward(seed)
        seed.mul_(2)
        return seed

    check(training(from_leaves), numerics)


def test_gradients_of_gradients_are_summed_in_eagers_order(numerics):
    """tanh saves its result: the inner gradients reach it from both sides, and sums of three depend on their order."""

    def tanh_net():
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Sigmoid(), nn.Linear(16, 5))

    def adapt(model, loss, i):
        weights, total = dict(model.named_parameters()), 0
        for k in range(2):
            inner = F.cross_entropy(torch.func.functional_call(model, weights, (vectors(i + k),)), classes(i + k))
            slopes = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
            moved = {name: w - 0.1 * g for (name, w), g in zip(weights.items(), slopes, strict=True)}
            output = torch.func.functional_call(model, moved, (vectors(i + k + 9),))
            total = total + F.cross_entropy(output, classes(i + k + 9))
        total.backward()
        return total

    check(training(adapt, tanh_net), numerics)
