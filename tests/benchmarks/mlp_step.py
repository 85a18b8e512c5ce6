"""The MLP of the design page: what one training step costs when the host is the limit.

8 × [Linear, LayerNorm, GELU], batch 4. Besides the step: the Python thread's time a step, and a region that only
records (its ratio to eager is the cost of recording).
"""

from __future__ import annotations

import harness
import torch
from torch import nn

OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=1e-3),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
}


def mlp(width: int, optimizer: str, batch: int = 4, depth: int = 8) -> harness.Program:
    blocks = ([nn.Linear(width, width), nn.LayerNorm(width), nn.GELU()] for _ in range(depth))
    model = nn.Sequential(*(layer for block in blocks for layer in block))
    optim = OPTIMIZERS[optimizer](model.parameters())
    batches = [(torch.randn(batch, width), torch.randn(batch, width)) for _ in range(4)]

    def step(inputs, targets):
        optim.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        optim.step()
        return loss.detach()

    return harness.Program(step, batches, [model])


def benchmark(arguments) -> list[dict]:
    results = []
    for width in arguments.widths:
        for optimizer in arguments.optimizers:
            title = f"MLP, width {width}, {optimizer}, {torch.get_num_threads()} thread(s)"
            make = lambda: mlp(width, optimizer)  # noqa: E731, B023
            results.append(harness.compare(title, make, arguments, extra=["record"]))
    harness.summary(results)
    return results


if __name__ == "__main__":
    parser = harness.parser(__doc__, threads=(1, 2), seconds=4)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--optimizers", nargs="+", choices=list(OPTIMIZERS), default=list(OPTIMIZERS))
    raise SystemExit(harness.main(parser, benchmark))
