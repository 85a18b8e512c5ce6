"""Cross entropy is compiled with its gradient; targets that are no classes raise as eagerly."""

import pytest
import terra
import torch
import torch.nn.functional as F

SHAPES = [(64, 64), (32, 1000), (8, 40), (5, 3), (1, 2000)]


def losses(shape, **options):
    """A step of one layer; `read`: the program looks at the loss before its gradient is asked for."""
    torch.manual_seed(0)
    weight = torch.randn(shape[1], 16, requires_grad=True)
    dtype = options.pop("dtype", torch.float32)
    read, scale = options.pop("read", False), options.pop("scale", None)

    def step(x, targets):
        loss = F.cross_entropy((x @ weight.t()).to(dtype), targets, **options)
        seen = loss.item() if read else None
        (gradient,) = torch.autograd.grad(loss if scale is None else loss * scale, weight)
        return loss.detach(), gradient, seen

    return step


def batches(shape, count, ignored=None, wrong=None):
    generator = torch.Generator().manual_seed(1)
    for i in range(count):
        x = torch.randn(shape[0], 16, generator=generator)
        targets = torch.randint(0, shape[1], (shape[0],), generator=generator)
        if ignored is not None:
            targets[::3] = ignored
        if i == wrong:
            targets[-1] = shape[1] + 3
        yield x, targets


def outcome(step, x, targets):
    try:
        loss, gradient, seen = step(x, targets)
        return float(loss), gradient.clone(), seen
    except IndexError as error:
        return str(error)


def compare(shape, ignored=None, wrong=None, **options):
    eager, program = losses(shape, **dict(options)), terra.function(losses(shape, **dict(options)))
    tolerance = 2e-2 if options.get("dtype") is torch.bfloat16 else 1e-5
    for i, (x, targets) in enumerate(batches(shape, 12, ignored, wrong)):
        expected, result = outcome(eager, x, targets), outcome(program, x, targets)
        if i == wrong:
            assert isinstance(expected, str)
            assert isinstance(result, str)
            assert expected in result
        else:
            torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
        program.wait_compiled()
    assert program.stats()["regions_coexecuted"] > 4
    return program


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_eager(shape, reduction, dtype):
    compare(shape, reduction=reduction, dtype=dtype)
    compare(shape, reduction=reduction, dtype=dtype, read=True)
    compare(shape, reduction=reduction, dtype=dtype, scale=0.25)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ignored", [-100, 1])
def test_ignored_targets(shape, ignored):
    compare(shape, ignored=ignored, ignore_index=ignored)


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("read", [False, True])
def test_wrong_targets_raise_and_the_program_goes_on(shape, read):
    compare(shape, wrong=9, read=read)


def test_forward_and_backward_are_one_instruction():
    explained = terra.explain(compare((64, 1000)))
    assert "nll_loss" not in explained
    assert "log_softmax" not in explained


@pytest.mark.parametrize("shape", [(64, 10), (64, 1000)])
def test_what_stands_between_a_loss_and_its_gradient_is_compiled(shape):
    explained = terra.explain(compare(shape, scale=0.5))
    assert "gave it up" not in explained
    assert "aten::mul" not in explained.split("externs:")[-1]


def test_a_model_learns_as_eagerly():
    torch.manual_seed(0)
    x, targets = torch.randn(64, 32), torch.randint(500, (64,))
    results = []
    for wrap in (lambda f: f, terra.function):
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Tanh(), torch.nn.Linear(64, 500))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

        def step():
            optimizer.zero_grad()  # noqa: B023
            loss = F.cross_entropy(model(x), targets) / 2  # noqa: B023
            loss.backward()
            optimizer.step()  # noqa: B023
            return loss.detach()

        results.append([float(call()) for call in [wrap(step)] * 25])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
