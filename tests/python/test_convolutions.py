"""Convolutions of the graph may run by other code than eager's: near its results in fast, bit for bit in exact."""

import pytest
import terra
import torch
import torch.nn.functional as F

CALLS = 30  # more than a race takes
SIZES = [  # function, batch, channels, size, kernel, options
    (F.conv2d, 4, (8, 12), (16, 16), (3, 3), {"padding": 1}),
    (F.conv2d, 3, (6, 10), (15, 9), (3, 2), {"stride": 2, "padding": 1}),
    (F.conv2d, 2, (8, 8), (12, 12), (3, 3), {"padding": 2, "dilation": 2, "groups": 4}),
    (F.conv2d, 5, (16, 7), (8, 8), (1, 1), {"stride": 2}),
    (F.conv_transpose2d, 3, (9, 6), (5, 7), (4, 4), {"stride": 2, "padding": 1}),
    (F.conv_transpose2d, 2, (8, 4), (6, 6), (3, 3), {"stride": 2, "output_padding": 1, "groups": 2}),
    # Large enough for matrix products: of each image, of columns, of whole images.
    (F.conv2d, 3, (40, 64), (8, 8), (1, 1), {}),
    (F.conv2d, 3, (64, 48), (9, 8), (1, 1), {"stride": 2}),
    (F.conv2d, 2, (64, 72), (4, 5), (3, 3), {"padding": 1}),
    (F.conv2d, 2, (96, 64), (5, 5), (2, 3), {"padding": (0, 2), "stride": (1, 2), "dilation": (2, 1)}),
    (F.conv2d, 5, (96, 64), (4, 4), (4, 4), {}),
    (F.conv_transpose2d, 5, (160, 32), (1, 1), (4, 4), {}),
    (F.conv_transpose2d, 3, (64, 40), (8, 8), (1, 1), {}),
    (F.conv_transpose2d, 2, (96, 64), (3, 2), (3, 3), {"padding": 1, "stride": 2}),
]


def program(function, options):
    def step(x, weight, bias):
        x, weight, bias = (t.detach().requires_grad_() for t in (x, weight, bias))
        out = function(x, weight, bias, **options)
        (out * out).sum().backward()
        return out.detach(), x.grad, weight.grad, bias.grad

    return step


def operands(seed, function, batch, channels, size, kernel, options):
    g = torch.Generator().manual_seed(seed)
    groups, (inputs, outputs) = options.get("groups", 1), channels
    transposed = function is F.conv_transpose2d
    shape = (inputs, outputs // groups) if transposed else (outputs, inputs // groups)
    return (
        torch.randn(batch, inputs, *size, generator=g),
        torch.randn(*shape, *kernel, generator=g),
        torch.randn(outputs, generator=g),
    )


def relative_error(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("case", SIZES, ids=[f"{case[0].__name__}-{i}" for i, case in enumerate(SIZES)])
def test_fast_convolutions_are_accurate(case):
    step = program(case[0], case[-1])
    compiled = terra.function(step)
    for i in range(CALLS):
        inputs = operands(i, *case)
        exact = step(*(t.double() for t in inputs))
        for actual, expected in zip(compiled(*inputs), exact, strict=True):
            assert actual.shape == expected.shape
            assert relative_error(actual, expected) < 1e-6
        compiled.wait_compiled()
    assert compiled.stats()["regions_coexecuted"] > CALLS // 2


def test_exact_convolutions_are_eagers():
    step = program(F.conv2d, {"padding": 1})
    compiled = terra.function(step, numerics="exact")
    for i in range(CALLS):
        inputs = operands(i, *SIZES[0])
        for actual, expected in zip(compiled(*inputs), step(*inputs), strict=True):
            assert torch.equal(actual, expected)
        compiled.wait_compiled()


@pytest.mark.parametrize("case", [SIZES[0], SIZES[8]], ids=["loops", "products"])
def test_infinities_stay_where_eager_has_them(case):
    step = program(F.conv2d, {"padding": 1})
    compiled = terra.function(step)
    for i in range(CALLS):
        x, weight, bias = operands(i, *case)
        x[0, 0, 0, 0] = weight[0, 0, 0, 0] = float("inf")
        for actual, expected in zip(compiled(x, weight, bias), step(x, weight, bias), strict=True):
            assert torch.equal(actual.isfinite(), expected.isfinite())
        compiled.wait_compiled()


def layouts(x, weight, bias):
    """The same numbers as they may lie in memory: channels last, every second column of a wider image, bfloat16."""
    wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1])
    wide[..., ::2] = x
    yield x.to(memory_format=torch.channels_last), weight.to(memory_format=torch.channels_last), bias
    yield wide[..., ::2], weight.transpose(2, 3).contiguous().transpose(2, 3), bias
    yield x.bfloat16(), weight.bfloat16(), bias.bfloat16()


@pytest.mark.parametrize("layout", range(3), ids=["channels_last", "strided", "bfloat16"])
def test_other_layouts_and_types_are_eagers(layout):
    step = program(F.conv2d, {"padding": 1})
    compiled = terra.function(step)
    for i in range(CALLS):
        inputs = list(layouts(*operands(i, *SIZES[8])))[layout]
        for actual, expected in zip(compiled(*inputs), step(*inputs), strict=True):
            assert actual.dtype == expected.dtype
            assert actual.stride() == expected.stride()
            assert relative_error(actual, expected.double()) < (1e-6 if layout < 2 else 1e-2)
        compiled.wait_compiled()


def test_frozen_operands_have_no_gradients():
    def step(x, weight, bias):
        weight = weight.detach().requires_grad_()
        F.conv2d(x, weight, bias).square().sum().backward()
        return weight.grad

    compiled = terra.function(step)
    for i in range(CALLS):
        inputs = operands(i, *SIZES[6])
        assert relative_error(compiled(*inputs), step(*(t.double() for t in inputs))) < 1e-6
        compiled.wait_compiled()
