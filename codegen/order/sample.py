"""Writes sample.terra.json, what FunctionOrder.cpp compiles: a training step with the usual kinds of kernels."""

from pathlib import Path

import terra
import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.inner, self.layer_norm = nn.Linear(64, 16), nn.LayerNorm(16)
        self.query, self.out = nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2).flatten(1)
        h = self.layer_norm(F.gelu(self.inner(F.dropout(x, 0.1))))
        attention = torch.softmax(self.query(h) @ h.t() / 4, -1) @ h
        wave = (h.sin() * h.abs().pow(1.5) + h.exp().log1p().clamp(max=2)).double().mean(0).float()
        half = (h.bfloat16() + h.bfloat16().cumsum(1)).float().where(h > 0, h.argmax(1, keepdim=True) * 2)
        return self.out(torch.tanh(h + attention + wave) * torch.sigmoid(half))


if __name__ == "__main__":
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), foreach=False)

    @terra.function
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    for _ in range(3):
        for _ in range(6):
            step(torch.randn(8, 1, 8, 8), torch.randint(0, 10, (8,)))
        step.wait_compiled()
    terra.dump(step, str(Path(__file__).with_name("sample.terra.json")))
