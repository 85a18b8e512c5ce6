"""Reads of values that are little work from what is there already: Python computes them itself and does not wait."""

import numpy as np
import pytest
import terra
import torch
from util import check

SIZE = 700


def busy(w):
    """Work for the graph that outlasts the way to the next region's first read."""
    for _ in range(3):
        w = w @ w / SIZE
    return w


def test_a_mask_that_came_with_the_batch_is_read_without_waiting():
    w = torch.randn(SIZE, SIZE)

    @terra.function(never_slower=False)
    def step(x, mask):
        if not (mask == 1).all():
            x = x * mask
        return busy(x)

    ones, some = torch.ones(SIZE, dtype=torch.long), torch.arange(SIZE) % 2
    for i in range(12):
        step(w, some if i % 3 == 2 else ones)
    before = step.stats()
    for i in range(12):
        mask = some if i % 3 == 2 else ones
        result = step(w, mask)
        torch.testing.assert_close(result, busy(w if mask is ones else w * mask))
    after = step.stats()
    assert after["regions_diverged"] == before["regions_diverged"]
    # Others find the graph idle: comparing has waited for it. These calls do not compare.
    for _ in range(12):
        step(w, ones)
    assert step.stats()["side_runs"] > before["side_runs"]


@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize("when", ["before", "between", "after", "numpy", "queued", "op"])
def test_writes_are_seen(when, numerics):
    """The mask changes at some place of the program, in each step."""

    def program(t):
        torch.manual_seed(0)
        w = torch.randn(SIZE, SIZE)
        mask = torch.ones(SIZE, dtype=torch.long)
        t.watch(mask=mask)

        @t.function
        def step(i):
            if when == "before":
                mask[i] = i % 2
            good = mask == 1
            if when == "between":
                mask[i] = i % 2
            if when == "numpy":
                mask.numpy()[i] = i % 2
            if when == "op":
                mask.data.mul_(1).add_(i % 2)
            yes = good.all()
            if yes:
                t.log("all")
            total = (mask * 2).sum().item()
            if when == "after":
                mask[i] = i % 2
            if when == "queued":
                mask.copy_((busy(w).sum().isfinite() * (i % 2)).long())
            return total, busy(w).sum() * 0 + total

        for i in t.loop(8):
            total, result = step(i)
            t.out(total, result)

    check(program, numerics)


def test_what_is_read_may_be_of_any_kind():
    w = torch.randn(SIZE, SIZE)
    feeds = dict(
        floats=torch.rand(7), halves=torch.rand(7).half(), ints=torch.arange(6).view(2, 3), bools=torch.rand(5) > 0.5,
        none=torch.zeros(0), scalar=torch.tensor(3.0), complex=torch.randn(3, dtype=torch.complex64),
    )  # fmt: skip

    def step(i):
        x = {name: tensor + i if tensor.dtype != torch.bool else tensor for name, tensor in feeds.items()}
        seen = [
            x["floats"].sum().item(), x["halves"].max().item(), x["ints"].t()[1:, 0].sum().item(),
            x["bools"].any().item(), x["none"].sum().item(), x["scalar"].item(), x["complex"].sum().item(),
            x["complex"].conj().sum().item(), bool(x["scalar"] > 4), int(x["ints"][1, 2]), float(x["floats"][::2][1]),
            x["floats"].argmax().item(), torch.arange(5).sum().item(), x["scalar"].neg().item(),
        ]  # fmt: skip
        with torch.no_grad():
            seen.append((x["floats"] * 2).sum().item())
        with torch.inference_mode():
            seen.append((feeds["floats"] * 2).sum().item())
        with torch.autocast("cpu", torch.bfloat16):
            seen.append((feeds["floats"][:4].view(2, 2) @ feeds["floats"][:4].view(2, 2)).sum().item())
        return seen, busy(w)

    compiled = terra.function(step, numerics="exact", never_slower=False)
    for i in range(10):
        assert compiled(i % 2)[0] == step(i % 2)[0]
    for _ in range(10):
        compiled(0)
    assert compiled.stats()["side_runs"] > 0


def test_modes_and_the_profiler_do_not_see_what_runs_beside():
    w = torch.randn(SIZE, SIZE)
    mask = torch.ones(SIZE)

    def step():
        if mask.mul(2).sum() > 0:
            return busy(w)
        return w

    compiled = terra.function(step, never_slower=False)

    def profiled(fn):
        with torch.profiler.profile() as profile:
            for _ in range(3):
                fn()
        return {e.key: e.count for e in profile.key_averages()}.get("aten::item")

    for _ in range(8):
        compiled()
    assert profiled(compiled) == profiled(step)


def test_gradients_flow_through_what_was_read_beside():
    def program(t):
        torch.manual_seed(0)
        model = torch.nn.Linear(8, 8)
        opt = torch.optim.SGD(model.parameters(), 0.1)
        w = torch.randn(SIZE, SIZE)
        t.watch(model=model, opt=opt)

        @t.function
        def step(x, scale):
            factor = scale * 2
            if factor.sum().item() > 3:
                x = x * factor
            loss = (model(x) * factor).square().mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
            return loss, scale.grad, busy(w).sum() * 0

        for i in t.loop(8):
            scale = torch.full((8,), 0.1 + 0.1 * (i % 3), requires_grad=True)
            t.out(*step(torch.ones(4, 8), scale))

    check(program, "exact")
    check(program, "fast")


def test_a_failing_value_beside_is_the_graphs_error():
    x = torch.ones(4)

    @terra.function(never_slower=False)
    def step(i):
        return x[i].item(), busy(torch.ones(SIZE, SIZE))

    for i in range(8):
        assert step(torch.tensor(i % 4))[0] == 1
    with pytest.raises(IndexError):
        step(torch.tensor(9))
    assert step(torch.tensor(1))[0] == 1
    assert np.isfinite(step(torch.tensor(2))[1].sum().item())
