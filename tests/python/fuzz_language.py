"""The language of the fuzzer: statements as tuples, a strategy that draws them, an interpreter that runs them.

Operands are numbers, taken modulo the number of live tensors; a second operand is the next live tensor whose shape
fits. Statements that eager rejects (a leaf written in place, no history to go back through) are part of the language:
the error is logged with its type and message, and the program goes on.
"""

import torch
import torch.nn.functional as F
from hypothesis import strategies as st


def places(a):
    """Indices into the last dimension, of the shape of `a`, that repeat and do not depend on values."""
    return (torch.arange(a.numel()) * 7 % max(a.shape[-1], 1)).view(a.shape) if a.dim() else torch.zeros(1).long()


def rows(a):
    """Indices into the first dimension, one of them twice."""
    return torch.tensor([0, a.shape[0] - 1, 0])


def strided(a, sizes, strides):
    """Only within `a` itself: eager's losses leave storages that are larger than the result, with anything in them."""
    return a.as_strided(sizes, strides) if a.is_contiguous() and a.numel() > 2 else a.view_as(a)


def mask(a):
    return (torch.arange(a.numel()) % 3 == 1).view(a.shape)


UNARY = {
    "tanh": torch.tanh,
    "exp": lambda a: torch.exp(-a.abs()) if a.is_floating_point() else a.float().tanh(),
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "neg": torch.neg,
    "abs": torch.abs,
    "sin": torch.sin,
    "square": lambda a: torch.tanh(a).square(),
    "sum": torch.sum,
    "mean0": lambda a: a.mean(0) if a.dim() else a * 1,
    "sum_keep": lambda a: a.sum(-1, True) if a.dim() else a + 1,
    "softmax": lambda a: a.softmax(-1),
    "gelu": F.gelu,
    "layer_norm": lambda a: F.layer_norm(a, a.shape[-1:]),
    "clone": torch.clone,
    "detach": torch.detach,
    "double": lambda a: a.double(),
    "contiguous": lambda a: a.contiguous(),
    "cumsum": lambda a: a.cumsum(-1),
    "max": lambda a: a.max(),
    "zeros_like": torch.zeros_like,
    "ones": lambda a: a.new_ones(3),
    "clamp": lambda a: a.clamp(-0.5, 0.75),
    "var": lambda a: a.var(-1, correction=0),
    "logsumexp": lambda a: a.logsumexp(-1),
    "where": lambda a: torch.where(a != a, 0, a),
    "requires_grad": lambda a: a.detach().clone().requires_grad_(),
    "batch_norm": lambda a: F.batch_norm(a, None, None, training=True),
    "gather": lambda a: a.gather(-1, places(a)),
    "scatter": lambda a: torch.zeros_like(a).scatter(-1, places(a).sort(-1).values, a * 0 + 1),
    "scatter_add": lambda a: torch.zeros_like(a).scatter_add(-1, places(a), a),
    "index": lambda a: a[rows(a)],
    "index_select": lambda a: a.index_select(0, rows(a)),
    "index_add": lambda a: a.index_add(0, rows(a), a.new_ones(3, *a.shape[1:]), alpha=2),
    "embedding": lambda a: F.embedding(rows(a), a),
    "masked_fill": lambda a: a.masked_fill(mask(a), 0.5),
    "masked_where": lambda a: torch.where(mask(a), a, -a),
    "masked_select": lambda a: a[mask(a)],
    "flip": lambda a: a.flip(-1),
    "roll": lambda a: a.roll(1, 0),
    "tril": torch.tril,
    "pad": lambda a: F.pad(a, (1, 1)),
    "repeat": lambda a: a.repeat(2, *[1] * (a.dim() - 1)),
    "cumprod": lambda a: a.tanh().cumprod(-1),
    "diff": torch.diff,
    "amax": lambda a: a.amax(-1),
    "prod": lambda a: a.tanh().prod(),
    "norm": lambda a: (a * a + 1).norm(dim=-1, keepdim=True),
    "einsum": lambda a: torch.einsum("ij,kj->ik", a, a.cos()),
    "log_softmax": lambda a: F.log_softmax(a, 0),
    "silu": F.silu,
    "softplus": F.softplus,
    "rsqrt": lambda a: (a * a + 1).rsqrt(),
    "log1p": lambda a: a.abs().log1p(),
    "erf": torch.erf,
    "arange": lambda a: torch.arange(a.numel()).view(a.shape),
    "mask": mask,
    "logical_not": torch.logical_not,
    "plus_integers": lambda a: a + torch.arange(a.numel()).view(a.shape),
    "empty_sum": lambda a: a[:0].sum(0),
    "empty_cat": lambda a: torch.cat([a[:0], a]),
    "complex": lambda a: torch.complex(a, a.tanh()),
    "complex_abs": lambda a: torch.complex(a + 2, a).abs(),
    "conj": lambda a: torch.conj(a) * 1,
    "rfft": lambda a: torch.fft.rfft(a).real,
    "out_new": lambda a: torch.sin(a.detach(), out=a.new_empty(0)),
    "unbound": lambda a: sum(a.unbind(0)),
    "resplit": lambda a: torch.cat(a.split(1, -1)[::-1], -1),
    "full_like": lambda a: torch.full_like(a, 2),
    "outer": lambda a: torch.outer(a.reshape(-1)[:4], a.reshape(-1)[:3]),
}
DISCONTINUOUS = {
    "round": torch.round,
    "floor": torch.floor,
    "sign": torch.sign,
    "long": lambda a: (a * 3).nan_to_num().clamp(-9, 9).long(),
    "positive": lambda a: a > 0.1,
    "float": lambda a: a.float(),
    "argmax": torch.argmax,
    "sort": lambda a: a.sort(-1).values,
    "bfloat16": lambda a: a.bfloat16(),
    "masked": lambda a: a[a > 0],
    "nonzero": torch.nonzero,
    "topk": lambda a: a.topk(1).values,
    "argsort": lambda a: a.argsort(-1, stable=True),
    "cummax": lambda a: a.cummax(-1).values,
    "median": lambda a: a.median(-1).indices,
    "unique": lambda a: a.round().unique(),
    "half": lambda a: a.half(),
    "int32": lambda a: (a * 3).nan_to_num().clamp(-9, 9).int(),
    "uint8": lambda a: (a.abs() * 3).nan_to_num().clamp(0, 9).to(torch.uint8),
    "complex64": lambda a: a.to(torch.complex64),
    "angle": torch.angle,
    "remainder": lambda a: a % 2,
    "floor_divide": lambda a: a // 2,
    "bits": lambda a: a.contiguous().view(torch.int32),
    "one_hot": lambda a: F.one_hot(a.abs().nan_to_num().clamp(0, 4).long().reshape(-1), 5),
    "bucketize": lambda a: torch.bucketize(a, torch.tensor([-0.5, 0.0, 0.5])),
    "isnan": torch.isnan,
    "bitwise": lambda a: a & 1,
}
BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": lambda a, b: a / (b.abs() + 1),
    "maximum": torch.maximum,
    "matmul": lambda a, b: (a if a.dim() < 2 else a.t()) @ b if a.dim() else a * b,
    "add_alpha": lambda a, b: torch.add(a, b, alpha=0.5),
    "where": lambda a, b: torch.where(torch.ones_like(a, dtype=torch.bool), a, b),
    "cat": lambda a, b: torch.cat([a.reshape(-1), b.reshape(-1)]),
    "stack": lambda a, b: torch.stack(torch.broadcast_tensors(a, b)),
    "mse": lambda a, b: F.mse_loss(*torch.broadcast_tensors(a, b)),
    "lerp": lambda a, b: torch.lerp(a, b, 0.25),
    "addcmul": lambda a, b: torch.addcmul(a, b, b, value=0.5),
    "foreach": lambda a, b: torch._foreach_add([a, b], 1)[1],
    "masked_where2": lambda a, b: torch.where(mask(a), a, b),
    "index_put": lambda a, b: a.index_put((rows(a),), b.detach().sum(), accumulate=True),
    "masked_scatter": lambda a, b: a.masked_scatter(mask(a), b.repeat(4, *[1] * (b.dim() - 1))),
    "einsum": lambda a, b: torch.einsum("...i,...i->...", a, b),
    "atan2": lambda a, b: torch.atan2(a, b.abs() + 1),
    "hypot": lambda a, b: (a * a + b * b + 1).sqrt(),
    "baddbmm": lambda a, b: torch.baddbmm(a.sum(), a.unsqueeze(0), b.unsqueeze(0).mT),
    "cdist": lambda a, b: torch.cdist(a, b + 5),
    "smooth_l1": lambda a, b: F.smooth_l1_loss(*torch.broadcast_tensors(a, b), reduction="none"),
    "row_stack": lambda a, b: torch.vstack([a, b]),
    "promote": lambda a, b: a * b.float() if b.dtype == torch.int64 else a * b,
    "out_new": lambda a, b: torch.add(a.detach(), b.detach(), out=torch.empty(0, dtype=a.dtype)),
}
COMPARE = {"gt": torch.gt, "eq": torch.eq}
INPLACE = {
    "add_": lambda a, b: a.add_(b),
    "mul_": lambda a, b: a.mul_(b.tanh() if b.is_floating_point() else b),
    "copy_": lambda a, b: a.copy_(b),
    "sub_": lambda a, b: a.sub_(b, alpha=0.5),
    "tanh_": lambda a, b: a.tanh_(),
    "zero_": lambda a, b: a.zero_(),
    "fill_": lambda a, b: a.fill_(0.25),
    "set_row": lambda a, b: a.__setitem__(0, 1.5),
    "out": lambda a, b: torch.mul(b, 0.5, out=a),
    "foreach_": lambda a, b: torch._foreach_mul_([a], 0.5),
    "addcmul_": lambda a, b: a.addcmul_(b, b, value=0.1),
    "data": lambda a, b: a.data.mul_(0.5),
    "no_grad": lambda a, b: quietly(a, b),
    "index_put_": lambda a, b: a.index_put_((rows(a),), b.sum().to(a.dtype)),
    "index_add_": lambda a, b: a.index_add_(0, rows(a), a.new_ones(3, *a.shape[1:])),
    "scatter_": lambda a, b: a.scatter_(-1, places(a), 0.5),
    "masked_fill_": lambda a, b: a.masked_fill_(mask(a), 0.5),
    "set_mask": lambda a, b: a.__setitem__(mask(a), 0.25),
    "set_column": lambda a, b: a.__setitem__((..., 0), b.sum()),
    "set_step": lambda a, b: a.__setitem__(slice(None, None, 2), 1),
    "set_rows": lambda a, b: a.__setitem__(rows(a), b.sum()),
    "clamp_": lambda a, b: a.clamp_(-0.5, 0.5),
    "div_": lambda a, b: a.div_(b.abs() + 1),
    "add_integers_": lambda a, b: a.add_(torch.arange(a.numel()).view(a.shape)),
    "chunk_": lambda a, b: [c.mul_(0.5) for c in a.chunk(2, -1)],
    "unbind_": lambda a, b: [c.add_(0.1) for c in a.unbind(0)],
    "split_": lambda a, b: torch._foreach_add_(list(a.split(1, 0)), 0.1),
    "diagonal_": lambda a, b: a.diagonal().add_(1),
    "swap_": lambda a, b: a.copy_(a.flip(0)),
    "self_overlap_": lambda a, b: a[1:].copy_(a[:-1]),
    "out_self": lambda a, b: torch.add(a, b, out=a),
    "out_view": lambda a, b: torch.sum(b, dim=0, out=a[0]),
    "out_max": lambda a, b: torch.max(b, -1, out=(a, torch.empty(0, dtype=torch.long))),
    "t_": lambda a, b: a.t_(),
    "unsqueeze_": lambda a, b: a.unsqueeze_(0),
    "squeeze_": lambda a, b: a.squeeze_(),
    "detach_": lambda a, b: a.detach_(),
    "set_data": lambda a, b: setattr(a, "data", b.detach().clone()),
    "real_": lambda a, b: a.real.mul_(2),
    "imag_": lambda a, b: a.imag.add_(1),
    "logical_and_": lambda a, b: a.logical_and_(b),
    "where_": lambda a, b: torch.where(mask(a), a, b, out=a),
    "cumsum_": lambda a, b: a.cumsum_(-1),
    "lerp_": lambda a, b: a.lerp_(b, 0.5),
    "relu_": lambda a, b: F.relu(a, inplace=True),
    "tril_": lambda a, b: a.tril_(),
}
VIEWS = {
    "row": lambda a, i: a[0],
    "turn_row": lambda a, i: a[i % a.shape[0]],
    "slice": lambda a, i: a[:2],
    "turn_slice": lambda a, i: a[i % 2 :],
    "t": lambda a, i: a.t() if a.dim() < 3 else a.transpose(0, 1),
    "flat": lambda a, i: a.reshape(-1),
    "unsqueeze": lambda a, i: a.unsqueeze(0),
    "step": lambda a, i: a.reshape(-1)[::2],
    "expand": lambda a, i: a.expand(2, *a.shape),
    "last": lambda a, i: a[..., -1],
    "alias": lambda a, i: a.view_as(a),
    "strided": lambda a, i: strided(a, (2,), (1,)),
    "chunk": lambda a, i: a.chunk(2, -1)[0],
    "empty": lambda a, i: a[:0],
    "unfold": lambda a, i: a.unfold(-1, 2, 1),
    "diagonal": lambda a, i: a.diagonal(),
    "narrow": lambda a, i: a.narrow(-1, i % 2, 1),
    "movedim": lambda a, i: a.movedim(0, -1),
    "view": lambda a, i: a.view(-1),
    "split": lambda a, i: a.split(1)[-1],
    "unbind": lambda a, i: a.unbind(-1)[0],
    "overlap": lambda a, i: strided(a, (2, 2), (1, 1)),
    "expand_row": lambda a, i: a[:1].expand(3, *a.shape[1:]),
    "squeeze": lambda a, i: a.squeeze(),
    "item": lambda a, i: a.reshape(-1)[i % 2],
    "real": lambda a, i: torch.view_as_real(a) if a.is_complex() else a[None],
    "imag": lambda a, i: a.imag,
    "conj": lambda a, i: a.conj(),
    "neg_view": lambda a, i: torch._neg_view(a),
    "tensor_split": lambda a, i: a.tensor_split(2)[0],
    "broadcast": lambda a, i: torch.broadcast_to(a, (2, *a.shape))[1],
    "detach": lambda a, i: a.detach(),
}
RANDOM = {
    "dropout": lambda a: F.dropout(a, 0.5),
    "rand_like": torch.rand_like,
    "randn": lambda a: a + torch.randn(()),
    "uniform_": lambda a: a.uniform_(),
    "bernoulli": lambda a: torch.bernoulli(a.sigmoid()),
    "normal": lambda a: torch.normal(a, 1.0),
    "discard": lambda a: (torch.rand(5), a)[1],
    "randperm": lambda a: a.reshape(-1)[torch.randperm(a.numel())],
    "multinomial": lambda a: torch.multinomial(torch.ones(4, dtype=torch.double), 2),
    "exponential_": lambda a: a.exponential_(),
    "randint": lambda a: a + torch.randint(3, ()),
    "dropout_": lambda a: F.dropout(a, 0.5, inplace=True),
    "rand_out": lambda a: torch.rand(a.shape, dtype=a.dtype, out=torch.empty(a.shape, dtype=a.dtype)),
    "alpha_dropout": lambda a: F.alpha_dropout(a, 0.3, training=True),
    "rrelu": lambda a: F.rrelu(a, training=True),
    "random_": lambda a: a.random_(5),
}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, eps=0.1),
    "adamw_loop": lambda p: torch.optim.AdamW(p, lr=0.05, eps=0.1, foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.05, eps=0.1),
}


