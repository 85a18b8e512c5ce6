"""Memory as the program sees it: views, in-place writes, out=, aliases, NumPy, odd tensors, data-dependent sizes."""

import numpy as np
import pytest
import terra
import torch
import torch.nn.functional as F
from models import stepping, vectors
from torch import nn
from util import check

BODIES = {}


def body(fn):
    BODIES[fn.__name__] = fn
    return fn


@body
def writes_through_views(x, i):
    a = torch.zeros(6, 8)
    a[1:4].add_(x[:3])
    a.view(-1)[::3] = 7
    a.t()[2] *= 3
    row = a[5]
    a[5].copy_(x[0])
    return a, row, row + 1


@body
def in_place_chains(x, i):
    a = x.clone()
    a.mul_(2).add_(1).relu_()
    b = a.view(8, 6)
    a.sub_(0.5)
    return a, b.exp_(), b


@body
def results_of_out_arguments(x, i):
    out = torch.empty(6, 8)
    torch.add(x, 1, out=out)
    half = torch.zeros(12, 8)
    torch.mul(out, 2, out=half[6:])
    wrong = torch.empty(0)
    torch.matmul(x, x.t(), out=wrong)
    return out, half, wrong


@body
def argument_written_in_place(x, i):
    x.mul_(2)
    x[0].fill_(3)
    return x.sum(), x


@body
def overlapping_windows(x, i):
    windows = x.reshape(-1).unfold(0, 4, 2)
    return windows.sum(1), windows.contiguous(), x.as_strided((3, 3), (1, 2), 1) * 2


@body
def expanded_and_broadcast(x, i):
    e = x[:1].expand(6, 8)
    return e + x, e, x.unsqueeze(1) * x.unsqueeze(0), torch.broadcast_tensors(x[0], x)


@body
def copies_between_overlapping_views(x, i):
    a = x.clone().reshape(-1)
    a[1:].copy_(a[:-1].clone())
    a[::2] += a[1::2]
    return a


@body
def splits_and_stacks(x, i):
    a, b, c = x.chunk(3)
    q, k = x.split([3, 5], dim=1)
    top, where = x.topk(3, dim=1)
    return torch.stack([a, b, c]).sum(0), torch.cat([q, k], 1), top, where, x.unbind(0)[2]


@body
def reshape_that_copies_and_that_does_not(x, i):
    view, copy = x.reshape(4, 12), x.t().reshape(4, 12)
    view.add_(1)
    return view, copy, x


@body
def permutations_keep_strides(x, i):
    a = x.t() * 2
    b = x.reshape(2, 3, 8).permute(2, 0, 1)
    return a, b + 1, b.contiguous(), torch.empty_like(b).fill_(1), x.new_zeros(3), (x.t() > 0), a.clone()


@body
def channels_last(x, i):
    image = x.reshape(1, 2, 4, 6).to(memory_format=torch.channels_last)
    return image * 2, F.relu(image), image.sum(1), F.conv2d(image, torch.ones(3, 2, 2, 2)), image.contiguous()


@body
def masks_and_nonzero(x, i):
    positive = x[x > 0]
    where = x.nonzero()
    x[x < -1] = 0
    return positive * 2, where, x, torch.masked_select(x, x > 0.5).sum(), (x > 0).sum()


@body
def unique_and_sort(x, i):
    whole = (x * 2).round().int()
    values, counts = whole.unique(return_counts=True)
    return values, counts, x.sort(dim=1), whole.reshape(-1).bincount(minlength=20) if whole.min() >= 0 else whole


@body
def gathers_and_scatters(x, i):
    index = x.abs().argsort(1)
    a = torch.zeros(6, 8).scatter_(1, index, x)
    b = torch.zeros(6, 8).index_add_(0, torch.tensor([0, 2, 2, 1, 5, 0]), x)
    b[[0, 3]] += 1
    b[torch.tensor([1, 1]), torch.tensor([2, 3])] = 9
    return a, b, x.gather(1, index[:, :2]), x[index[0] % 6], x[:, [1, 1, 0]]


