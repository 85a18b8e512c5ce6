"""Training steps as users write them: models, optimizers, schedules, regularisation."""

import copy

import pytest
import torch
import torch.nn.functional as F
from models import classes, cnn, images, mlp, tokens, transformer, vectors
from snapshot import Tolerance
from torch import nn
from util import check

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, eps=1e-3),
    "adamw_amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-2, eps=1e-3, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, eps=1e-3, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, eps=1e-3),
    "adam_foreach": lambda p: torch.optim.Adam(p, lr=1e-2, eps=1e-3, foreach=True),
    "adam_for_loop": lambda p: torch.optim.Adam(p, lr=1e-2, eps=1e-3, foreach=False),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=1e-2, eps=1e-3, fused=True),
    "sgd_fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adam_capturable": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-2), eps=1e-3, foreach=False),
    "two_groups": lambda p: (lambda q: torch.optim.AdamW(
        [{"params": q[:2], "lr": 1e-2}, {"params": q[2:], "lr": 1e-3, "weight_decay": 0.0}], eps=1e-3))(list(p)),
}  # fmt: skip


def training(model, data, make_optimizer, loss_of=F.cross_entropy, turns=7):
    """A program that trains `model()` on batches `data(i)`."""

    def program(t):
        net = model()
        optimizer = make_optimizer(net.parameters())
        t.watch(net=net, optimizer=optimizer)

        @t.function
        def step(x, y):
            optimizer.zero_grad()
            loss = loss_of(net(x), y)
            loss.backward()
            optimizer.step()
            return loss

        for i in t.loop(turns):
            t.out(step(*data(i)))

    return program


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_mlp_trains_with_every_optimizer(optimizer, numerics):
    check(training(mlp, lambda i: (vectors(i), classes(i)), OPTIMIZERS[optimizer]), numerics)


def test_cnn_with_batch_norm_and_dropout(numerics):
    check(training(cnn, lambda i: (images(i), classes(i)), OPTIMIZERS["sgd_momentum"]), numerics)


def test_transformer_classifier(numerics):
    check(training(transformer, lambda i: (tokens(i), classes(i)), OPTIMIZERS["adamw_amsgrad"]), numerics)


def test_float64_training(numerics):
    data = lambda i: (vectors(i).double(), classes(i))  # noqa: E731
    check(training(lambda: mlp().double(), data, OPTIMIZERS["adam"]), numerics)


def test_bfloat16_training(numerics):
    data = lambda i: (vectors(i).bfloat16(), classes(i))  # noqa: E731
    check(training(lambda: mlp().bfloat16(), data, OPTIMIZERS["sgd"]), numerics)


def test_autocast_training(numerics):
    def program(t):
        net = mlp()
        optimizer = OPTIMIZERS["sgd"](net.parameters())
        t.watch(net=net, optimizer=optimizer)

        @t.function
        def step(x, y):
            optimizer.zero_grad(set_to_none=False)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = net(x)
                loss = F.cross_entropy(out.float(), y)
            loss.backward()
            optimizer.step()
            return out, loss

        for i in t.loop(7):
            t.out(*step(vectors(i), classes(i)))

    # float32 results of a bfloat16 computation are as precise as that.
    check(program, numerics, tolerance=Tolerance.fast(2e-2, 1e-2))


def test_region_called_inside_and_outside_autocast(numerics):
    def program(t):
        net = t.function(mlp())
        for i in t.loop(8):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=i % 2 == 1):
                t.out(net(vectors(i)))

    check(program, numerics)


@pytest.mark.parametrize("schedule", ["step", "cosine", "lambda", "plateau"])
def test_learning_rate_schedules(schedule, numerics):
    def program(t):
        net = mlp()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, eps=1e-3)
        scheduler = {
            "step": lambda: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),
            "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10),
            "lambda": lambda: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 / (1 + n)),
            "plateau": lambda: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10),
        }[schedule]()
        t.watch(net=net, optimizer=optimizer)

        @t.function
        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            scheduler.step(*([loss] if schedule == "plateau" else []))
            return loss

        for i in t.loop(9):
            t.out(step(vectors(i), classes(i)))
            t.log(scheduler.get_last_lr())

    check(program, numerics)


def test_learning_rate_changed_by_hand(numerics):
    def program(t):
        net = mlp()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        t.watch(net=net, optimizer=optimizer)

        @t.function
        def step(x, y):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()

        for i in t.loop(9):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + i)
            step(vectors(i), classes(i))

    check(program, numerics)


