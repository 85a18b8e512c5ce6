"""The language of the fuzzer: statements as tuples, a strategy that draws them, an interpreter that runs them.

Operands are numbers, taken modulo the number of live tensors; a second operand is the next live tensor whose shape
fits. Statements that eager rejects (a leaf written in place, no history to go back through) are part of the language:
the error is logged with its type and message, and the program goes on.
"""

import torch
import torch.nn.functional as F
from hypothesis import strategies as st

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
    "strided": lambda a, i: a.as_strided((2,), (1,)),
    "chunk": lambda a, i: a.chunk(2, -1)[0],
    "empty": lambda a, i: a[:0],
}
RANDOM = {
    "dropout": lambda a: F.dropout(a, 0.5),
    "rand_like": torch.rand_like,
    "randn": lambda a: a + torch.randn(()),
    "uniform_": lambda a: a.uniform_(),
    "bernoulli": lambda a: torch.bernoulli(a.sigmoid()),
    "normal": lambda a: torch.normal(a, 1.0),
    "discard": lambda a: (torch.rand(5), a)[1],
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