@body
def size_zero(x, i):
    empty = x[:0]
    return empty * 2, empty.sum(), torch.cat([empty, x]), torch.zeros(0, 3) + 1, empty.t() @ empty, torch.tensor([])


@body
def zero_dim(x, i):
    a = x.sum()
    b = a * 2 + x[0, 0]
    b += 1
    c = torch.tensor(2.5) * a
    return a, b, c, b.reshape(1), torch.tensor(3) + 1, a.expand(3), torch.tensor(1.5).double() * x


@body
def integers_and_bools(x, i):
    n = (x * 10).long()
    flags = n % 3 == 0
    return n // 3, n % 4, n & 6, n << 1, flags ^ (x > 0), flags.sum(1), n.float() / 3, n.clamp(-5, 5), ~flags, -n


@body
def type_promotion(x, i):
    n = (x * 10).int()
    return n + 1.5, n + x.double(), n / 2, n.half() * x, torch.tensor(2.0).double() * x, n + True, x.bfloat16() + x


@body
def complex_numbers(x, i):
    z = torch.complex(x, x.flip(0))
    c = z.conj()
    return z * c, c, c.imag, z.abs(), torch.view_as_real(c.resolve_conj()), (z @ c.t()).sum(), c.clone(), c + 1, z.mH


@body
def negative_bit_views(x, i):
    z = torch.complex(x, x)
    neg = z.conj().imag
    return neg, neg + 1, neg.resolve_neg(), neg.clone(), neg.is_neg()


@body
def spectra(x, i):
    return torch.fft.rfft(x), torch.fft.irfft(torch.fft.rfft(x)), torch.fft.fft2(x).abs()


@body
def linear_algebra(x, i):
    a = x @ x.t() + 3 * torch.eye(6)
    return torch.linalg.solve(a, x), torch.linalg.cholesky(a), torch.linalg.norm(x), torch.det(a), a.inverse()


@body
def reductions(x, i):
    return (
        x.sum(), x.mean(0), x.var(1), x.std(), x.max(), x.min(0), x.argmax(1), x.prod(1), x.logsumexp(0), x.norm(dim=1),
        x.median(), x.softmax(1), x.log_softmax(0), x.cumsum(1), x.any(1), x.all(), x.amax((0, 1)), x.sum((0, 1), True),
    )  # fmt: skip


@body
def elementwise_functions(x, i):
    p = x.abs() + 0.1
    return (
        x.exp(), p.log(), x.sin(), x.tanh(), x.sigmoid(), x.erf(), p.sqrt(), p.rsqrt(), x.pow(2), p.pow(1.5), x.abs(),
        x.neg(), x.sign(), x.floor(), x.round(), F.gelu(x), F.silu(x), F.elu(x), F.softplus(x),
        F.leaky_relu(x), F.hardtanh(x),
        torch.atan2(x, p), torch.lerp(x, p, 0.3), torch.addcmul(x, p, p, value=0.5), x.clamp(-1, 1), p.reciprocal(),
        torch.maximum(x, p), x.nan_to_num(), x.fmod(0.7), x.remainder(0.7), torch.where(x > 0, x, p),
        x.expm1(), p.log1p(),
    )  # fmt: skip


@body
def nan_and_infinity(x, i):
    a = x.clone()
    # Without gelu: eager's vector code makes NaN of gelu(inf), its scalar code inf.
    a[0, 0], a[1, 1], a[2, 2], a[3, 3] = float("nan"), float("inf"), -float("inf"), -0.0
    return (
        a.relu(), a.max(1), a.sum(0), torch.maximum(a, x), a.clamp(-1, 1), a.softmax(1), a.tanh(), a.exp(), a * 0,
        a == a, a.isnan(), a.sign(), a.abs(), a.amax(0), torch.minimum(a, x), a.sigmoid(), a.argmax(1),
        1 / a,
    )  # fmt: skip


