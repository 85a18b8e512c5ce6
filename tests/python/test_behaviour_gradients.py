"""`torch.autograd.grad`, backwards into some inputs and from several roots: what they return and leave behind."""

import pytest
import torch
import torch.nn.functional as F
from scenes import Scene, cases, play
from torch import nn

ACTS = {}


def act(fn):
    ACTS[fn.__name__] = fn
    return fn


def known(tensor):
    """What the program can tell of a gradient besides its values."""
    if tensor is None:
        return None
    base = tensor._base
    return (
        tensor._is_view(),
        tensor._version,
        base is not None and (tuple(base.shape), base._version, base.requires_grad),
        tensor.is_leaf,
        tensor.requires_grad,
        tensor.stride(),
        tensor.storage_offset(),
        tensor.untyped_storage().nbytes(),
    )


def trainable(s):
    return [p for n, p in s.net.named_parameters() if "spare" not in n]


@act
def gradients_of_parameters(s):
    yield
    gradients = torch.autograd.grad(s.loss, trainable(s))
    s.log([known(g) for g in gradients])
    for parameter, gradient in zip(trainable(s), gradients, strict=True):
        parameter.grad = gradient


@act
def gradients_outlive_the_step(s):
    yield
    gradients = torch.autograd.grad(s.loss, trainable(s), retain_graph=True)
    s.out(gradients)
    s.loss.backward()


@act
def gradients_are_written(s):
    yield
    gradients = torch.autograd.grad(s.loss, trainable(s))
    with torch.no_grad():
        for parameter, gradient in zip(trainable(s), gradients, strict=True):
            gradient.mul_(0.5)
            if gradient.dim() == 2:
                gradient[0].zero_()
            parameter.sub_(gradient)
    s.log([known(g) for g in gradients])
    s.update = False


@act
def gradients_of_values_and_parameters(s):
    yield
    order = [s.h, s.net[0].weight, s.g, s.logits, s.net[4].bias]
    if s.i % 2:
        order.reverse()
    gradients = torch.autograd.grad(s.loss, order, retain_graph=True)
    s.out(gradients)
    s.log([known(g) for g in gradients])
    s.zero_grad()
    s.loss.backward()


@act
def the_same_input_twice(s):
    yield
    first, second, third = torch.autograd.grad(s.loss, [s.h, s.h, s.net[4].weight], retain_graph=True)
    s.log(first is second, known(first))
    s.out(first, second, third)
    s.zero_grad()
    s.loss.backward()


@act
def a_given_gradient_comes_back(s):
    yield
    ones, out = torch.ones_like(s.h) * 2, s.h + s.g
    a, b = torch.autograd.grad(out, [s.h, s.g], ones, retain_graph=True)
    s.log(a is ones, b is ones, known(a))
    (same,) = torch.autograd.grad(out, out, ones, retain_graph=True)
    s.log(same is ones)
    s.out(a, b, same)
    s.zero_grad()
    s.loss.backward()


@act
def gradients_share_memory_with_a_given_one(s):
    yield
    seed = torch.linspace(0, 1, s.h.shape[1])
    (g,) = torch.autograd.grad(s.h.sum(0), s.h, seed, retain_graph=True)
    s.log(known(g), g._base is seed, g.data_ptr() == seed.data_ptr())
    seed.add_(1)
    s.log(g._version)
    s.out(g)
    s.zero_grad()
    s.loss.backward()


@act
def gradients_share_memory_with_each_other(s):
    yield
    left, right = torch.autograd.grad((s.h.t().square() + s.g.t()).sum() * 2, [s.h, s.g], retain_graph=True)
    s.log(known(left), known(right))
    left.add_(1)
    s.out(left, right)
    s.zero_grad()
    s.loss.backward()


@act
def unused_inputs(s):
    yield
    spare = s.net.spare.weight
    a, b = torch.autograd.grad(s.loss, [spare, s.h], retain_graph=True, allow_unused=True)
    s.log(a, known(b))
    zeros, _ = torch.autograd.grad(s.loss, [spare, s.h], retain_graph=True, materialize_grads=True)
    s.out(b, zeros)
    with s.catches():
        torch.autograd.grad(s.loss, [spare, s.h], retain_graph=True)
    s.zero_grad()
    s.loss.backward()


@act
def unused_inputs_raise(s):
    yield
    torch.autograd.grad(s.loss, [s.h, s.net.spare.weight], allow_unused=s.i % 2 == 0)


