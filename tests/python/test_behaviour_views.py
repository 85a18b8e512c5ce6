"""Views in grad mode: what autograd knows of them, writes through them, and the errors that go with that."""

import pytest
import torch
import torch.nn.functional as F
from scenes import Scene, cases, play
from torch import nn

ACTS = {}


def act(fn):
    ACTS[fn.__name__] = fn
    return fn


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(4, 12), nn.Linear(4, 4), nn.Linear(8, 5)
        self.position = nn.Parameter(torch.randn(9, 4))


class Views(Scene):
    """A small attention: nearly every call makes a view, of an operand or of memory that nobody else sees."""

    on_qkv = on_heads = on_rows = None

    @staticmethod
    def network():
        return Attention()

    def forward(self):
        self.rows = self.x.view(-1, 2, 4)
        self.rows = self.rows + self.net.position[2:4].unsqueeze(0).expand(len(self.rows), -1, -1)
        self.h = self.net.qkv(self.rows)
        if self.on_qkv:
            self.on_qkv(self.h)
        self.q, self.k, self.v = self.h.split(4, dim=2)
        self.heads = self.q.view(-1, 2, 2, 2).transpose(1, 2)
        if self.on_heads:
            self.on_heads(self.heads)
        k = self.k.reshape(-1, 2, 2, 2).permute(0, 2, 3, 1)
        self.g = (self.heads @ k).softmax(-1) @ self.v.unflatten(2, (2, 2)).transpose(1, 2)
        self.merged = self.g.transpose(1, 2).contiguous().flatten(2)
        self.mixed = self.net.out(self.merged)
        if self.on_rows:
            self.on_rows(self.mixed)
        first, second = self.mixed.unbind(1)
        last = self.mixed[:, -1].squeeze().T.t()
        self.logits = self.net.head(torch.cat([first + second, last], 1))
        self.loss = F.cross_entropy(self.logits, self.y)

    def views(self):
        return (self.h, self.q, self.v, self.heads, self.merged, self.mixed, self.mixed[0], self.rows[:, :1])


def known(value):
    base = value._base
    node = value.grad_fn
    return (
        node and node.name(), value.is_leaf, value.requires_grad, value.output_nr, value._version, value._is_view(),
        value.shape, value.stride(), value.storage_offset(), value.is_contiguous(),
        base is not None and (base.shape, base.grad_fn and base.grad_fn.name(), base._version, base.is_leaf),
    )  # fmt: skip


@act
def what_is_known_of_views(s):
    s.zero_grad()
    yield
    for value in s.views():
        s.log(known(value))
    s.loss.backward()


@act
def without_a_look_at_nodes(s):
    s.zero_grad()
    yield
    s.log(
        [
            (v._version, v.is_leaf, v._is_view(), v._base is None, v._base is not None and v._base.shape)
            for v in s.views()
        ]
    )
    s.log(s.q._base is s.h._base, s.heads._base is s.h._base, s.mixed[0]._base is s.mixed._base)
    s.loss.backward()


@act
def nodes_behind_hidden_bases(s):
    s.zero_grad()
    yield
    node = s.h.grad_fn
    s.log(node.next_functions[0][0].name(), s.h._base.grad_fn.name(), node.next_functions[0][0] is s.h._base.grad_fn)
    s.log([f.name() for f, _ in s.h._base.grad_fn.next_functions])
    s.loss.backward()


@act
def bases_used(s):
    """A hidden base is a tensor like any other once it is held."""
    s.zero_grad()
    yield
    (s.loss + s.h._base.square().mean() + s.mixed._base.sum() * 0.1).backward()


@act
def gradients_of_bases(s):
    s.zero_grad()
    yield
    s.out(torch.autograd.grad(s.loss, [s.h._base, s.h, s.heads, s.q, s.mixed], retain_graph=True))
    s.loss.backward()


@act
def retain_grad_of_views(s):
    s.zero_grad()
    yield
    for value in (s.h, s.q, s.heads, s.h._base, s.rows):
        value.retain_grad()
    s.loss.backward()
    s.out(*[value.grad * 1 for value in (s.h, s.q, s.heads, s.h._base, s.rows)])


@act
def hooks_of_views(s):
    s.zero_grad()
    yield
    s.h.register_hook(lambda g: g * 0.5)
    s.heads.register_hook(lambda g: s.out(g * 1))
    s.mixed._base.register_hook(lambda g: g + 0.01)
    s.loss.backward()


@act
def written_in_the_middle(s):
    """Of a view with its own memory behind it."""
    s.zero_grad()
    s.on_qkv = lambda h: h.mul_(0.5)
    s.on_rows = lambda r: r.add_(1)
    yield
    s.log(known(s.h), known(s.mixed), s.h._base._version)
    s.loss.backward()


@act
def one_row_written(s):
    s.zero_grad()

    def write(h):
        h[:, 0] = 0.25
        h[1:2].mul_(2.0)

    s.on_qkv = write
    yield
    s.log(known(s.h), s.h._base.grad_fn.name())
    s.loss.backward()


@act
def saved_view_written(s):
    s.zero_grad()
    yield
    with torch.no_grad():
        s.merged.add_(1.0)
    with s.catches():
        s.loss.backward()


@act
def hidden_base_written(s):
    s.zero_grad()
    yield
    with torch.no_grad():
        s.h._base.mul_(0.5)
    s.log(s.h._version, s.heads._version)
    with s.catches():
        s.loss.backward()