@body
def numbers_filled_inside_a_call(x, i):
    """`1 - cos` in C++ fills an uninitialised number at once, without an event: replayed, it was whatever lay there."""
    target = torch.stack([x.sum(), x.sum()]).sign()[1:].view(()).abs()
    return F.cosine_embedding_loss(x[0] * 1, x[1] * 1, target, reduction="none")


@body
def tensors_of_tensors(x, i):
    return torch.tensor([x.sum(), x.mean()]), torch.as_tensor([x[0, 0], 2.0]), torch.tensor([[x.max()]])


@body
def composites_that_read_memory(x, i):
    """Their C++ code takes the pointer of a tensor that the region made."""
    packed = nn.utils.rnn.pack_padded_sequence(x.view(6, 8, 1), torch.tensor([6, 5, 4, 3, 3, 2, 1, 1]) + 0)
    padded, lengths = nn.utils.rnn.pad_packed_sequence(packed)
    targets, whole = torch.tensor([[1, 2], [1, 3]]), torch.tensor([6, 6])
    loss = F.ctc_loss(x.view(6, 2, 4).log_softmax(2), targets, whole, torch.tensor([2, 2]) + 0)
    apart = torch.stack([whole, whole], 1).int().view(-1)[::2]  # neither contiguous nor of the type that is read
    loss = loss + F.ctc_loss(x.view(6, 2, 4).log_softmax(2), targets, apart, torch.tensor([2, 2]))
    return x.tensor_split(torch.tensor([1, 3]) + 0), padded, lengths, loss


@body
def constructors_that_read_memory(x, i):
    pairs = torch.tensor([[0, 1, 2], [2, 0, 1]]) + 0
    sparse = torch.sparse_coo_tensor(pairs, x[0, :3] * 2)
    state = torch.get_rng_state() + 0
    torch.set_rng_state(state)
    return x.new_tensor([x.sum(), 1.0]), sparse.to_dense(), torch.rand(2), (x * 1).const_data_ptr() != 0


@body
def operands_that_are_one_object(x, i):
    """Attention computes differently when query, key and value are the same tensor object."""
    torch.manual_seed(3)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    a, b = (x * 1).view(2, 3, 8), (x * 1).view(2, 3, 8)
    with torch.no_grad():
        return attention(a, a, a), attention(a, b, b), attention(a, a.view(2, 3, 8), a), torch.cat([a, a]), a.add_(a)


@body
def two_rows_or_one_twice(x, i):
    """An op that was recorded with one tensor twice, and later gets two tensors of one storage."""
    rows = (x * 2).unbind(0)
    first, second = rows[0], rows[0 if i % 3 == 0 else 2]
    return first - second, torch.stack([first, second]), first @ second


@body
def tensors_as_python_numbers(x, i):
    two = torch.tensor(2) + 0
    return x[:two], x[two], [1, 2, 3, 4][two], list(range(two)), torch.arange(two + 1), complex(x.sum()), 3.0 in x


@body
def odd_layouts(x, i):
    sparse = (x * 1).to_sparse()
    nested = torch.nested.nested_tensor([x * 1, x[:2] * 2]).to_padded_tensor(0.0)
    return sparse @ x.t(), sparse.to_dense() + 1, (x * 1).to_sparse_csr() @ x.t(), nested * 2, (x * 1).view(torch.int32)


@body
def memory_shared_by_protocol(x, i):
    a = torch.from_dlpack(x * 1)
    a.add_(1)
    return a, a + 1, torch.frombuffer((x * 1).numpy(), dtype=torch.float32) * 2


@body
def storage_swaps(x, i):
    a, b = x.clone(), x * 2
    a.data = b
    a.add_(1)
    c = torch.empty(3)
    c.set_(x[0, :3].clone())
    d = x.clone().resize_(3, 4)
    return a, b, c, d


