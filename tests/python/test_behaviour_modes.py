"""What happens around a backward: values modified, aliases, modes, higher orders, recomputation, exceptions."""

import copy

import pytest
import torch
import torch.nn.functional as F
from scenes import ALWAYS, cases, plain, play, playing
from snapshot import Tolerance
from torch import nn
from torch.utils.checkpoint import checkpoint
from util import check

ACTS = {}


def act(fn):
    ACTS[fn.__name__] = fn
    return fn


# Values that change, aliases


@act
def saved_value_modified(s):
    s.zero_grad()
    yield
    with torch.no_grad():
        s.h.add_(1)
    with s.catches():
        s.loss.backward()


@act
def saved_value_modified_through_an_alias(s):
    s.zero_grad()
    s.on_h = lambda h: setattr(s, "alias", h.detach())
    yield
    s.alias.mul_(2)
    s.log(s.h._version, s.alias._version, s.alias.is_leaf, s.alias._is_view())
    with s.catches():
        s.loss.backward()


@act
def saved_value_modified_behind_autograd(s):
    s.zero_grad()
    yield
    s.h.data.mul_(2)
    s.log(s.h._version)
    s.loss.backward()


@act
def unsaved_value_modified(s):
    s.zero_grad()
    yield
    with torch.no_grad():
        s.logits.mul_(2)
    s.loss.backward()


@act
def parameter_modified_before_backward(s):
    s.zero_grad()
    yield
    with torch.no_grad():
        s.net[4].weight.mul_(0.5)
    with s.catches():
        s.loss.backward()


@act
def parameter_data_replaced_before_backward(s):
    s.zero_grad()
    yield
    s.net[4].weight.data = s.net[4].weight.data * 0.5
    s.loss.backward()


@act
def input_modified_before_backward(s):
    s.zero_grad()
    s.x = s.x.clone()
    yield
    s.x.zero_()
    with s.catches():
        s.loss.backward()


@act
def in_place_in_the_middle_of_the_forward(s):
    s.zero_grad()
    s.on_h = lambda h: h.mul_(1.5).relu_()
    yield
    s.log(s.h.grad_fn.name(), s.h._version)
    s.loss.backward()


@act
def in_place_on_views_of_an_interior_value(s):
    s.zero_grad()

    def write(h):
        first, second = h[:3], h[3:]
        first.mul_(2)
        h[:, 0] = second[0, 0]
        s.log(first.grad_fn.name(), h.grad_fn.name(), first._base is h)

    s.on_h = write
    yield
    s.loss.backward()


@act
def detached_in_place(s):
    s.zero_grad()
    s.on_h = lambda h: h.detach_()
    yield
    s.log(s.h.is_leaf, s.h.grad_fn is None)
    s.loss.backward()
    s.log(s.net[0].weight.grad is None)


@act
def requires_grad_of_interior_values(s):
    s.zero_grad()
    yield
    with s.catches():
        s.h.requires_grad_(False)
    with s.catches():
        s.g.requires_grad = False
    late = s.h.detach().requires_grad_()
    s.out(torch.autograd.grad(late.pow(2).sum(), late))
    s.loss.backward()


@act
def gradients_kept_over_zero_grad(s):
    kept = [p.grad for p in s.net[:5].parameters()]
    s.zero_grad(set_to_none=s.i % 3 == 0)
    yield
    s.loss.backward()
    s.out(kept)


@act
def gradients_are_views_of_one_buffer(s):
    buffer = torch.zeros(sum(p.numel() for p in s.net[4].parameters()))
    s.zero_grad()
    start = 0
    for p in s.net[4].parameters():
        p.grad = buffer[start : start + p.numel()].view_as(p)
        start += p.numel()
    yield
    s.loss.backward()
    s.out(buffer)


@act
def gradients_with_other_strides(s):
    s.zero_grad()
    s.net[4].weight.grad = torch.ones(16, 5).t()
    yield
    s.loss.backward()
    s.log(s.net[4].weight.grad.stride())


@act
def gradients_set_and_changed_by_hand(s):
    s.zero_grad()
    yield
    s.loss.backward()
    s.net[0].bias.grad = torch.ones_like(s.net[0].bias)
    s.net[0].weight.grad.mul_(0.5)
    s.net[4].weight.grad = None
    s.net[1].weight.grad = s.net[1].bias.grad