def quietly(a, b):
    with torch.no_grad():
        return a.add_(b, alpha=0.1)


def _scalars():
    constant = st.sampled_from([0, 1, 2, -1, 0.5, -0.25, 1.75, True])
    return st.one_of(
        st.tuples(st.just("constant"), constant), st.tuples(st.just("turn"), st.sampled_from([1, 0.25, -0.5]))
    )


def _conditions(exact):
    by_turn = st.tuples(st.just("turn"), st.sampled_from([2, 3, 5]))
    if not exact:
        return by_turn
    return st.one_of(
        by_turn, st.tuples(st.just("item"), st.integers(0, 9)), st.tuples(st.just("any"), st.integers(0, 9))
    )


def _lives_and_deaths(a):
    """A chain of values on one place of the list; some of them are held, written or read in some turns only."""
    replaced = st.tuples(
        st.just("replace"), st.sampled_from(["tanh", "exp", "neg", "sin", "clamp", "softmax", "sum_keep"])
    )
    held = st.tuples(
        st.just("sometimes"), st.sampled_from(["use", "read", "keep"]), st.just(a), st.sampled_from([6, 7, 8])
    )
    written = st.tuples(st.just("inplace"), st.sampled_from(["add_", "tanh_"]), st.just(a), st.integers(0, 15))
    step = st.one_of(replaced.map(lambda s: (*s, a)), replaced.map(lambda s: (*s, a)), held, written)
    return st.tuples(st.just("do"), st.lists(step, min_size=3, max_size=7))


