"""Ten training programs like those of the Terra paper, cut down to at most 10 ms a step eagerly on one thread.

Each is written the way its original is: objects mutated while training, Python branches, losses of several heads. The
sizes are small; what matters is the mix of ops and of Python.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import detectors
import harness
import peak
import torch
import torch.nn.functional as F
from detectors import conv_norm
from harness import Program
from torch import Tensor, nn


def training(model: nn.Module, optimizer: torch.optim.Optimizer, loss_of, batches: list[tuple]) -> Program:
    def step(*batch):
        optimizer.zero_grad()
        loss = loss_of(model, *batch)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Program(step, batches, [model])


# --- language models -------------------------------------------------------------------------------------------------

TINY_BERT = dict(
    vocab_size=200, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
    max_position_embeddings=32,
)  # fmt: skip


def bert_classification(sizes: dict = TINY_BERT, batch: int = 4, length: int = 16) -> Program:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(**sizes, num_labels=4)
    model = BertForSequenceClassification(config).train()
    mask = torch.ones(batch, length, dtype=torch.long)
    shape, words = (batch, length), config.vocab_size
    batches = [(torch.randint(words, shape), mask, torch.randint(4, (batch,))) for _ in range(4)]
    return training(model, torch.optim.AdamW(model.parameters()), _bert_classification_loss, batches)


def _bert_classification_loss(model, ids, mask, labels):
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss


def bert_question_answering(sizes: dict = TINY_BERT, batch: int = 4, length: int = 16) -> Program:
    from transformers import BertConfig, BertForQuestionAnswering

    config = BertConfig(**sizes)
    model = BertForQuestionAnswering(config).train()
    shape, words = (batch, length), config.vocab_size
    spans = lambda: torch.randint(length, (batch,))  # noqa: E731
    batches = [(torch.randint(words, shape), spans(), spans()) for _ in range(4)]
    return training(model, torch.optim.AdamW(model.parameters()), _bert_answer_loss, batches)


def _bert_answer_loss(model, ids, starts, ends):
    return model(input_ids=ids, start_positions=starts, end_positions=ends).loss


TINY_GPT2 = dict(vocab_size=200, n_positions=32, n_embd=64, n_layer=2, n_head=2)


def gpt2(sizes: dict = TINY_GPT2, batch: int = 4, length: int = 16) -> Program:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(**sizes, use_cache=False, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config).train()
    batches = [(torch.randint(config.vocab_size, (batch, length)),) for _ in range(4)]
    loss = lambda model, ids: model(input_ids=ids, labels=ids).loss  # noqa: E731
    return training(model, torch.optim.AdamW(model.parameters()), loss, batches)


class RelativeAttention(nn.Module):
    """Attention with learned relative positions, by the skewing of the music transformer."""

    def __init__(self, width: int, heads: int, length: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.relative = nn.Parameter(torch.randn(length, width // heads) * 0.02)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, n, w = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        skewed = F.pad(q @ self.relative[:n].T, (1, 0)).reshape(b, self.heads, n + 1, n)[:, :, 1:]
        scores = (q @ k.transpose(-1, -2) + skewed) / (w // self.heads) ** 0.5
        attention = scores.masked_fill(mask, float("-inf")).softmax(dim=-1)
        return self.out((attention @ v).transpose(1, 2).reshape(b, n, w))


class MusicLayer(nn.Module):
    def __init__(self, width: int, heads: int, length: int):
        super().__init__()
        self.attention = RelativeAttention(width, heads, length)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm1(x + F.dropout(self.attention(x, mask), 0.1, self.training))
        return self.norm2(x + F.dropout(self.feed(x), 0.1, self.training))


class MusicTransformer(nn.Module):
    """Keeps a history of its losses in a Python list, as the original keeps its metrics."""

    def __init__(self, events: int = 128, width: int = 64, layers: int = 2, heads: int = 2, length: int = 32):
        super().__init__()
        self.embedding, self.head = nn.Embedding(events, width), nn.Linear(width, events)
        self.layers = nn.ModuleList(MusicLayer(width, heads, length) for _ in range(layers))
        self.history: list[Tensor] = []

    def forward(self, notes: Tensor) -> Tensor:
        n = notes.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool).triu(1)
        x = self.embedding(notes) * self.embedding.embedding_dim**0.5
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(x)


def music_transformer(batch: int = 2, length: int = 32, **sizes) -> Program:
    model = MusicTransformer(length=length, **sizes)

    def loss_of(model, notes):
        logits = model(notes[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), notes[:, 1:].flatten(), label_smoothing=0.1)
        model.history = [*model.history[-9:], loss.detach()]
        return loss

    events = model.embedding.num_embeddings
    batches = [(torch.randint(events, (batch, length + 1)),) for _ in range(4)]
    return training(model, torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98)), loss_of, batches)


# --- convolution nets ------------------------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.layers = nn.Sequential(
            conv_norm(inputs, width, 1, 1, nn.ReLU()),
            conv_norm(width, width, 3, stride, nn.ReLU()),
            conv_norm(width, 4 * width, 1),
        )
        same = stride == 1 and inputs == 4 * width
        self.shortcut = nn.Identity() if same else conv_norm(inputs, 4 * width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Bottleneck blocks in four stages. `between` is called with (stage, features) after each stage."""

    def __init__(self, width: int = 8, blocks: tuple[int, ...] = (1, 2, 2, 1), between: nn.Module | None = None):
        super().__init__()
        self.stem = conv_norm(3, width, 3, 1, nn.ReLU())
        self.stages, self.between = nn.ModuleList(), between
        channels = width
        for stage, count in enumerate(blocks):
            layers = []
            for block in range(count):
                layers.append(Bottleneck(channels, width << stage, 2 if stage and not block else 1))
                channels = 4 * width << stage
            self.stages.append(nn.Sequential(*layers))
        self.head = nn.Linear(channels, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for stage, layers in enumerate(self.stages):
            x = layers(x)
            if self.between is not None:
                x = self.between(stage, x)
        return self.head(x.mean(dim=(2, 3)))


def image_classifier(model: nn.Module, size: int = 16, batch: int = 4, before_step=lambda model: None) -> Program:
    def loss_of(model, images, labels):
        before_step(model)
        return F.cross_entropy(model(images), labels)

    batches = [(torch.randn(batch, 3, size, size), torch.randint(10, (batch,))) for _ in range(4)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    return training(model, optimizer, loss_of, batches)


def resnet() -> Program:
    return image_classifier(ResNet())


class DropBlock(nn.Module):
    """Drops whole blocks of features, with a probability that a schedule raises by mutating this object."""

    def __init__(self, size: int = 3, steps: int = 5000):
        super().__init__()
        self.size, self.step, self.steps, self.probability = size, 0, steps, 0.0

    def advance(self) -> None:
        self.step += 1
        self.probability = 0.1 * min(1.0, self.step / self.steps)

    def forward(self, stage: int, x: Tensor) -> Tensor:
        if not self.training or stage < 2:
            return x
        gamma = self.probability / self.size**2
        seeds = (torch.rand(x.shape[0], *x.shape[2:]) < gamma).float()
        dropped = F.max_pool2d(seeds[:, None], self.size, stride=1, padding=self.size // 2)
        keep = 1 - dropped
        return x * keep * (keep.numel() / keep.sum())


def dropblock() -> Program:
    model = ResNet(blocks=(1, 1, 1, 1), between=DropBlock())
    return image_classifier(model, before_step=lambda model: model.between.advance())


class StochasticDownsampling(nn.Module):
    """Chooses anew, in every step, after which stage to shrink the features and by how much (SDPoint)."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.random, self.point, self.ratio = random.Random(seed), None, 1.0

    def choose(self) -> None:
        self.point, self.ratio = self.random.choice([None, 0, 1, 2]), self.random.choice([0.5, 0.75])

    def forward(self, stage: int, x: Tensor) -> Tensor:
        if stage != self.point:
            return x
        return F.adaptive_avg_pool2d(x, [max(1, round(side * self.ratio)) for side in x.shape[2:]])


def sdpoint() -> Program:
    model = ResNet(blocks=(1, 1, 1, 1), between=StochasticDownsampling())
    return image_classifier(model, before_step=lambda model: model.between.choose())


def dcgan(width: int = 8, latent: int = 32, batch: int = 4) -> Program:
    """Two networks, two optimizers, three backward passes a step, as in PyTorch's example."""
    generator = nn.Sequential(
        nn.ConvTranspose2d(latent, 4 * width, 4, bias=False), nn.BatchNorm2d(4 * width), nn.ReLU(),
        nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    discriminator = nn.Sequential(
        nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 4 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(4 * width), nn.LeakyReLU(0.2),
        nn.Conv2d(4 * width, 1, 4), nn.Flatten(0), nn.Sigmoid(),
    )  # fmt: skip
    judge_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    draw_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))

    def step(images):
        real, fake = torch.ones(len(images)), torch.zeros(len(images))
        discriminator.zero_grad()
        F.binary_cross_entropy(discriminator(images), real).backward()
        drawn = generator(torch.randn(len(images), latent, 1, 1))
        F.binary_cross_entropy(discriminator(drawn.detach()), fake).backward()
        judge_optimizer.step()
        generator.zero_grad()
        loss = F.binary_cross_entropy(discriminator(drawn), real)
        loss.backward()
        draw_optimizer.step()
        return loss.detach()

    return Program(step, [(torch.randn(batch, 3, 32, 32),) for _ in range(4)], [generator, discriminator])


PROGRAMS = {
    "GPT-2": gpt2,
    "BERT classification": bert_classification,
    "BERT question answering": bert_question_answering,
    "music transformer": music_transformer,
    "ResNet": resnet,
    "DCGAN": dcgan,
    "DropBlock": dropblock,
    "SDPoint": sdpoint,
    "YOLO-like": detectors.yolo,
    "Faster R-CNN-like": detectors.faster_rcnn,
}


def main(description: str, programs: dict[str, Callable[[], Program]], seconds: float) -> int:
    """The whole of a benchmark that compares the usual variants of some programs."""
    peak.serve_peak_memory(lambda name: programs[name]())
    parser = harness.parser(description, seconds=seconds)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="programs whose name has one of these words")
    parser.add_argument("--memory", action="store_true", help="peak memory too")

    def benchmark(arguments) -> list[dict]:
        words = [word.lower() for word in arguments.only or [""]]
        chosen = {name: make for name, make in programs.items() if any(word in name.lower() for word in words)}
        threads = torch.get_num_threads()
        results = [harness.compare(f"{name}, {threads} thread(s)", make, arguments) for name, make in chosen.items()]
        harness.summary(results)
        if arguments.memory:
            results.append(peak.report(chosen, harness.chosen_variants(arguments, [])))
        return results

    return harness.main(parser, benchmark)
