"""Single fused groups: what the compiler makes of one chain, one normalisation, one optimizer.

"bytes" only moves as many bytes as the group must at least (each large tensor read or written once), in memory that is
already there, by a copy or, for what works in place, by a negation: about what is possible where memory is the limit.
Fresh results cost page faults with malloc's defaults; `--malloc keep` shows the groups without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import harness
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Group:
    make: Callable[[], harness.Program]
    least_bytes: int  # 0: memory is not the limit
    in_place: bool = False


def with_gradients(function, inputs: list[torch.Tensor], shape: tuple[int, ...]) -> harness.Program:
    """Forward and backward for a given gradient of the result."""
    for tensor in inputs:
        tensor.requires_grad_()
    gradient = torch.randn(shape)

    def step():
        return torch.autograd.grad(function(*inputs), inputs, gradient)

    return harness.Program(step)


def bias_gelu(approximate: str) -> harness.Program:
    x, bias = torch.randn(4096, 3072), torch.randn(3072)
    return harness.Program(lambda: F.gelu(x + bias, approximate=approximate))


def layer_norm() -> harness.Program:
    inputs = [torch.randn(4096, 768), torch.randn(768), torch.randn(768)]
    return with_gradients(lambda x, w, b: F.layer_norm(x, (768,), w, b), inputs, (4096, 768))


def masked_softmax() -> harness.Program:
    x, mask = torch.randn(4096, 1024), torch.rand(4096, 1024) < 0.3
    return harness.Program(lambda: x.masked_fill(mask, float("-inf")).softmax(dim=-1))


def adamw(**options) -> harness.Program:
    parameters = [torch.nn.Parameter(torch.randn(1000, 1000)) for _ in range(10)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.AdamW(parameters, **options)

    def step():
        optimizer.step()

    return harness.Program(step)


def cross_entropy() -> harness.Program:
    logits, targets = torch.randn(2048, 32000, requires_grad=True), torch.randint(32000, (2048,))
    return harness.Program(lambda: torch.autograd.grad(F.cross_entropy(logits, targets), logits))


def batch_norm_relu() -> harness.Program:
    inputs = [torch.randn(32, 64, 56, 56), torch.randn(64), torch.randn(64)]
    mean, var = torch.zeros(64), torch.ones(64)

    def function(x, weight, bias):
        return F.batch_norm(x, mean, var, weight, bias, training=True).relu()

    return with_gradients(function, inputs, (32, 64, 56, 56))


def chain() -> harness.Program:
    x, y = torch.randn(64, 64), torch.randn(64, 64)

    def step():
        z = x
        for _ in range(5):
            z = torch.tanh(z * y + 0.5) - z
        return z

    return harness.Program(step)


MILLION = 10**6
GROUPS = {
    "bias + GELU (erf) 4096×3072": Group(lambda: bias_gelu("none"), 2 * 4 * 4096 * 3072),
    "bias + GELU (tanh) 4096×3072": Group(lambda: bias_gelu("tanh"), 2 * 4 * 4096 * 3072),
    "layer norm 4096×768, forward and backward": Group(layer_norm, 5 * 4 * 4096 * 768),
    "masked softmax 4096×1024": Group(masked_softmax, 9 * 4096 * 1024),
    "AdamW, 10M parameters, as by default": Group(adamw, 7 * 4 * 10 * MILLION, in_place=True),
    "AdamW, 10M parameters, fused=True": Group(lambda: adamw(fused=True), 7 * 4 * 10 * MILLION, in_place=True),
    "cross entropy 2048×32000, forward and backward": Group(cross_entropy, 3 * 4 * 2048 * 32000),
    "batch norm + ReLU 32×64×56×56, forward and backward": Group(batch_norm_relu, 5 * 4 * 32 * 64 * 56 * 56),
    "chain of 20 ops on 64×64": Group(chain, 0),
}


def moving_bytes(group: Group) -> tuple[harness.Variant, ...]:
    if not group.least_bytes:
        return ()
    source = torch.ones(group.least_bytes // 8)
    if group.in_place:
        return (harness.eager("bytes", harness.Program(source.neg_)),)
    target = torch.zeros_like(source)
    return (harness.eager("bytes", harness.Program(lambda: target.copy_(source))),)


def benchmark(arguments) -> list[dict]:
    results = []
    for name, group in GROUPS.items():
        if arguments.only and not any(word.lower() in name.lower() for word in arguments.only):
            continue
        title = f"{name}, {torch.get_num_threads()} thread(s), malloc: {arguments.malloc}"
        result = harness.compare(title, group.make, arguments, beside=moving_bytes(group))
        medians = {row["variant"]: row["median"] for row in result["rows"]}
        if "bytes" in medians and "terra" in medians:
            print(f"Terra takes {medians['terra'] / medians['bytes']:.2f} times as long as moving the bytes\n")
        results.append(result)
    harness.summary(results)
    return results


if __name__ == "__main__":
    parser = harness.parser(__doc__, seconds=3)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="groups whose name has one of these words")
    raise SystemExit(harness.main(parser, benchmark))