def _statements(exact):
    at = st.integers(0, 15)
    simple = st.one_of(
        st.tuples(st.just("unary"), st.sampled_from([*UNARY, *(DISCONTINUOUS if exact else [])]), at),
        st.tuples(st.just("binary"), st.sampled_from([*BINARY, *(COMPARE if exact else [])]), at, at),
        st.tuples(st.just("inplace"), st.sampled_from([*INPLACE]), at, at),
        st.tuples(st.just("view"), st.sampled_from([*VIEWS]), at),
        st.tuples(st.just("scalar"), st.sampled_from(["add", "mul", "sub", "pow", "rsub"]), at, _scalars()),
        st.tuples(st.just("replace"), st.sampled_from([*UNARY]), st.integers(0, 5)),
        st.tuples(st.just("combine"), st.sampled_from([*BINARY]), st.integers(0, 5), at),
        st.tuples(st.just("chain"), st.lists(st.sampled_from([*UNARY]), min_size=2, max_size=5), at),
        st.tuples(st.just("random"), st.sampled_from([*RANDOM]), at),
        st.tuples(st.sampled_from(["drop", "log", "read", "use", "keep", "backward", "grad", "print"]), at),
        st.sampled_from([("optimizer",), ("zero_grad",), ("zero_grad_none",), ("seed",), ("input", 2), ("input", 3)]),
        st.tuples(st.just("raise"), _conditions(exact)),
        st.tuples(
            st.just("sometimes"),
            st.sampled_from(["use", "use", "read", "drop", "print"]),
            st.integers(0, 5),
            st.sampled_from([3, 6, 7]),
        ),
    )
    block = lambda inner: st.lists(inner, max_size=4)  # noqa: E731
    nested = st.one_of(
        st.integers(0, 5).flatmap(_lives_and_deaths),
        st.tuples(st.just("if"), _conditions(exact), block(simple), block(simple)),
        st.tuples(st.just("loop"), st.sampled_from([2, 3]), block(simple)),
        st.tuples(st.just("no_grad"), block(simple)),
    )
    return st.lists(st.one_of(simple, simple, simple, nested), min_size=2, max_size=14)