@act
def clipped_gradients(s):
    s.zero_grad()
    yield
    s.loss.backward()
    s.out(nn.utils.clip_grad_norm_(s.net.parameters(), 0.1, foreach=[None, False][s.i % 2]))
    nn.utils.clip_grad_value_(s.net.parameters(), 0.02)


# Modes


@act
def trunk_without_gradients(s):
    s.zero_grad()
    guard = torch.no_grad()
    s.on_h = lambda h: guard.__exit__(None, None, None)
    guard.__enter__()
    yield
    s.log(s.h.requires_grad, s.logits.requires_grad)
    s.loss.backward()


@act
def gradients_within_no_grad(s):
    s.zero_grad()
    with torch.no_grad(), torch.enable_grad():
        yield
    s.loss.backward()


@act
def forward_without_grad_mode(s):
    s.zero_grad()
    with torch.set_grad_enabled(False):
        yield
    s.log(s.loss.requires_grad, s.loss.grad_fn is None)
    with s.catches():
        s.loss.backward()
    s.update = False


@act
def forward_in_inference_mode(s):
    with torch.inference_mode():
        yield
    s.log(s.loss.is_inference(), s.h.is_inference())
    with s.catches():
        s.net[4](s.g)
    s.update = False


@act
def inference_between_forward_and_backward(s):
    s.zero_grad()
    yield
    with torch.inference_mode():
        s.out(s.net[4](s.g.detach()).argmax(1).clone())
    s.loss.backward()


@act
def evaluated_in_between(s):
    s.zero_grad()
    s.net.eval()
    yield
    s.net.train()
    s.loss.backward()


@act
def frozen_parameters(s):
    s.zero_grad()
    s.net[0].requires_grad_(False)
    s.net[4].bias.requires_grad_(False)
    yield
    s.log(s.h.requires_grad)
    s.loss.backward()
    s.net.requires_grad_(True)


@act
def unfrozen_between_forward_and_backward(s):
    s.zero_grad()
    s.net[0].weight.requires_grad_(False)
    yield
    s.net[0].weight.requires_grad_(True)
    s.loss.backward()
    s.log(s.net[0].weight.grad is None)


@act
def autocast_around_the_forward(s):
    s.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield
        again = s.net[4](s.g)  # takes the weight cast from the cache
    s.log(s.h.dtype, s.loss.dtype, again.dtype)
    (s.loss + again.float().pow(2).mean()).backward()


@act
def autocast_around_backward_too(s):
    s.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        yield
        s.loss.backward()


@act
def anomaly_mode(s):
    s.zero_grad()
    with torch.autograd.detect_anomaly(check_nan=False):
        yield
        s.loss.backward()


@act
def anomaly_mode_only_around_backward(s):
    s.zero_grad()
    yield
    with torch.autograd.set_detect_anomaly(True):
        s.loss.backward()


@act
def hooks_of_saved_tensors(s):
    s.zero_grad()
    packed = []

    def pack(saved):
        packed.append(tuple(saved.shape))
        return saved.dtype, saved.double()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda pair: pair[1].to(pair[0])):
        yield
    s.log(len(packed))
    s.loss.backward()


@act
def saved_tensors_kept_elsewhere(s):
    s.zero_grad()
    with torch.autograd.graph.save_on_cpu():
        yield
    s.loss.backward()


@act
def mutation_of_saved_tensors_allowed(s):
    s.zero_grad()
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        yield
        with torch.no_grad():
            s.h.add_(1)
        s.loss.backward()


# Higher orders, custom functions, recomputation, copies


@act
def gradient_penalty_on_an_interior_value(s):
    s.zero_grad()
    yield
    (grad,) = torch.autograd.grad(s.loss, s.g, create_graph=True)
    (s.loss + grad.pow(2).sum() * 10).backward()


@act
def gradient_penalty_on_the_input(s):
    s.zero_grad()
    s.x = s.x.clone().requires_grad_()
    yield
    (grad,) = torch.autograd.grad(s.loss, s.x, create_graph=True)
    s.log(grad.requires_grad, grad.grad_fn is not None)
    (s.loss + (grad.norm(dim=1) - 1).pow(2).mean()).backward()


@act
def backward_that_can_be_differentiated(s):
    s.zero_grad()
    yield
    s.loss.backward(create_graph=True)
    total = sum(p.grad.pow(2).sum() for p in s.net[4].parameters())
    s.log(s.net[4].weight.grad.requires_grad)
    s.out(torch.autograd.grad(total, s.net[4].weight))
    for p in s.net.parameters():
        p.grad = None
    s.update = False


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, factor):
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx, grad):
        return grad.neg() * ctx.factor, None