@act
def one_of_several_views_written(s):
    """Views of `split` may not be written, nor views of them."""
    s.zero_grad()
    s.on_heads = lambda heads: s.log("heads", heads._version)
    yield
    for value in (s.q, s.heads):
        with s.catches():
            value.add_(1)
        with s.catches(), torch.no_grad():
            s.log(value.add_(0)._version)
    with s.catches():
        s.loss.backward()


@act
def leaf_viewed_and_written(s):
    s.zero_grad()
    yield
    view = s.net.position[1:3]
    with s.catches():
        view.add_(1)
    with s.catches():
        s.net.position.mul_(2)
    with torch.no_grad():
        view.add_(0.01)
    s.log(view._version, s.net.position._version, view.grad_fn.name())
    with s.catches():
        s.loss.backward()


@act
def views_without_grad_mode(s):
    s.zero_grad()
    yield
    with torch.no_grad():
        view, row = s.h.view(-1), s.net.position[0]
        s.log(known(view), known(row))
        row.add_(0.01)
    for value in (view, row):
        with s.catches():
            value.add_(1)
        with s.catches():
            s.out(value * 2)
    with s.catches():
        s.loss.backward()


@act
def detached_views(s):
    s.zero_grad()
    yield
    d = s.h.detach()
    s.log(known(d), known(d[0]), d[0]._base is d)
    with s.catches():
        d.resize_(3)
    with s.catches():
        d.transpose(0, 1).requires_grad_().sum().backward()
    d.add_(1.0)
    s.log(s.h._version, d._version)
    with s.catches():
        s.loss.backward()


@act
def views_that_require_grad_later(s):
    s.zero_grad()
    yield
    a = s.x.detach() * 1
    view = a.view(-1)[3:9]
    view.requires_grad_()
    s.log(a.requires_grad, view.requires_grad, view.is_leaf)
    (view * 2).sum().backward()
    s.out(view.grad * 1)
    b = s.x * 1
    view = b.t()
    b.mul_(s.net.position[0, 0])
    s.log(known(view))
    (s.loss + view.sum()).backward()


@act
def views_kept_across_turns(s):
    kept = getattr(s.net, "kept", None)
    s.zero_grad()
    yield
    if kept is not None:
        s.log(known(kept))
        s.out(kept.detach() * 2)
        with s.catches():
            kept.sum().backward()
    s.net.__dict__["kept"] = s.heads
    s.loss.backward()


@act
def indices_that_move(s):
    s.zero_grad()
    yield
    i = s.i % 3
    row, part = s.mixed[i], s.mixed[i:, :, 1:]
    s.log(known(row), part.shape)
    (s.loss + row.sum() + s.mixed.select(0, 2 - i).square().sum() + part.sum()).backward()


@act
def second_derivatives_through_views(s):
    s.zero_grad()
    yield
    (gradient,) = torch.autograd.grad(s.loss, [s.net.qkv.weight], create_graph=True)
    (s.loss + gradient.square().sum()).backward()


@act
def views_raise_in_the_middle(s):
    s.zero_grad()

    def broken(heads):
        heads.view(5, -1)

    s.on_heads = broken
    yield


@act
def second_backward_raises(s):
    s.zero_grad()
    yield
    s.loss.backward(retain_graph=True)
    s.h.view(-1).sum().backward()
    with s.catches():
        s.loss.backward()


@act
def data_of_views(s):
    s.zero_grad()
    yield
    data = s.heads.data
    s.log(known(data), data.data_ptr() == s.heads.data_ptr())
    data.mul_(2)
    s.log(s.heads._version)
    s.loss.backward()


@act
def many_kinds(s):
    """Views of all kinds, alone and one of the other."""
    s.zero_grad()
    yield
    h = s.mixed
    views = [
        h.mT, h.movedim(0, 1), h.swapaxes(0, 2), h.narrow(2, 1, 2), h.diagonal(0, 1, 2), h[..., None],
        h[None], h.ravel(), h.view_as(s.merged), h.expand(2, *h.shape), h.unfold(2, 2, 1), h.as_strided((2, 2), (1, 2)),
        *h.chunk(2, 2), *h.tensor_split(2, 2), *h.hsplit(2), h.squeeze(1), h.flatten(), h.reshape(-1),
        h.reshape(h.shape), h.reshape(-1, 1, 2), h.mT.reshape(-1), h.mT.contiguous(), h.contiguous(), h.to(h.dtype),
        h.type_as(h), h.real, h.detach(), h.expand_as(h), h.broadcast_to(3, *h.shape), torch.atleast_3d(h), h.mH,
        h.adjoint(), *h.split([1, 3], 2), *h.unbind(0)[:2], h.view(torch.int32), torch.atleast_1d(h), h[:],
        h.unsqueeze(0).squeeze(0), h[:, 0], h[0, 1], h[:, ::2], h.positive(), h.unsafe_chunk(2, 2)[1], h.cfloat().real,
    ]  # fmt: skip
    s.log(*[known(v) for v in views])
    s.out([v.detach() * 1 for v in views])
    (s.loss + sum(v.sum() for v in views if v.requires_grad)).backward()


@pytest.mark.parametrize("name, when, numerics", cases(ACTS))
def test_acts(name, when, numerics):
    play(ACTS[name], when, numerics, scene=Views)
