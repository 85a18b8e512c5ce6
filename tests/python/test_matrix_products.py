"""Large matrix products of the graph may run in another library: near eager's in fast, bit for bit in exact."""

import pytest
import terra
import torch
import torch.nn.functional as F

CALLS = 24  # more than a race of the two libraries takes


def products(x, weight, bias):
    """Every way a matrix can lie: forward and both gradients of a linear layer, with and without bias."""
    return F.linear(x, weight, bias), x @ weight.t(), x.t() @ x, weight.t() @ weight, torch.addmm(bias, x, weight.t())


def operands(seed: int):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(160, 192, generator=g), torch.randn(224, 192, generator=g), torch.randn(224, generator=g)


def relative_error(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


def test_fast_products_are_accurate():
    compiled = terra.function(products)
    for i in range(CALLS):
        inputs = operands(i)
        exact = products(*(t.double() for t in inputs))
        for actual, expected in zip(compiled(*inputs), exact, strict=True):
            assert actual.is_contiguous()
            assert relative_error(actual, expected) < 1e-6
        compiled.wait_compiled()
    assert compiled.stats()["regions_coexecuted"] > CALLS // 2


def test_exact_products_are_eagers():
    compiled = terra.function(products, numerics="exact")
    for i in range(CALLS):
        inputs = operands(i)
        for actual, expected in zip(compiled(*inputs), products(*inputs), strict=True):
            assert torch.equal(actual, expected)
        compiled.wait_compiled()


@pytest.mark.parametrize("beta, alpha", [(1, 1), (0.5, 1), (1, 2), (0, 1)])
def test_scaled_products_and_odd_biases(beta, alpha):
    def scaled(x, weight, bias):
        full = bias.expand(160, 224).contiguous()
        return (
            torch.addmm(bias, x, weight.t(), beta=beta, alpha=alpha),
            torch.addmm(full, x, weight.t(), beta=beta, alpha=alpha),
            torch.addmm(bias[:1], x, weight.t(), beta=beta, alpha=alpha),
            x[:, ::2] @ weight.t()[::2],
        )

    compiled = terra.function(scaled)
    for i in range(CALLS):
        inputs = operands(i)
        exact = scaled(*(t.double() for t in inputs))
        for actual, expected in zip(compiled(*inputs), exact, strict=True):
            assert relative_error(actual, expected) < 1e-6
        compiled.wait_compiled()


def test_batches_of_products():
    def batches(x, y):
        scores = x @ y.transpose(1, 2)
        return scores, scores @ y, x.transpose(1, 2) @ y, x[:, :, ::2] @ y[:, :64], x[:1].expand_as(x) @ x.mT

    compiled = terra.function(batches)
    for i in range(CALLS):
        g = torch.Generator().manual_seed(i)
        inputs = torch.randn(6, 100, 128, generator=g), torch.randn(6, 100, 128, generator=g)
        exact = batches(*(t.double() for t in inputs))
        for actual, expected in zip(compiled(*inputs), exact, strict=True):
            assert relative_error(actual, expected) < 1e-6
        compiled.wait_compiled()


def test_training_with_large_layers():
    def losses(decorate):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(192, 256), torch.nn.GELU(), torch.nn.Linear(256, 192))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

        @decorate
        def step(x):
            optimizer.zero_grad()
            loss = (model(x) - x).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        g = torch.Generator().manual_seed(1)
        result = []
        for _ in range(CALLS):
            result.append(step(torch.randn(160, 192, generator=g)))
            if hasattr(step, "wait_compiled"):
                step.wait_compiled()
        return torch.stack(result)

    torch.testing.assert_close(losses(terra.function), losses(lambda f: f), rtol=1e-4, atol=1e-5)
