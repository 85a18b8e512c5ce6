"""Programs whose sizes change from step to step: lengths of a transformer, images of a CNN with a smaller last batch.

Nothing is warmed up: all variants take the same steps from the first one on, in turns, and the table shows how each
fares against eager as sizes become known. "CPU": processor time of the whole process beyond eager's steps, compilers
included.
"""

from __future__ import annotations

import random
import statistics
import time

import harness
import torch
import torch.nn.functional as F
from rich import box
from rich.table import Table
from torch import Tensor, nn

WIDTH, HEADS, WORDS, BATCH = 128, 4, 500, 4


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(self.before(x)).view(b, t, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5).masked_fill(hidden, -torch.inf).softmax(-1)
        x = x + F.dropout(self.out((weights @ v).transpose(1, 2).reshape(b, t, WIDTH)), 0.1)
        return x + F.dropout(self.down(F.gelu(self.up(self.between(x)))), 0.1)


class Transformer(nn.Module):
    def __init__(self, longest: int):
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(longest, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        t = ids.shape[1]
        hidden = torch.ones(t, t, dtype=torch.bool).triu(1)
        x = self.words(ids) + self.places(torch.arange(t))
        for block in self.blocks:
            x = block(x, hidden)
        return self.head(self.norm(x))


def lengths(different: int) -> harness.Program:
    drawn = random.Random(0).sample(range(8, 8 + max(200, different)), different)
    model = Transformer(max(drawn))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(ids: Tensor, targets: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        return loss.detach()

    texts = [torch.randint(WORDS, (2, BATCH, length)) for length in drawn]
    return harness.Program(step, [tuple(text) for text in texts], [model])


def images(different: int) -> harness.Program:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(pixels: Tensor, targets: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(pixels), targets)
        loss.backward()
        optimizer.step()
        return loss.detach()

    sizes = [(4, 24 + 2 * i, 24 + 2 * (i * 7 % different)) for i in range(different)]
    sizes[-1] = (3, *sizes[-1][1:])  # the last batch of an epoch
    return harness.Program(step, [(torch.randn(n, 3, h, w), torch.randint(10, (n,))) for n, h, w in sizes], [model])


VARIANTS = {
    "eager": harness.eager,
    "terra": harness.under_terra,
    "compile": harness.compiled_model,
    "compile, dynamic": lambda name, program: harness.compiled_model(name, program, dynamic=True),
}


def measure(title: str, make, arguments) -> dict:
    names = [name for name in VARIANTS if arguments.torch_compile or not name.startswith("compile")]
    variants = []
    for name in names:
        torch.manual_seed(0)
        torch._dynamo.reset()
        variants.append(VARIANTS[name](name, make()))
    generator = random.Random(1)
    phases = [[{"seconds": 0.0, "cpu": 0.0} for _ in variants] for _ in range(arguments.phases)]
    for phase in phases:
        for _ in range(arguments.steps):
            batch = generator.randrange(len(variants[0].program.batches))
            for variant, sums in zip(variants, phase, strict=True):
                cpu, started = harness.cpu_seconds(), time.perf_counter()
                variant.step(*variant.program.batches[batch])
                variant.finish()
                sums["seconds"] += time.perf_counter() - started
                sums["cpu"] += harness.cpu_seconds() - cpu
    return report(title, variants, phases, arguments.steps)


def report(title: str, variants, phases, steps: int) -> dict:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("variant")
    for i in range(len(phases)):
        table.add_column(f"steps {i * steps + 1}–{(i + 1) * steps}", justify="right", no_wrap=True)
    for heading in ("CPU", "recorded", "co-executed", "eager", "sizes", "compiled"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = []
    for v, variant in enumerate(variants):
        ratios = [phase[0]["seconds"] / phase[v]["seconds"] for phase in phases]
        times = [phase[v]["seconds"] / steps for phase in phases]
        cpu = sum(phase[v]["cpu"] - phase[0]["cpu"] for phase in phases)
        stats = variant.stats()
        counts = [str(stats.get(key, "")) for key in
                  ("regions_recorded", "regions_coexecuted", "regions_eager", "sizes", "kernels_compiled")]  # fmt: skip
        cells = [f"{harness.show_time(t)} {r:.2f}" for t, r in zip(times, ratios, strict=True)]
        table.add_row(variant.name, *cells, f"{cpu:.1f} s" if v else "", *counts)
        rows.append({"program": title, "variant": variant.name, "median": statistics.median(times), "times": times,
                     "ratios": ratios, "cpu_beyond_eager": cpu, "counted": stats})  # fmt: skip
    harness.console.print(table)
    return {"title": title, "rows": rows}


def benchmark(arguments) -> list[dict]:
    results = []
    for different in arguments.different:
        results.append(measure(f"transformer, {different} lengths", lambda: lengths(different), arguments))  # noqa: B023
    results.append(measure(f"CNN, {arguments.images} sizes", lambda: images(arguments.images), arguments))
    return results


if __name__ == "__main__":
    parser = harness.parser(__doc__)
    parser.add_argument("--different", type=int, nargs="*", default=[5, 20, 100, 400], help="numbers of lengths")
    parser.add_argument("--images", type=int, default=12, help="number of sizes of images")
    parser.add_argument("--steps", type=int, default=100, help="in each phase")
    parser.add_argument("--phases", type=int, default=5)
    raise SystemExit(harness.main(parser, benchmark))
