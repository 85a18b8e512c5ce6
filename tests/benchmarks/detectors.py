"""Two detectors, as small as wanted, one with heads at two scales, one in two stages. See `programs.py`."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from harness import Program
from torch import Tensor, nn


def conv_norm(inputs: int, outputs: int, size: int, stride: int = 1, *activation: nn.Module) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), *activation)


class Yolo(nn.Module):
    """A small Darknet with heads at two scales."""

    def __init__(self, width: int = 8, classes: int = 4, anchors: int = 3):
        super().__init__()
        leaky = nn.LeakyReLU(0.1)
        self.outputs = 5 + classes
        sizes = [3, width, 2 * width, 4 * width, 8 * width]
        self.stem = conv_norm(3, width, 3, 2, leaky)
        self.down = nn.ModuleList(conv_norm(a, b, 3, 2, leaky) for a, b in zip(sizes[1:-1], sizes[2:], strict=True))
        self.squeeze = nn.ModuleList(conv_norm(b, b // 2, 1, 1, leaky) for b in sizes[2:])
        self.expand = nn.ModuleList(conv_norm(b // 2, b, 3, 1, leaky) for b in sizes[2:])
        self.lateral = conv_norm(8 * width, 4 * width, 1, 1, leaky)
        self.coarse = nn.Conv2d(8 * width, anchors * self.outputs, 1)
        self.fine = nn.Conv2d(8 * width, anchors * self.outputs, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, scales = self.stem(images), []
        for down, squeeze, expand in zip(self.down, self.squeeze, self.expand, strict=True):
            x = down(x)
            x = x + expand(squeeze(x))
            scales.append(x)
        coarse = self.coarse(x)
        upsampled = F.interpolate(self.lateral(x), scale_factor=2)
        fine = self.fine(torch.cat([upsampled, scales[-2]], dim=1))
        return [head.unflatten(1, (-1, self.outputs)).movedim(2, -1) for head in (coarse, fine)]


def yolo(width: int = 8, side: int = 64, images: int = 2) -> Program:
    """Boxes come as Python numbers; their cells are found in Python, as many as the image happens to have."""
    model = Yolo(width)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def targets_of(head: Tensor, boxes: list[list[tuple]]) -> tuple[Tensor, Tensor]:
        wanted, here = torch.zeros(head.shape), torch.zeros(head.shape[:-1])
        for image, found in enumerate(boxes):
            for x, y, w, h, kind in found:
                row, column = int(y * head.shape[2]), int(x * head.shape[3])
                wanted[image, kind % 3, row, column, :5] = torch.tensor([x, y, w, h, 1.0])
                wanted[image, kind % 3, row, column, 5 + kind] = 1.0
                here[image, kind % 3, row, column] = 1.0
        return wanted, here

    def step(pictures, boxes):
        optimizer.zero_grad()
        loss = torch.zeros(())
        for head in model(pictures):
            wanted, here = targets_of(head, boxes)
            place = (head[..., :2].sigmoid() - wanted[..., :2]).square().sum(-1)
            size = (head[..., 2:4].exp() - wanted[..., 2:4]).square().sum(-1)
            found = F.binary_cross_entropy_with_logits(head[..., 4], wanted[..., 4])
            kind = F.binary_cross_entropy_with_logits(head[..., 5:], wanted[..., 5:], reduction="none").sum(-1)
            loss = loss + ((place + size + kind) * here).sum() / here.sum() + found
        loss.backward()
        optimizer.step()
        return loss.detach()

    drawn = random.Random(0)

    def box():
        centre = [drawn.uniform(0.05, 0.95) for _ in range(2)]
        return (*centre, drawn.uniform(0.1, 0.5), drawn.uniform(0.1, 0.5), drawn.randrange(4))

    def batch():
        return torch.randn(images, 3, side, side), [[box() for _ in range(2)] for _ in range(images)]

    batches = [batch() for _ in range(4)]
    return Program(step, batches, [model])


class TwoStage(nn.Module):
    """Faster R-CNN in small: a backbone, a region proposal net, a head on the pooled regions."""

    def __init__(self, width: int = 16, classes: int = 4):
        super().__init__()
        self.backbone = nn.Sequential(
            conv_norm(3, width, 3, 2, nn.ReLU()),
            conv_norm(width, width, 3, 2, nn.ReLU()),
            conv_norm(width, width, 3, 2, nn.ReLU()),
        )
        self.proposal = nn.Conv2d(width, width, 3, padding=1)
        self.objectness, self.offsets = nn.Conv2d(width, 1, 1), nn.Conv2d(width, 4, 1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(width * 9, 4 * width), nn.ReLU())
        self.classify, self.refine = nn.Linear(4 * width, classes + 1), nn.Linear(4 * width, 4)

    def propose(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and boxes (x0, y0, x1, y1 in 0 … 1) of one image, one for each cell."""
        hidden = F.relu(self.proposal(features))
        side = features.shape[-1]
        centre = (torch.arange(side) + 0.5) / side
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        offsets = self.offsets(hidden)[0].flatten(1).T
        middle = torch.stack([x.flatten(), y.flatten()], 1) + 0.1 * offsets[:, :2]
        half = 0.2 * offsets[:, 2:].clamp(-2, 2).exp() / 2
        return self.objectness(hidden).flatten(), torch.cat([middle - half, middle + half], 1).clamp(0, 1)

    def regions(self, features: Tensor, boxes: Tensor) -> Tensor:
        steps = torch.linspace(0, 1, 3)
        x = boxes[:, 0:1] + (boxes[:, 2:3] - boxes[:, 0:1]) * steps
        y = boxes[:, 1:2] + (boxes[:, 3:4] - boxes[:, 1:2]) * steps
        grid = torch.stack([x[:, None].expand(-1, 3, -1), y[:, :, None].expand(-1, -1, 3)], -1) * 2 - 1
        return F.grid_sample(features.expand(len(boxes), -1, -1, -1), grid, align_corners=False)


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    area = lambda boxes: (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])  # noqa: E731
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    return common / (area(a)[:, None] + area(b)[None] - common + 1e-6)


