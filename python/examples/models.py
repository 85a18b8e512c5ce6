"""Three small training programs on scikit-learn's digits (8x8 grey images). Nothing here knows about Terra.

Each class holds its model and optimizer; `step` is one training step, `accuracy` a number between 0 and 1, and `state`
everything that training changes, for comparing two runs bit by bit.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification


@dataclass(frozen=True)
class Digits:
    """Images of shape [n, 1, 8, 8] in -1 ... 1, and their labels 0 ... 9."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def batches(self, epoch: int, size: int = 32):
        """The training set in an order that depends on the epoch only."""
        order = torch.randperm(len(self.train_labels), generator=torch.Generator().manual_seed(epoch))
        for chosen in order.split(size):
            if len(chosen) == size:
                yield self.train_images[chosen], self.train_labels[chosen]


@cache
def digits() -> Digits:
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:360], order[360:]
    return Digits(images[train], labels[train], images[test], labels[test])


class Training:
    """What the three have in common."""

    def modules(self) -> list[nn.Module]:
        return [value for value in vars(self).values() if isinstance(value, nn.Module)]

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [value for value in vars(self).values() if isinstance(value, torch.optim.Optimizer)]

    def end_epoch(self) -> None:
        pass

    def state(self) -> dict[str, Tensor]:
        """Parameters, buffers, gradients and optimizer state, by name."""
        found = {}
        for m, module in enumerate(self.modules()):
            found |= {f"{m}.{name}": value for name, value in module.state_dict().items()}
            found |= {f"{m}.{name}.grad": p.grad for name, p in module.named_parameters() if p.grad is not None}
        for o, optimizer in enumerate(self.optimizers()):
            for p, values in optimizer.state_dict()["state"].items():
                found |= {f"optimizer{o}.{p}.{key}": v for key, v in values.items() if torch.is_tensor(v)}
        return {name: value.detach().clone() for name, value in found.items()}

    def load_from(self, other: Training) -> None:
        """Continue where `other` stands."""
        for mine, theirs in zip(self.modules(), other.modules(), strict=True):
            mine.load_state_dict(theirs.state_dict())
        for mine, theirs in zip(self.optimizers(), other.optimizers(), strict=True):
            mine.load_state_dict(deepcopy(theirs.state_dict()))


class Cnn(Training):
    """A convolution net with batch norm and dropout; SGD with momentum and a falling learning rate."""

    def __init__(self, width: int = 16):
        def block(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

        self.model = nn.Sequential(
            *block(1, width),
            *block(width, width),
            nn.MaxPool2d(2),
            *block(width, 2 * width),
            *block(2 * width, 2 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(2 * width, 10),
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, gamma=0.8)

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(images), labels)
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def end_epoch(self) -> None:
        self.scheduler.step()

    def accuracy(self) -> float:
        return accuracy_of(self.model, lambda images: self.model(images))


class Transformer(Training):
    """A vision transformer from the `transformers` library, built from a configuration; AdamW and gradient clipping."""

    def __init__(self, width: int = 64, layers: int = 2):
        config = ViTConfig(
            image_size=8, patch_size=2, num_channels=1, num_labels=10,
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=2 * width,
            hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        self.model = ViTForImageClassification(config).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        loss = self.model(pixel_values=images, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=1.0)
        self.optimizer.step()
        return {"loss": loss.detach()}

    def accuracy(self) -> float:
        return accuracy_of(self.model, lambda images: self.model(pixel_values=images).logits)


class Generator(nn.Module):
    """Noise and a digit -> an image of that digit."""

    def __init__(self, width: int, latent: int):
        super().__init__()
        self.digit = nn.Embedding(10, latent)
        self.layers = nn.Sequential(
            nn.Linear(2 * latent, 2 * width * 4, bias=False),
            nn.Unflatten(1, (2 * width, 2, 2)),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.layers(torch.cat([noise, self.digit(labels)], dim=1))


class Discriminator(nn.Module):
    """An image and a digit -> how much it looks like a real image of that digit."""

    def __init__(self, width: int):
        super().__init__()
        self.digit = nn.Embedding(10, 64)
        self.layers = nn.Sequential(
            nn.Conv2d(2, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * width * 4, 1),
        )

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.layers(torch.cat([images, self.digit(labels).view(-1, 1, 8, 8)], dim=1))


class Gan(Training):
    """Draws digits to order: two networks, two optimizers, and losses logged with `.item()` in every step.

    Its accuracy is how many of its drawings a classifier trained on the real digits takes for what was ordered.
    """

    latent = 32

    def __init__(self, width: int = 32):
        self.generator = Generator(width, self.latent)
        self.discriminator = Discriminator(width)
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
        self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=1e-3, betas=(0.5, 0.999))

    def step(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        real, fake = torch.ones(len(labels), 1), torch.zeros(len(labels), 1)
        drawn = self.draw(labels)

        self.discriminator_optimizer.zero_grad()
        discriminator_loss = F.binary_cross_entropy_with_logits(self.discriminator(images, labels), real)
        discriminator_loss += F.binary_cross_entropy_with_logits(self.discriminator(drawn.detach(), labels), fake)
        discriminator_loss.backward()
        self.discriminator_optimizer.step()

        self.generator_optimizer.zero_grad()
        generator_loss = F.binary_cross_entropy_with_logits(self.discriminator(drawn, labels), real)
        generator_loss.backward()
        self.generator_optimizer.step()
        return {"discriminator": discriminator_loss.item(), "generator": generator_loss.item()}

    def draw(self, labels: Tensor) -> Tensor:
        return self.generator(torch.randn(len(labels), self.latent), labels)

    def drawings(self, labels: Tensor) -> Tensor:
        """The same drawings whenever asked, leaving the random numbers of training alone."""
        self.generator.eval()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(1)
            drawn = self.draw(labels)
        self.generator.train()
        return drawn

    def accuracy(self) -> float:
        labels = torch.arange(500) % 10
        return float(classifier().score(self.drawings(labels).flatten(1).numpy(), labels.numpy()))


PROGRAMS = {"cnn": Cnn, "transformer": Transformer, "gan": Gan}


def accuracy_of(model: nn.Module, logits) -> float:
    model.eval()
    with torch.no_grad():
        right = logits(digits().test_images).argmax(dim=1) == digits().test_labels
    model.train()
    return right.float().mean().item()


@cache
def classifier() -> LogisticRegression:
    data = digits()
    return LogisticRegression(max_iter=200).fit(data.train_images.flatten(1).numpy(), data.train_labels.numpy())