@body
def data_and_detach_share_memory(x, i):
    w = (x * 1).requires_grad_()
    y = (w * w).sum()
    w.data.mul_(2)
    y.backward()
    w.detach().add_(1)
    return w, w.grad, y


@body
def factories(x, i):
    i %= 2
    return (
        torch.zeros(3), torch.ones(2, 2), torch.arange(i, i + 3), torch.arange(0, 1, 0.25), torch.linspace(0, 1, 5),
        torch.full((2,), float(i)), torch.eye(3), x.new_full((2,), 3), torch.tensor([1, i]), torch.zeros_like(x),
        torch.tensor(float(i)), torch.as_tensor([i, 2.5]), torch.tril(torch.ones(3, 3)),
        F.one_hot(torch.tensor([i % 4]), 4),
    )  # fmt: skip


@body
def item_assignment_and_fill(x, i):
    a = torch.zeros(4, 4)
    a[i % 4, 1] = i
    a[1] = x[0, :4]
    a[:, 2] = 5
    a.fill_diagonal_(i)
    a[..., 3].zero_()
    return a


@body
def results_returned_twice(x, i):
    a = x + 1
    return a, a, a[0], a.view(-1)


@body
def no_grad_and_inference_mode(x, i):
    w = torch.ones(8, requires_grad=True)
    with torch.no_grad():
        a = w * x
    with torch.inference_mode():
        b = (w * x).sum(1)
    with torch.set_grad_enabled(i % 2 == 0):
        c = w * x
    return a, b, c, w * x


# In every turn other sizes than before.
NEVER_REPEATS = {"masks_and_nonzero"}


@pytest.mark.parametrize("name", BODIES)
def test_memory(name, numerics):
    check(stepping(BODIES[name]), numerics, coexecutes=name not in NEVER_REPEATS)


def test_sizes_that_turn_out_to_depend_on_data():
    """`_ctc_loss.Tensor` does not say that the size of its second result is given by the target lengths."""
    ctc = torch.ops.aten._ctc_loss.Tensor
    scores, targets = torch.randn(6, 2, 4).log_softmax(2), torch.tensor([[1, 2, 3], [1, 3, 2]])

    def eager(lengths):
        return ctc(scores, targets, torch.tensor([6, 6]), lengths)

    step = terra.function(eager, numerics="exact")
    short, long = torch.tensor([2, 2]), torch.tensor([3, 2])
    for _ in range(3):
        step(short)
        step.wait_compiled()
    if step.stats()["gates"] == 0:  # no other test has met this operator
        with pytest.raises(RuntimeError, match="depend on data"):
            step(long)[1].tolist()
    for i in range(8):
        lengths = (short, long)[i % 2]
        expected, actual = eager(lengths), step(lengths)
        assert torch.equal(expected[0], actual[0]) and expected[1].shape == actual[1].shape
    assert step.stats()["gates"] > 0 and step.stats()["regions_failed"] <= 1


def test_sizes_that_change_in_every_turn(numerics):
    def body(x, i):
        return torch.arange(i + 3) * 2, torch.zeros(i, 2) + 1, x[: i % 6].sum(0), x.repeat(i, 1).mean(0)

    check(stepping(body), numerics, coexecutes=False)


def test_numpy_round_trips(numerics):
    def program(t):
        @t.function
        def step(x):
            h = x * 2
            n = np.tanh(h.numpy())
            back = torch.from_numpy(n) + h
            h.numpy()[0] = 5
            return back, h, torch.tensor(np.ones(3) * float(h[0, 0])), torch.as_tensor(n).sum()

        for i in t.loop(8):
            t.out(*step(vectors(i)))

    check(program, numerics)


def test_foreign_memory_mutated_between_and_inside_regions(numerics):
    def program(t):
        buffer = np.zeros(8, np.float32)
        shared = torch.from_numpy(buffer)
        t.watch(shared=shared)

        @t.function
        def step(x, i):
            a = x + shared
            buffer[:] = i + 1
            b = x * shared
            shared.add_(1)
            t.log(buffer.tolist())
            return a, b

        for i in t.loop(8):
            buffer[0] = -i
            t.out(*step(vectors(i), i))
            buffer[1] = 100

    check(program, numerics)


