"""Autograd as users meet it: partial, repeated and double backwards, hooks, custom functions, errors, transforms."""

import pytest
import torch
import torch.nn.functional as F
from models import classes, mlp, tokens, vectors
from torch import nn
from torch.utils.checkpoint import checkpoint
from util import check


def weights():
    return nn.Parameter(torch.randn(8, 8) * 0.3), nn.Parameter(torch.randn(8) * 0.3)


def stepping(body, turns=8):
    """A program that calls `body(x, w, b, i)` as a region with two parameters, and keeps results and gradients."""

    def program(t):
        w, b = weights()
        t.watch(w=w, b=b)
        step = t.function(body)
        for i in t.loop(turns):
            t.out(step(vectors(i), w, b, i))

    return program


BODIES = {}


def body(fn):
    BODIES[fn.__name__] = fn
    return fn


@body
def plain_backward_accumulates(x, w, b, i):
    (x @ w + b).tanh().sum().backward()


@body
def gradients_reset_in_different_ways(x, w, b, i):
    if i % 3 == 0:
        w.grad = b.grad = None
    elif i % 3 == 1 and w.grad is not None:
        w.grad.zero_()
        b.grad.detach_().mul_(0.5)
    F.linear(x, w, b).pow(2).mean().backward()
    return w.grad


@body
def grad_function(x, w, b, i):
    loss = (x @ w + b).sin().sum()
    return torch.autograd.grad(loss, [w, b])


@body
def grad_of_an_intermediate(x, w, b, i):
    h = x @ w
    (g,) = torch.autograd.grad((h.relu() + b).pow(2).sum(), [h], retain_graph=True)
    return g, h.detach(), torch.autograd.grad(h.sum(), [w])[0]


@body
def grad_of_an_unused_input(x, w, b, i):
    return torch.autograd.grad((x @ w).sum(), [w, b], allow_unused=True)


@body
def retain_graph_and_second_backward(x, w, b, i):
    loss = (x @ w + b).tanh().sum()
    loss.backward(retain_graph=True)
    loss.backward(torch.tensor(0.5))
    return loss


@body
def backward_with_a_seed(x, w, b, i):
    h = x @ w + b
    h.backward(torch.linspace(0, 1, h.numel()).view_as(h))
    return h


@body
def backward_into_named_inputs(x, w, b, i):
    (x @ w + b).sigmoid().sum().backward(inputs=[w])
    return b.grad is None


@body
def retain_grad_of_an_intermediate(x, w, b, i):
    h = x @ w
    h.retain_grad()
    (h + b).exp().mean().backward()
    return h, h.grad


@body
def two_losses_share_a_trunk(x, w, b, i):
    h = (x @ w).relu()
    torch.autograd.backward([h.sum(), (h * b).mean()])


@body
def several_graphs_alive(x, w, b, i):
    losses = [((x * k) @ w + b).tanh().mean() for k in (1.0, 2.0, 3.0)]
    for loss in reversed(losses):
        loss.backward()
    return losses


@body
def double_backward(x, w, b, i):
    loss = (x @ w + b).tanh().pow(2).sum()
    (g,) = torch.autograd.grad(loss, [w], create_graph=True)
    g.pow(2).sum().backward()
    return g


@body
def gradient_penalty(x, w, b, i):
    x = x.clone().requires_grad_()
    score = (F.linear(x, w, b).relu()).sum()
    (g,) = torch.autograd.grad(score, [x], create_graph=True)
    (score + (g.norm(dim=1) - 1).pow(2).mean()).backward()
    return x.grad


@body
def hessian_vector_product(x, w, b, i):
    loss = F.linear(x, w, b).sigmoid().sum()
    (g,) = torch.autograd.grad(loss, [b], create_graph=True)
    return torch.autograd.grad(g @ torch.ones(8), [b])


@body
def detach_stops_gradients(x, w, b, i):
    h = x @ w
    (h.detach() * h + b).sum().backward()
    return h.detach()


@body
def in_place_on_intermediates(x, w, b, i):
    h = x @ w
    h += b
    h.mul_(2).relu_()
    h.sum().backward()
    return h


@body
def in_place_on_a_differentiable_view(x, w, b, i):
    h = x @ w
    row = h[0]
    row.mul_(2)
    h[1:3].add_(b)
    h[:, 0] = 0
    (h * h).sum().backward()
    return h, row


@body
def views_in_the_graph(x, w, b, i):
    h = (x @ w).view(3, 2, 8).transpose(0, 1).reshape(2, -1)
    q, k = h.chunk(2, 1)
    (q[:, :5].t() @ k[:, :5] + b[:5]).softmax(1).max().backward()


@body
def expanded_bias_and_broadcast(x, w, b, i):
    (b.expand(6, 8) * x + (b.view(8, 1) @ x[:1]).expand(3, 8, 8).sum(0)[:6]).sum().backward()