def keep_apart(boxes: Tensor, limit: float = 0.7, most: int = 8) -> list[int]:
    """Non-maximum suppression on the values, in plain Python."""
    table, kept = overlaps(boxes, boxes).tolist(), []
    for i in range(len(table)):
        if len(kept) < most and all(table[i][j] <= limit for j in kept):
            kept.append(i)
    return kept


def faster_rcnn(width: int = 16, side: int = 64, first_regions: int = 16, regions: int = 8) -> Program:
    """Reads proposals as Python numbers in mid-step, and goes on with as many as survive."""
    model = TwoStage(width)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step(image, truth, kinds):
        optimizer.zero_grad()
        features = model.backbone(image)
        scores, boxes = model.propose(features)
        best = overlaps(boxes.detach(), truth).max(dim=1)
        objectness = F.binary_cross_entropy_with_logits(scores, (best.values > 0.2).float())
        first = scores.detach().topk(first_regions).indices
        chosen = first[keep_apart(boxes.detach()[first], most=regions)]
        hidden = model.head(model.regions(features, boxes.detach()[chosen]))
        overlap, match = best.values[chosen], best.indices[chosen]
        wanted = torch.where(overlap > 0.2, kinds[match] + 1, torch.zeros_like(match))
        places = F.smooth_l1_loss(model.refine(hidden), truth[match] - boxes.detach()[chosen])
        loss = objectness + F.cross_entropy(model.classify(hidden), wanted) + places
        loss.backward()
        optimizer.step()
        return loss.detach()

    def truth():
        low = torch.rand(3, 2) * 0.6
        return torch.cat([low, low + 0.2 + 0.2 * torch.rand(3, 2)], 1)

    batches = [(torch.randn(1, 3, side, side), truth(), torch.randint(4, (3,))) for _ in range(4)]
    # What lies between is Python on values: torch.compile gets the parts that are modules of their own.
    parts = [model.backbone, model.head]
    return Program(step, batches, parts)