def test_numpy_view_of_a_parameter_is_seen(numerics):
    def program(t):
        w = torch.ones(8)
        window = w.numpy()
        t.watch(w=w)

        @t.function
        def step(x):
            y = (x * w).sum(0)
            w.add_(y * 0.1)
            return y

        for i in t.loop(7):
            t.out(step(vectors(i)))
            t.log(window.tolist())
            window[2] = i

    check(program, numerics)


def test_inputs_changed_right_after_the_region(numerics):
    def program(t):
        x = torch.zeros(64, 8)

        @t.function
        def step(x):
            return (x @ x.t()).sum(1), x[3:5].tanh()

        for i in t.loop(8):
            x.copy_(vectors(i, 64))
            t.out(step(x))
            x.fill_(99)

    check(program, numerics)


def test_two_tensors_of_the_same_memory_passed_in(numerics):
    def program(t):
        @t.function
        def step(a, b):
            a.add_(1)
            b.mul_(2)
            return a + b

        for i in t.loop(12):
            x = vectors(i)
            pair = [(x[:3], x[3:]), (x[:4], x[2:]), (x, x)][i % 3]
            t.out(step(pair[0], pair[1][: len(pair[0])]), x)

    check(program, numerics)


def test_parameters_moved_and_replaced(numerics):
    def program(t):
        net = nn.Linear(8, 4)
        forward = t.function(net)
        t.watch(net=net)
        for i in t.loop(12):
            if i == 5:
                net.weight = nn.Parameter(torch.ones(4, 8))
            if i == 7:
                net.double()
            if i == 9:
                net.float().weight.data = torch.zeros(8, 4).t()
            t.out(forward(vectors(i).to(net.weight.dtype)))

    check(program, numerics)


def test_dtype_and_layout_of_inputs_change(numerics):
    def program(t):
        @t.function
        def step(x):
            return (x * 2 + 1).sum(0), x.t() @ x

        for i in t.loop(16):
            x = vectors(i)
            t.out(step([x, x.double(), x.t().contiguous().t(), x[::2]][i % 4]))

    check(program, numerics)


def test_default_dtype_and_deterministic_flags_are_context(numerics):
    def program(t):
        @t.function
        def step(x):
            return torch.ones(2) / 3, x.sum(0), (x > 0).int() / 2

        for i in t.loop(10):
            try:
                torch.set_default_dtype(torch.float64 if i % 2 else torch.float32)
                torch.use_deterministic_algorithms(i % 4 >= 2)
                t.out(step(vectors(i)))
            finally:
                torch.set_default_dtype(torch.float32)
                torch.use_deterministic_algorithms(False)

    check(program, numerics)


def test_number_of_threads_is_context(numerics):
    """Reductions of large tensors add in another order with another number of threads."""

    def program(t):
        data = torch.randn(300, 1000)

        @t.function
        def step():
            return data.sum(), data.mean(1), data.t() @ data[:, :5], (data * 3).tanh().sum(0), data.norm()

        for i in t.loop(8):
            torch.set_num_threads(1 + i % 2)
            t.out(*step())

    check(program, numerics)


def test_tensor_subclass(numerics):
    class Named(torch.Tensor):
        pass

    def program(t):
        @t.function
        def step(x):
            named = x.as_subclass(Named)
            return named * 2, type(named + 1).__name__ == "Named"

        for i in t.loop(6):
            t.out(*step(vectors(i)))

    check(program, numerics)


def test_sharing_of_storages_among_results(numerics):
    def program(t):
        @t.function
        def step(x):
            a = x * 2
            b, c = a[:3], a[3:]
            return b, c, a.t(), x[1], x.flatten()

        for i in t.loop(7):
            outs = step(vectors(i))
            outs[0].add_(1)
            t.out(*outs)

    check(program, numerics)
