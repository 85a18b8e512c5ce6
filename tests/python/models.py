"""Small models and data for the tests. Data is a function of the turn, and real memory made outside any region."""

import torch
from torch import nn


def _generator(i):
    return torch.Generator().manual_seed(1000 + i)


def vectors(i, n=6, features=8):
    return torch.randn(n, features, generator=_generator(i))


def images(i, n=6):
    return torch.randn(n, 1, 8, 8, generator=_generator(i))


def tokens(i, n=6, length=7):
    return torch.randint(0, 11, (n, length), generator=_generator(i))


def classes(i, n=6):
    return torch.randint(0, 5, (n,), generator=_generator(i + 500))


def mlp():
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 5))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Dropout(0.25), nn.Flatten(), nn.Linear(64, 5),
    )  # fmt: skip


class transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.position = nn.Parameter(torch.randn(7, 16) * 0.1)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x) + self.position).mean(1))


def stepping(body, turns=8):
    """A program that calls `body(x, i)` as a region with x = vectors(i), and keeps its results."""

    def program(t):
        step = t.function(body)
        for i in t.loop(turns):
            t.out(step(vectors(i), i))

    return program