def programs(exact):
    return st.tuples(_statements(exact), st.sampled_from([*OPTIMIZERS]))


class Machine:
    """Runs a program: `step(turn)` is the region. `kept` and the parameters live over all turns."""

    def __init__(self, statements, optimizer, numerics, trial):
        self.statements, self.trial = statements, trial
        dtype = torch.float32 if numerics == "exact" else torch.float64
        self.dtype = dtype
        self.parameters = [
            torch.nn.Parameter(torch.randn(4, 3, dtype=dtype)),
            torch.nn.Parameter(torch.randn(3, dtype=dtype)),
        ]
        self.optimizer = OPTIMIZERS[optimizer](self.parameters)
        self.kept = [torch.randn(4, 3, dtype=dtype), torch.randn(3, dtype=dtype)]

    def step(self, turn):
        self.turn, self.used = turn, []
        self.live = [self.kept[0], self.kept[1], *self.parameters]
        try:
            self.block(self.statements)
            return self.used
        finally:
            self.live = []  # values die inside the region, so that they can be fused away

    def block(self, statements):
        for statement in statements:
            try:
                getattr(self, statement[0] + ("_" if statement[0] in ("if", "raise", "optimizer") else ""))(
                    *statement[1:]
                )
            except Stop:
                raise
            except (RuntimeError, IndexError, ValueError, TypeError) as error:
                self.trial.log(type(error).__name__, str(error))

    def pick(self, at):
        return self.live[at % len(self.live)]

    def partner(self, a, at):
        """The first live tensor from `at` on that broadcasts with `a`."""
        for k in range(len(self.live)):
            b = self.pick(at + k)
            if all(x == y or 1 in (x, y) for x, y in zip(reversed(a.shape), reversed(b.shape), strict=False)):
                return b
        return a

    def push(self, value):
        if isinstance(value, torch.Tensor) and value.numel() < 500 and len(self.live) < 24:
            self.live.append(value)

    def true(self, condition):
        kind, value = condition
        if kind == "turn":
            return self.turn % value == value - 1
        a = self.pick(value)
        return (a.sum() > 0.1).item() if kind == "item" else bool((a > 0.5).any())

    def unary(self, name, a):
        self.push((UNARY.get(name) or DISCONTINUOUS[name])(self.pick(a)))

    def replace(self, name, a):
        """The operand dies here unless something else holds it."""
        self.live[a % len(self.live)] = UNARY[name](self.pick(a))

    def combine(self, name, a, b):
        self.live[a % len(self.live)] = BINARY[name](self.pick(a), self.partner(self.pick(a), b))

    def chain(self, names, a):
        """Intermediate values die at once."""
        value = self.pick(a)
        for name in names:
            value = UNARY[name](value)
        self.live[a % len(self.live)] = value

    def binary(self, name, a, b):
        a = self.pick(a)
        self.push((BINARY.get(name) or COMPARE[name])(a, self.partner(a, b)))

    def inplace(self, name, a, b):
        a = self.pick(a)
        INPLACE[name](a, self.partner(a, b))

    def view(self, name, a):
        self.push(VIEWS[name](self.pick(a), self.turn))

    def scalar(self, name, a, value):
        a = self.pick(a)
        value = value[1] if value[0] == "constant" else value[1] * self.turn
        calls = {
            "add": lambda: a + value,
            "mul": lambda: a * value,
            "sub": lambda: a - value,
            "rsub": lambda: value - a,
        }
        calls["pow"] = lambda: torch.pow(a.abs().clamp(max=1) + 0.5, value)
        self.push(calls[name]())

    def random(self, name, a):
        self.push(RANDOM[name](self.pick(a)))

    def drop(self, a):
        if len(self.live) > 1:
            del self.live[a % len(self.live)]

    def log(self, a):
        self.trial.log(self.pick(a).double().sum().item())

    def read(self, a):
        self.trial.log(self.pick(a).detach().tolist())

    def print(self, a):
        print(tuple(self.pick(a).shape), self.pick(a).dtype, self.pick(a)[:1].detach().double() + 0.0)

    def use(self, a):
        self.used.append(self.pick(a))

    def sometimes(self, what, a, turns):
        """No new op, but a value lives longer, dies earlier or is read where it was not before."""
        if self.turn % turns == turns - 1:
            getattr(self, what)(a)

    def keep(self, a):
        """Carried over to the next turn: replaces a kept tensor, by history-free values."""
        self.kept[self.turn % 2] = self.pick(a).detach()

    def backward(self, a):
        self.pick(a).sum().backward()

    def grad(self, a):
        self.push(torch.autograd.grad(self.pick(a).sum(), self.parameters[0], retain_graph=True)[0])

    def optimizer_(self):
        self.optimizer.step()

    def zero_grad(self):
        self.optimizer.zero_grad(set_to_none=False)

    def zero_grad_none(self):
        self.optimizer.zero_grad()

    def seed(self):
        torch.manual_seed(self.turn)

    def input(self, width):
        self.push(torch.linspace(-1, 1, 2 * width, dtype=self.dtype).view(2, width) * (1 + self.turn))

    def raise_(self, condition):
        if self.true(condition):
            raise Stop(f"stopped in turn {self.turn}")

    def if_(self, condition, then, otherwise):
        self.block(then if self.true(condition) else otherwise)

    def loop(self, modulus, body):
        for _ in range(self.turn % modulus + 1):
            self.block(body)

    def do(self, body):
        self.block(body)

    def no_grad(self, body):
        with torch.no_grad():
            self.block(body)


class Stop(Exception):
    """Raised by the program itself: leaves the region."""
