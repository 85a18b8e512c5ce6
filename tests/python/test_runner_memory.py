"""Large results of the graph come from kept blocks: values, lifetimes and what is held."""

import gc
import threading

import pytest
import terra
import torch
import torch.nn.functional as F

SIZE = (512, 1024)  # 2 MiB: a block


@pytest.mark.parametrize("numerics", ["fast", "exact"])
def test_results_keep_their_values_while_blocks_are_used_again(numerics):
    weight = torch.randn(1024, 1024) / 32

    def step(x):
        y = F.relu(x @ weight) * 2
        return y, y.softmax(dim=1)

    compiled = terra.function(step, numerics=numerics)
    kept = []
    for i in range(12):
        x = torch.randn(SIZE, generator=torch.Generator().manual_seed(i))
        kept.append((x, compiled(x)))
        if i % 3 == 2:
            del kept[0]
    for x, results in kept:
        for actual, expected in zip(results, step(x), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_results_outlive_the_function_and_grow():
    def step(x):
        return (x + 1).exp()

    compiled = terra.function(step)
    for _ in range(6):
        result = compiled(torch.zeros(SIZE))
    del compiled
    gc.collect()
    torch.testing.assert_close(result, torch.full(SIZE, torch.e))
    result.resize_(1024, 1024)
    torch.testing.assert_close(result[:512], torch.full(SIZE, torch.e))
    result.share_memory_()
    torch.testing.assert_close(result[:512], torch.full(SIZE, torch.e))


def test_results_are_freed_by_any_thread():
    compiled = terra.function(lambda x: x * 3)
    results = [compiled(torch.ones(SIZE)) for _ in range(8)]
    terra.synchronize()
    thread = threading.Thread(target=results.clear)
    thread.start()
    thread.join()
    torch.testing.assert_close(compiled(torch.ones(SIZE)), torch.full(SIZE, 3.0))