@body
def indexing_in_the_graph(x, w, b, i):
    h = (x @ w)[torch.tensor([0, 2, 2]), i % 2 :]
    (h.sum() + b[i % 8] + b[-1]).backward()


@body
def mask_in_the_graph(x, w, b, i):
    h = x @ w
    h = h[h > 0]
    h.log1p().sum().backward()
    return h.detach()


@body
def nan_gradients(x, w, b, i):
    ((x @ w).clamp(min=0).sqrt().sum() + b.log().sum()).backward()
    return w.grad.isnan().sum()


@body
def no_grad_update_by_hand(x, w, b, i):
    loss = F.mse_loss(F.linear(x, w, b), x)
    loss.backward()
    with torch.no_grad():
        for p in (w, b):
            p -= 0.1 * p.grad
            p.grad.zero_()
    return loss


@body
def data_update_by_hand(x, w, b, i):
    loss = F.mse_loss(F.linear(x, w, b), x)
    gw, gb = torch.autograd.grad(loss, [w, b])
    w.data -= 0.1 * gw
    b.data.add_(gb, alpha=-0.1)


@body
def losses_of_every_kind(x, w, b, i):
    h = x @ w + b
    y = classes(i) % 8
    total = F.cross_entropy(h, y, label_smoothing=0.1) + F.nll_loss(h.log_softmax(1), y, ignore_index=2)
    total = total + F.smooth_l1_loss(h, x) + F.kl_div(h.log_softmax(1), x.softmax(1), reduction="batchmean")
    total = total + F.binary_cross_entropy(h.sigmoid(), x.sigmoid()) + F.hinge_embedding_loss(h, x.sign())
    total = (
        total
        + F.cosine_embedding_loss(h, x, torch.ones(6))
        + F.triplet_margin_loss(h, x, x.flip(0))
        + F.huber_loss(h, x)
    )
    total.backward()
    return total


@body
def attention_and_norms(x, w, b, i):
    h = (x @ w).view(1, 2, 3, 8)
    h = F.scaled_dot_product_attention(h, h, h, is_causal=True)
    h = F.layer_norm(h, (8,), b, b) + F.rms_norm(h, (8,), b)
    h = F.group_norm(h.reshape(6, 8), 4) + F.normalize(h.reshape(6, 8), dim=1)
    h.square().sum().backward()
    return h


@body
def checkpointing(x, w, b, i):
    loss = checkpoint(lambda v: F.dropout((v @ w).tanh(), 0.3) + b, x, use_reentrant=False).sum()
    loss.backward()
    return loss


@body
def reentrant_checkpointing(x, w, b, i):
    x = x.clone().requires_grad_()
    checkpoint(lambda v: (v @ w).tanh() + b, x, use_reentrant=True).sum().backward()
    return x.grad


@body
def saved_tensor_hooks(x, w, b, i):
    packed = []

    def pack(saved):
        packed.append(tuple(saved.shape))
        return saved.double()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.float()):
        loss = ((x @ w).tanh() * b).sum()
    loss.backward()
    return packed


@body
def vmap_and_grad_transforms(x, w, b, i):
    per_sample = torch.func.vmap(torch.func.grad(lambda ww, row: (row @ ww).tanh().sum()), (None, 0))(w.detach(), x)
    jac = torch.func.jacrev(lambda v: (v @ w.detach()).sin())(x[0])
    return per_sample, jac, torch.func.vmap(lambda row: row.softmax(0))(x)


@body
def forward_mode(x, w, b, i):
    return torch.func.jvp(lambda v: (v @ w.detach()).tanh(), (x,), (torch.ones_like(x),))


@body
def complex_gradients(x, w, b, i):
    z = torch.complex(x @ w, x)
    (z * z.conj()).real.sum().backward()
    return torch.fft.fft(b).abs().sum()


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x)
        ctx.scale = scale
        return x.tanh() * scale

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (1 - x.tanh() ** 2) * ctx.scale, None


@body
def custom_function(x, w, b, i):
    (Scaled.apply(x @ w, 2.0 + i % 2) * b).sum().backward()


@body
def detect_anomaly(x, w, b, i):
    with torch.autograd.detect_anomaly(check_nan=True):
        (x @ w + b).exp().sum().backward()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BODIES)
def test_autograd(name, numerics):
    check(stepping(BODIES[name]), numerics)


ERRORS = {}


def error(fn):
    ERRORS[fn.__name__] = fn
    return fn


@error
def backward_twice(x, w, b):
    loss = (x @ w).tanh().sum()
    loss.backward()
    loss.backward()


@error
def saved_tensor_modified(x, w, b):
    h = (x @ w).exp()
    loss = h.sum()
    h.add_(1)
    loss.backward()


