"""Calls on lists of tensors (`torch._foreach_…`): optimizers and clipping in compiled segments equal eager."""

import pytest
import terra
import torch

STEPS = 14


def train(decorate, make_optimizer, clip=False):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(12, 20), torch.nn.LayerNorm(20), torch.nn.GELU(), torch.nn.Linear(20, 12)
    )
    optimizer = make_optimizer(model.parameters())

    @decorate
    def step(x):
        optimizer.zero_grad()
        loss = (model(x) - x).square().mean()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        return loss.detach()

    g = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(STEPS):
        losses.append(step(torch.randn(6, 12, generator=g)))
        if hasattr(step, "wait_compiled"):
            step.wait_compiled()
    return [torch.stack(losses), *(p.detach().clone() for p in model.parameters())], step


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, foreach=True),
    "sgd_momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01, nesterov=True, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01, foreach=True),
    "adamw_amsgrad": lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, foreach=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.01, foreach=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("clip", [False, True])
def test_optimizers_on_lists(name, clip):
    actual, step = train(terra.function, OPTIMIZERS[name], clip)
    expected, _ = train(lambda f: f, OPTIMIZERS[name], clip)
    assert step.stats()["regions_coexecuted"] > STEPS // 3
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-6)


def every_list_call(tensors, others, scalars, number):
    made = [
        torch._foreach_add(tensors, others, alpha=0.5), torch._foreach_add(tensors, 2.5),
        torch._foreach_sub(tensors, others), torch._foreach_mul(tensors, scalars), torch._foreach_mul(tensors, number),
        torch._foreach_div(tensors, others), torch._foreach_neg(others),
        torch._foreach_sqrt(torch._foreach_mul(others, others)),
        torch._foreach_addcmul(tensors, others, others, value=0.3),
        torch._foreach_addcdiv(tensors, others, tensors, scalars),
        torch._foreach_lerp(tensors, others, 0.7), torch._foreach_maximum(tensors, others),
    ]  # fmt: skip
    first = made[0]
    torch._foreach_add_(first, made[1])
    torch._foreach_mul_(first, scalars)
    torch._foreach_addcdiv_(first, others, tensors, scalars)
    torch._foreach_copy_(made[2], first)
    torch._foreach_zero_(made[1])
    return [tensor for result in made for tensor in result]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_list_call(dtype):
    compiled = terra.function(every_list_call)
    for i in range(8):
        g = torch.Generator().manual_seed(i)
        sizes = [
            (3, 4),
            (12,),
            (2, 3, 2),
            (),
            (5,),
        ]  # equal numbers of elements in different shapes, and a 0-dim tensor
        tensors = [(torch.rand(size, generator=g) + 0.5).to(dtype) for size in sizes]
        others = [(torch.rand(size, generator=g) + 0.5).to(dtype) for size in sizes]
        scalars = [0.5, 1.5, -2.0, 3.0, 0.25 + i]
        arguments = (tensors, others, scalars, torch.tensor(1.25, dtype=dtype))
        tolerance = 1e-6 if dtype != torch.bfloat16 else 2e-2
        for actual, expected in zip(compiled(*arguments), every_list_call(*arguments), strict=True):
            torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
        compiled.wait_compiled()
    assert compiled.stats()["regions_coexecuted"] > 2


def test_lists_whose_tensors_share_memory():
    def step(x):
        flat = x * 2
        parts = [flat[:8], flat[8:24], flat[24:]]
        torch._foreach_mul_(parts, 3.0)
        torch._foreach_add_(parts, [p.flip(0) for p in parts])
        return flat

    compiled = terra.function(step)
    for i in range(8):
        x = torch.randn(40, generator=torch.Generator().manual_seed(i))
        torch.testing.assert_close(compiled(x), step(x))
        compiled.wait_compiled()


def test_lists_read_between_their_calls():
    def step(tensors):
        doubled = torch._foreach_mul(tensors, 2.0)
        total = torch.linalg.vector_norm(doubled[0])  # one part is needed earlier than the other
        torch._foreach_add_(doubled, 1.0)
        return [*doubled, total]

    compiled = terra.function(step)
    for i in range(8):
        g = torch.Generator().manual_seed(i)
        tensors = [torch.randn(8, generator=g), torch.randn(30, generator=g)]
        for actual, expected in zip(compiled(tensors), step(tensors), strict=True):
            torch.testing.assert_close(actual, expected)
        compiled.wait_compiled()
