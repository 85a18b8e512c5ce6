"""Rewrites that the compiler could make and does not: what they would bring.

Convolution nets as they are written and in channels_last throughout, eagerly and under Terra, which chooses for each
convolution by itself how to compute it. Three products of one input (Q, K, V of attention), forward and backward, and
the one that they could be joined to: with weights that lie together already, and with weights that are put together in
each step, as those of three parameters would have to be. A layer's activation in the product (oneDNN's post-ops) and in
a pass of its own.
"""

from __future__ import annotations

import detectors
import harness
import programs
import torch
from harness import Program, Variant

NETS = {
    "ResNet-50, 4 images of 32×32": (lambda: programs.ResNet(64, (3, 4, 6, 3)), 32, 4),
    "YOLO-like, width 32, 4 images of 256×256": (lambda: detectors.Yolo(32), 256, 4),
    "ResNet, width 8, 4 images of 16×16": (programs.ResNet, 16, 4),
}
LAYERS = [(64, 64, 256), (512, 384, 1536), (2048, 768, 3072)]  # rows, width of the input, of the result
PRODUCTS = [(64, 64), (512, 384), (2048, 768)]  # rows of the input, width


def net(make, side: int, images: int, layout: torch.memory_format) -> Program:
    model = make().to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    batches = [(torch.randn(images, 3, side, side).to(memory_format=layout),) for _ in range(2)]

    def step(pictures):
        optimizer.zero_grad()
        outputs = model(pictures)
        heads = outputs if isinstance(outputs, list) else [outputs]
        loss = sum(head.square().mean() for head in heads)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Program(step, batches, [model])


def layouts(name: str, arguments) -> dict:
    def variants(layout):
        return harness.build(lambda: net(*NETS[name], layout), ["eager", "terra"])

    last = variants(torch.channels_last)
    for variant in last:
        variant.name += ", channels_last"
    timed = [*variants(torch.contiguous_format), *last]
    title = f"{name}, {torch.get_num_threads()} thread(s)"
    return harness.report(title, harness.interleave(timed, arguments.seconds))


def products(rows: int, width: int, arguments) -> dict:
    x = torch.randn(rows, width)
    weights = [torch.randn(width, width) for _ in range(3)]
    gradients = [torch.randn(rows, width) for _ in range(3)]
    joined, joined_gradient = torch.cat(weights), torch.cat(gradients, dim=1)

    def apart():
        results = [x @ w.t() for w in weights]
        of_weights = [g.t() @ x for g in gradients]
        of_x = gradients[0] @ weights[0]
        for g, w in zip(gradients[1:], weights[1:], strict=True):
            of_x = torch.addmm(of_x, g, w)
        return results, of_weights, of_x

    def together(w=joined):
        return x @ w.t(), joined_gradient.t() @ x, joined_gradient @ w

    def copied():
        results, of_weights, of_x = together(torch.cat(weights))
        return results, [part.clone() for part in of_weights.split(width)], of_x

    steps = {"eager": apart, "joined": together, "joined, weights copied": copied}
    timed = [Variant(name, Program(step), step) for name, step in steps.items()]
    title = f"Q, K, V: {rows}×{width} by three of {width}×{width}, {torch.get_num_threads()} thread(s)"
    return harness.report(title, harness.interleave(timed, arguments.seconds))


def activations(rows: int, width: int, wide: int, arguments) -> dict:
    x, weight, bias = torch.randn(rows, width), torch.randn(wide, width), torch.randn(wide)
    linear = torch.ops.mkldnn._linear_pointwise
    steps = {
        "eager": lambda: linear(x, weight, bias, "none", [], "").relu_(),
        "post-op": lambda: linear(x, weight, bias, "relu", [], ""),
    }
    timed = [Variant(name, Program(step), step) for name, step in steps.items()]
    title = f"linear and ReLU: {rows}×{width} to {wide}, {torch.get_num_threads()} thread(s)"
    return harness.report(title, harness.interleave(timed, arguments.seconds))


def benchmark(arguments) -> list[dict]:
    return [
        *(layouts(name, arguments) for name in NETS),
        *(products(*sizes, arguments) for sizes in PRODUCTS),
        *(activations(*sizes, arguments) for sizes in LAYERS),
    ]


if __name__ == "__main__":
    raise SystemExit(harness.main(harness.parser(__doc__, seconds=4), benchmark))
