"""Softmax as attention computes it: rows that are masked altogether are zero."""

import pytest
import terra
import torch
import torch.nn.functional as F


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dim", [-1, 0])
def test_safe_softmax_equals_eager(dtype, dim):
    x = torch.randn(6, 33, 9).to(dtype)
    x[2, :, :] = x[:, 4, :] = x[:, :, 5] = float("-inf")
    x[1, 7, 3] = float("nan")

    def step():
        return torch._safe_softmax(x * 2, dim) + 1

    function = terra.function(step)
    for _ in range(6):
        function()
        function.wait_compiled()
    assert function.stats()["regions_coexecuted"]
    tolerance = 1e-2 if dtype is torch.bfloat16 else 1e-6
    torch.testing.assert_close(function(), step(), rtol=tolerance, atol=tolerance, equal_nan=True)


def test_attention_with_a_mask_and_its_gradients_equal_eager():
    q, k, v = (torch.randn(2, 3, 10, 8, requires_grad=True) for _ in range(3))
    mask = torch.rand(2, 1, 10, 10) < 0.5
    mask[0, 0, 3] = False  # no key at all
    gradient = torch.randn(2, 3, 10, 8)

    def step():
        torch.manual_seed(1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=0.2)
        return out.detach(), *torch.autograd.grad(out, (q, k, v), gradient)

    function = terra.function(step)
    for _ in range(6):
        results = function()
        function.wait_compiled()
    for result, expected in zip(results, step(), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