@act
def behind_what_was_released(s):
    """Only the nodes that lead to the inputs are released."""
    yield
    torch.autograd.grad(s.loss, [s.net[4].weight])
    (g,) = torch.autograd.grad(s.g.sum(), [s.h], retain_graph=True)
    s.out(g)
    with s.catches():
        torch.autograd.grad(s.loss, [s.h])
    with s.catches():
        s.loss.backward()
    s.zero_grad()
    s.g.mean().backward()


@act
def a_second_time_raises(s):
    yield
    torch.autograd.grad(s.loss, trainable(s))
    torch.autograd.grad(s.loss, trainable(s))


@act
def with_a_graph_after_without(s):
    yield
    (plain,) = torch.autograd.grad(s.loss, s.h, retain_graph=True)
    (slope,) = torch.autograd.grad(s.loss, s.h, create_graph=True)
    s.log(known(plain), slope.requires_grad)
    s.out(plain, slope)
    s.zero_grad()
    (s.loss + slope.square().sum()).backward()


@act
def without_a_graph_after_with(s):
    yield
    (slope,) = torch.autograd.grad(s.logits.logsumexp(1).sum(), s.g, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), s.net[4].weight, retain_graph=True)
    s.out(slope, second)
    s.zero_grad()
    (s.loss + slope.abs().mean()).backward()


@act
def hooks_run(s):
    yield
    handles = [s.h.register_hook(lambda g: g * 2), s.net[4].bias.register_hook(lambda g: g + s.i)]
    s.out(torch.autograd.grad(s.loss, [s.h, s.net[0].weight, s.net[4].bias], retain_graph=True))
    for handle in handles:
        handle.remove()
    s.zero_grad()
    s.loss.backward()


@act
def modified_since_it_was_saved_raises(s):
    yield
    with torch.no_grad():
        s.h.add_(1)
    torch.autograd.grad(s.loss, trainable(s))


@act
def frozen_inputs_raise(s):
    yield
    s.net[4].weight.requires_grad_(False)
    try:
        torch.autograd.grad(s.loss, [s.net[4].weight])
    finally:
        s.net[4].weight.requires_grad_(True)


@act
def another_parameter_is_frozen(s):
    yield
    s.net[4].weight.requires_grad_(False)
    s.out(torch.autograd.grad(s.loss, [s.net[0].weight, s.net[4].bias], retain_graph=True))
    s.net[4].weight.requires_grad_(True)
    s.zero_grad()
    s.loss.backward()


@act
def attack_on_the_input(s):
    """Projected gradient descent: leaves made in the step."""
    x = s.x.clone()
    for _ in range(2 + s.i % 2):
        x = x.detach().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(s.net[4](s.net[0](x)), s.y), x)
        x = x + 0.1 * g.sign()
    s.x = x.detach()
    s.zero_grad()
    yield
    s.out(x)
    s.loss.backward()


@act
def edges_as_inputs(s):
    yield
    edge = torch.autograd.graph.get_gradient_edge(s.h)
    s.out(torch.autograd.grad(s.loss, [edge], retain_graph=True))
    s.zero_grad()
    s.loss.backward()


@act
def functional_jacobian(s):
    yield
    s.out(
        torch.autograd.functional.vjp(lambda w: (s.x @ w).tanh().sum(0), s.net[0].weight.t().detach(), torch.ones(16))
    )
    s.zero_grad()
    s.loss.backward()


@act
def without_grad_mode(s):
    yield
    with torch.no_grad():
        g, w = torch.autograd.grad(s.loss, [s.h, s.net[0].weight], retain_graph=True)
    s.log(known(g), known(w))
    s.out(g, w)
    s.zero_grad()
    s.loss.backward()


@act
def into_some_leaves(s):
    s.zero_grad()
    yield
    s.loss.backward(inputs=[s.net[4].weight, s.net[0].bias])
    s.log([known(p.grad) for p in s.net.parameters()])


@act
def into_some_leaves_again_and_again(s):
    s.zero_grad(set_to_none=s.i % 2 == 0)
    yield
    s.loss.backward(inputs=[s.net[4].weight], retain_graph=True)
    s.loss.backward(inputs=[s.net[4].weight, s.net[0].weight], retain_graph=True)
    s.loss.backward()
    s.log([known(p.grad) for p in s.net.parameters()])
    with s.catches():
        s.loss.backward(inputs=[s.net[0].weight])


@act
def into_values(s):
    s.zero_grad()
    yield
    s.loss.backward(inputs=[s.g, s.net[4].weight])
    s.out(s.g.grad)


@act
def into_an_unused_leaf(s):
    s.zero_grad()
    yield
    s.loss.backward(inputs=[s.net.spare.weight, s.net[4].weight])
    s.log(s.net.spare.weight.grad)


@act
def from_two_roots(s):
    s.zero_grad()
    yield
    other = s.g.square().mean()
    torch.autograd.backward([s.loss, other])
    s.log([known(p.grad) for p in s.net.parameters()])