@act
def custom_function_at_the_end(s):
    s.zero_grad()
    yield
    loss = s.loss + Reversed.apply(s.g, 0.1 + s.i % 2).pow(2).mean()
    s.log(type(loss.grad_fn).__name__, s.g.grad_fn.name())
    loss.backward()


@act
def recomputed_tail(s):
    s.zero_grad()
    yield
    loss = F.cross_entropy(checkpoint(s.net[2:5], s.net[1](s.h), use_reentrant=bool(s.i % 2)), s.y)
    (loss + s.loss).backward()


@act
def copy_of_the_model_in_mid_step(s):
    s.zero_grad()
    yield
    twin = copy.deepcopy(s.net)
    s.loss.backward()
    twin[4](s.g.detach()).sum().backward()
    s.out(twin[4].weight.grad)
    other = copy.deepcopy(s.net)
    s.out([p.grad for p in other[:5].parameters()])
    with s.catches():
        copy.deepcopy(s.h)


@act
def functional_call_with_other_weights(s):
    s.zero_grad()
    yield
    weights = {name: (p * 2).detach().requires_grad_() for name, p in s.net[4].named_parameters()}
    out = torch.func.functional_call(s.net[4], weights, (s.g,))
    (F.cross_entropy(out, s.y) + s.loss).backward()
    s.out({name: p.grad for name, p in weights.items()})


@act
def transforms_over_the_modules(s):
    s.zero_grad()
    yield
    weights = {name: p.detach() for name, p in s.net[4].named_parameters()}
    inner = lambda w, v: torch.func.functional_call(s.net[4], w, (v,)).pow(2).sum()  # noqa: E731
    s.out(torch.func.vmap(torch.func.grad(inner), (None, 0))(weights, s.g.detach()))
    s.loss.backward()


# Exceptions


@act
def raises_before_backward(s):
    s.zero_grad()
    yield
    raise ValueError(f"turn {s.i}")


@act
def raises_after_backward(s):
    s.zero_grad()
    yield
    s.loss.backward()
    raise ValueError(f"turn {s.i}")


@act
def raises_in_the_forward_after_gradients_exist(s):
    def fail(h):
        raise ValueError(f"turn {s.i} {tuple(h.shape)}")

    s.on_h = fail
    yield


# float32 results of a bfloat16 computation are as precise as that.
HALVES = Tolerance.fast(3e-2, 2e-2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "when", "numerics"), cases(ACTS))
def test_act(name, when, numerics):
    play(ACTS[name], when, numerics, tolerance=HALVES if name.startswith("autocast") else None)


@pytest.mark.filterwarnings("ignore")
def test_acts_one_after_another(numerics):
    """No act leaves anything behind that the next could notice."""
    acts = [fn for name, fn in ACTS.items() if not name.startswith(("autocast", "raises"))]
    program = playing(lambda s: (acts[s.i // 2] if s.i % 2 else plain)(s), 2 * len(acts), ALWAYS)
    check(program, numerics, ways=(False,), coexecutes=False)


def test_attention_backends_switch():
    """Which kernels may be used belongs to the call; where none may, eager's error appears."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def program(t):
        torch.manual_seed(0)
        q = torch.randn(2, 2, 8, 16, requires_grad=True)
        t.watch(q=q)

        @t.function
        def step():
            q.grad = None
            out = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
            out.square().sum().backward()
            return out, q.grad

        for i in t.loop(12):
            with sdpa_kernel([SDPBackend.MATH if i % 3 == 1 else SDPBackend.FLASH_ATTENTION]):
                t.out(*step())
        try:
            with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION]):
                step()
        except RuntimeError as error:
            t.log(type(error).__name__)
        torch.backends.cuda.enable_flash_sdp(False)
        try:
            t.out(*step())
        finally:
            torch.backends.cuda.enable_flash_sdp(True)

    check(program, "exact")
    check(program, "fast")


def test_denormals_are_flushed_where_the_program_says_so():
    def program(t):
        x = torch.full((64,), 1e-38)

        @t.function
        def step():
            y = x * 0.01
            return y, (y + x).sum(), y.item() if y.numel() == 1 else 0

        for i in t.loop(12):
            torch.set_flush_denormal(i % 4 == 3)
            try:
                result = step()
                t.out((result[0] != 0).sum().item(), result[1])
            finally:
                torch.set_flush_denormal(False)

    check(program, "exact")
    check(program, "fast")