def test_gradient_accumulation_over_micro_batches(numerics):
    def program(t):
        net = mlp()
        optimizer = OPTIMIZERS["adam"](net.parameters())
        t.watch(net=net, optimizer=optimizer)

        @t.function
        def step(i):
            (F.cross_entropy(net(vectors(i)), classes(i)) / 3).backward()
            if i % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()

        for i in t.loop(12):
            step(i)

    check(program, numerics)


@pytest.mark.parametrize("foreach", [None, False])
def test_clip_grad_norm_and_value(foreach, numerics):
    def program(t):
        net = mlp()
        optimizer = OPTIMIZERS["sgd"](net.parameters())
        t.watch(net=net, optimizer=optimizer)

        @t.function
        def step(x, y):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            norm = nn.utils.clip_grad_norm_(net.parameters(), 0.05, foreach=foreach)
            nn.utils.clip_grad_value_(net.parameters(), 0.01, foreach=foreach)
            optimizer.step()
            return norm

        for i in t.loop(6):
            t.out(step(vectors(i), classes(i)))

    check(program, numerics)


def test_weight_tying(numerics):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(11, 8)
            self.head = nn.Linear(8, 11, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(torch.tanh(self.embed(x)).mean(1))

    check(training(Tied, lambda i: (tokens(i), classes(i)), OPTIMIZERS["adam"]), numerics)


def test_gan_with_two_optimizers_and_item_logging(numerics):
    def program(t):
        generator = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.Tanh())
        critic = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(16, 1))
        g_opt = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.99), eps=1e-3)
        d_opt = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.99), eps=1e-3)
        t.watch(generator=generator, critic=critic, g_opt=g_opt, d_opt=d_opt)

        @t.function
        def step(real):
            fake = generator(torch.randn(real.shape[0], 4))
            d_opt.zero_grad()
            ones, zeros = torch.ones(real.shape[0], 1), torch.zeros(real.shape[0], 1)
            d_loss = F.binary_cross_entropy_with_logits(critic(real), ones)
            d_loss = d_loss + F.binary_cross_entropy_with_logits(critic(fake.detach()), zeros)
            d_loss.backward()
            d_opt.step()
            g_opt.zero_grad()
            g_loss = F.binary_cross_entropy_with_logits(critic(fake), ones)
            g_loss.backward()
            g_opt.step()
            t.log(d_loss.item(), g_loss.item())
            return fake

        for i in t.loop(8):
            t.out(step(vectors(i)))

    check(program, numerics)


def test_exponential_moving_average_of_a_model(numerics):
    def program(t):
        net = cnn()
        shadow = copy.deepcopy(net).eval().requires_grad_(False)
        optimizer = OPTIMIZERS["sgd"](net.parameters())
        t.watch(net=net, shadow=shadow, optimizer=optimizer)

        @t.function
        def step(x, y):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
            with torch.no_grad():
                for slow, fast in zip(shadow.parameters(), net.parameters(), strict=False):
                    slow.mul_(0.9).add_(fast, alpha=0.1)
                for slow, fast in zip(shadow.buffers(), net.buffers(), strict=False):
                    slow.copy_(fast)
                return shadow(x)

        for i in t.loop(6):
            t.out(step(images(i), classes(i)))

    check(program, numerics)


def test_swa_averaged_model(numerics):
    def program(t):
        net = mlp()
        average = torch.optim.swa_utils.AveragedModel(net)
        optimizer = OPTIMIZERS["sgd"](net.parameters())
        t.watch(net=net, average=average)

        @t.function
        def step(x, y):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
            average.update_parameters(net)

        for i in t.loop(6):
            step(vectors(i), classes(i))

    check(program, numerics)


def test_last_batch_is_smaller(numerics):
    def program(t):
        net = cnn()
        optimizer = OPTIMIZERS["sgd_momentum"](net.parameters())
        t.watch(net=net, optimizer=optimizer)

        @t.function
        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            return loss

        for i in t.loop(12):
            n = 3 if i % 4 == 3 else 6
            t.out(step(images(i)[:n], classes(i)[:n]))

    check(program, numerics)