@error
def parameter_modified_before_backward(x, w, b):
    loss = (x @ w).matmul(w).sum()
    with torch.no_grad():
        w.add_(0.1)
    loss.backward()


@error
def in_place_on_a_leaf(x, w, b):
    w.add_(1)


@error
def backward_of_a_vector(x, w, b):
    (x @ w).backward()


@error
def backward_without_history(x, w, b):
    (x * 2).sum().backward()


@error
def numpy_of_what_requires_grad(x, w, b):
    (x @ w).numpy()


@error
def index_out_of_range(x, w, b):
    return x[7]


@error
def nan_found_by_anomaly_mode(x, w, b):
    with torch.autograd.detect_anomaly():
        (w * 0 - 1).sqrt().sum().backward()


@error
def item_of_many(x, w, b):
    return x.item()


@error
def truth_of_many(x, w, b):
    return bool(x > 0)


@error
def view_of_wrong_size(x, w, b):
    return (x * 2).view(7, 7)


@error
def custom_function_fails_in_backward(x, w, b):
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx, v):
            return v * 2

        @staticmethod
        def backward(ctx, grad):
            raise ArithmeticError("bad backward")

    Bad.apply(x @ w).sum().backward()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_eagers(name):
    """The same exception type and message at the same place: when recorded, when co-executed, when it comes late."""

    def program(t):
        w, b = weights()
        t.watch(w=w, b=b)

        @t.function
        def step(x, wrong):
            h = (x @ w + b).sin()
            if wrong:
                ERRORS[name](x, w, b)
            h.sum().backward()
            return h

        for i in t.loop(12):
            with t.catches():
                t.out(step(vectors(i), i in (1, 6, 7, 10)))

    check(program)


def test_embedding_with_sparse_gradients(numerics):
    def program(t):
        embed = nn.Embedding(11, 8, sparse=True)
        optimizer = torch.optim.SparseAdam(embed.parameters(), lr=0.1, eps=1e-3)
        t.watch(embed=embed, optimizer=optimizer)

        @t.function
        def step(x):
            optimizer.zero_grad()
            embed(x).tanh().pow(2).sum().backward()
            optimizer.step()

        for i in t.loop(6):
            step(tokens(i))

    check(program, numerics)


def test_loss_kept_from_earlier_regions_and_backward_outside(numerics):
    def program(t):
        net = mlp()
        t.watch(net=net)

        @t.function
        def forward(x, y):
            return F.cross_entropy(net(x), y)

        kept = []
        for i in t.loop(9):
            kept.append(forward(vectors(i), classes(i)))
            if len(kept) == 3:
                net.zero_grad()
                (kept[0] + kept[1] * 2 + kept[2]).backward()
                kept.clear()

    check(program, numerics)


def test_graph_built_outside_and_backward_inside(numerics):
    def program(t):
        net = mlp()
        t.watch(net=net)

        @t.function
        def backward(loss):
            net.zero_grad()
            (loss * 2).backward()
            return net[0].weight.grad * 1

        for i in t.loop(7):
            t.out(backward(F.cross_entropy(net(vectors(i)), classes(i))))

    check(program, numerics)


def test_grad_fn_is_eagers(numerics):
    def program(t):
        net = mlp()

        @t.function
        def step(x):
            h = net[0](x)
            return h, h.relu().sum()

        for i in t.loop(6):
            for out in step(vectors(i)):
                t.log(type(out.grad_fn).__name__, [type(f).__name__ for f, _ in out.grad_fn.next_functions])

    check(program, numerics)


def test_parametrization_and_spectral_norm(numerics):
    def program(t):
        net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)), nn.Tanh())
        net.append(nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        t.watch(net=net)

        @t.function
        def step(x):
            optimizer.zero_grad()
            loss = net(x).pow(2).sum()
            loss.backward()
            optimizer.step()
            return loss

        for i in t.loop(6):
            t.out(step(vectors(i)))

    check(program, numerics)


def test_custom_operator_in_python(numerics):
    @torch.library.custom_op("terratest::shift", mutates_args=())
    def shift(x: torch.Tensor, by: float) -> torch.Tensor:
        return torch.from_numpy(x.detach().numpy() + by)

    shift.register_fake(lambda x, by: torch.empty_like(x))
    shift.register_autograd(lambda ctx, grad: (grad * 2, None), setup_context=lambda ctx, inputs, output: None)

    @torch.library.custom_op("terratest::bump_", mutates_args=("x",))
    def bump(x: torch.Tensor) -> None:
        x.add_(1)

    def program(t):
        w, b = weights()
        t.watch(w=w)

        @t.function
        def step(x):
            h = shift(x @ w, 1.5)
            (h * b).sum().backward()
            y = x * 2
            bump(y)
            return h, y * 3

        for i in t.loop(6):
            t.out(*step(vectors(i)))

    check(program, numerics)