@act
def from_roots_in_either_order(s):
    s.zero_grad()
    yield
    roots = [s.loss, s.g.mean(), s.h.exp().mean(), s.g.mean()]
    if s.i % 2:
        roots.reverse()
    torch.autograd.backward(roots, retain_graph=True)
    torch.autograd.backward(roots[:2])


@act
def from_one_root_twice(s):
    s.zero_grad()
    yield
    torch.autograd.backward([s.loss, s.loss])


@act
def from_roots_with_gradients(s):
    s.zero_grad()
    yield
    seed = torch.full_like(s.logits, 0.1)
    torch.autograd.backward([s.logits, s.loss, s.h], [seed, None, s.h.detach()])
    s.log(known(seed))


@act
def from_a_leaf(s):
    s.zero_grad()
    yield
    bias = s.net[4].bias
    torch.autograd.backward([s.loss, bias], [None, torch.ones_like(bias) * s.i])


@act
def from_roots_into_inputs(s):
    s.zero_grad()
    yield
    torch.autograd.backward((s.loss, s.h.sum()), inputs=(s.net[0].weight,))
    s.log([p.grad is None for p in s.net.parameters()])


@act
def from_a_root_without_history(s):
    s.zero_grad()
    yield
    with s.catches():
        torch.autograd.backward([s.loss, s.x.sum()])
    s.zero_grad()


@act
def gradients_of_several_outputs(s):
    yield
    outputs, seeds = [s.logits, s.g], [torch.ones_like(s.logits), s.g.detach()]
    gradients = torch.autograd.grad(outputs, [s.h, s.net[4].weight, s.net[0].bias], seeds, retain_graph=True)
    s.log([known(g) for g in gradients])
    s.out(gradients)
    s.zero_grad()
    s.loss.backward()


@act
def the_loss_is_scaled(s):
    """By a number that varies."""
    yield
    gradients = torch.autograd.grad(s.loss * (1.0 + s.i), trainable(s), retain_graph=True)
    s.out(gradients)
    s.zero_grad()
    torch.autograd.backward([s.loss / (2 + s.i), s.h.sum() * (0.5 * s.i)])


@act
def a_gradient_that_needs_one(s):
    yield
    seed = torch.full((), 2.0, requires_grad=True)
    (g,) = torch.autograd.grad(s.loss, s.logits, seed, retain_graph=True)
    s.log(known(g))
    s.out(g)
    s.zero_grad()
    s.loss.backward()


@pytest.mark.parametrize("name, when, numerics", cases(ACTS))
def test_gradients_are_as_in_eager(name, when, numerics):
    play(ACTS[name], when, numerics)


class Shapes(Scene):
    """Products and views of three dimensions: gradients of them are views of hidden tensors."""

    @staticmethod
    def network():
        return nn.ModuleDict({"first": nn.Linear(8, 12), "table": nn.Embedding(5, 12), "head": nn.Linear(12, 5)})

    def forward(self):
        self.h = self.net.first(self.x.view(2, -1, 8)).transpose(1, 2)
        self.g = self.h.matmul(self.h.mT).softmax(-1)
        self.rows = self.net.table(self.y)
        self.logits = self.net.head((self.g @ self.h).mT.reshape(-1, 12) + self.rows)
        self.loss = F.cross_entropy(self.logits, self.y)


SHAPED = {}


def shaped(fn):
    SHAPED[fn.__name__] = fn
    return fn


@shaped
def gradients_of_views(s):
    yield
    gradients = torch.autograd.grad(s.loss, [s.h, s.g, s.rows, *s.net.first.parameters()], retain_graph=True)
    s.log([known(g) for g in gradients])
    s.out(gradients)
    s.zero_grad()
    s.loss.backward()


@shaped
def gradients_of_everything(s):
    yield
    gradients = torch.autograd.grad(s.loss, trainable(s))
    s.log([known(g) for g in gradients])
    for parameter, gradient in zip(trainable(s), gradients, strict=True):
        parameter.grad = gradient.clone()


@shaped
def expanded_gradients(s):
    yield
    gradients = torch.autograd.grad(s.h.mean() + s.g.sum(), [s.h, s.g, s.net.first.bias], retain_graph=True)
    s.log([known(g) for g in gradients])
    s.out(gradients)
    s.zero_grad()
    torch.autograd.backward([s.loss, s.rows.sum()])


@pytest.mark.parametrize("name, when, numerics", cases(SHAPED))
def test_gradients_of_views_are_as_in_eager(name, when, numerics):
    play(SHAPED[name], when, numerics, scene=Shapes)