def test_training_and_evaluation_alternate(numerics):
    def program(t):
        net = cnn()
        optimizer = OPTIMIZERS["sgd"](net.parameters())
        t.watch(net=net, optimizer=optimizer)

        @t.function
        def train(x, y):
            net.train()
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()

        @t.function
        def evaluate(x, y):
            net.eval()
            with torch.no_grad():
                return (net(x).argmax(1) == y).float().mean().item()

        for i in t.loop(6):
            train(images(i), classes(i))
            t.log(evaluate(images(i + 1), classes(i + 1)))

    check(program, numerics)


def test_whole_training_loop_is_one_region(numerics):
    def program(t):
        net = mlp()
        optimizer = OPTIMIZERS["adam"](net.parameters())
        t.watch(net=net, optimizer=optimizer)

        @t.function
        def train(epochs):
            for epoch in range(epochs):
                total = 0.0
                for i in range(4):
                    optimizer.zero_grad()
                    loss = F.cross_entropy(net(vectors(i)), classes(i))
                    loss.backward()
                    optimizer.step()
                    total += loss.item()
                print(f"epoch {epoch}: {total / 4:.3f}")

        for _ in t.loop(4):
            train(3)

    check(program, numerics)


def test_only_the_forward_is_a_region(numerics):
    def program(t):
        net = cnn()
        forward = t.function(net)
        optimizer = OPTIMIZERS["sgd"](net.parameters())
        t.watch(net=net, optimizer=optimizer)
        for i in t.loop(6):
            optimizer.zero_grad()
            loss = F.cross_entropy(forward(images(i)), classes(i))
            loss.backward()
            optimizer.step()
            t.out(loss)

    check(program, numerics)


def test_frozen_backbone_and_late_unfreezing(numerics):
    def program(t):
        net = mlp()
        net[0].requires_grad_(False)
        optimizer = OPTIMIZERS["adam"](net.parameters())
        t.watch(net=net, optimizer=optimizer)

        @t.function
        def step(x, y):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()

        for i in t.loop(9):
            if i == 4:
                net[0].requires_grad_(True)
            step(vectors(i), classes(i))

    check(program, numerics)


def test_rnn_with_hidden_state_carried_over_regions(numerics):
    def program(t):
        cell, head = nn.GRUCell(8, 12), nn.Linear(12, 5)
        optimizer = torch.optim.SGD([*cell.parameters(), *head.parameters()], lr=0.1)
        t.watch(cell=cell, head=head)

        @t.function
        def step(xs, hidden, y):
            optimizer.zero_grad()
            for x in xs:
                hidden = cell(x, hidden)
            loss = F.cross_entropy(head(hidden), y)
            loss.backward()
            optimizer.step()
            return hidden.detach(), loss

        hidden = torch.zeros(6, 12)
        for i in t.loop(6):
            hidden, loss = step([vectors(i + k) for k in range(3)], hidden, classes(i))
            t.out(hidden, loss)

    check(program, numerics)


def test_lstm_module(numerics):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.lstm, self.head = nn.Embedding(11, 8), nn.LSTM(8, 9, batch_first=True), nn.Linear(9, 5)

        def forward(self, x):
            return self.head(self.lstm(self.embed(x))[0][:, -1])

    check(training(Reader, lambda i: (tokens(i), classes(i)), OPTIMIZERS["sgd"]), numerics)


def test_hugging_face_style_model(numerics):
    transformers = pytest.importorskip("transformers")

    def program(t):
        config = transformers.BertConfig(
            vocab_size=11, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=16, num_labels=5,
        )  # fmt: skip
        net = transformers.BertForSequenceClassification(config)
        optimizer = OPTIMIZERS["adam"](net.parameters())
        t.watch(net=net, optimizer=optimizer)

        @t.function
        def step(x, y):
            optimizer.zero_grad()
            out = net(input_ids=x, labels=y)
            out.loss.backward()
            optimizer.step()
            return out.loss, out.logits

        for i in t.loop(5):
            t.out(*step(tokens(i), classes(i)))

    check(program, numerics)


def test_lbfgs_with_a_closure(numerics):
    def program(t):
        w = nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = torch.optim.LBFGS([w], lr=0.5, max_iter=3)
        t.watch(w=w, optimizer=optimizer)

        @t.function
        def step():
            def closure():
                optimizer.zero_grad()
                loss = ((w - torch.tensor([0.5, 0.25])) ** 2).sum() + w.sin().sum()
                loss.backward()
                return loss

            return optimizer.step(closure)

        for _ in t.loop(5):
            t.out(step())

    check(program, numerics, coexecutes=False)
