"""What a steady step costs the Python thread, in counts: they do not depend on the machine."""

import pytest
import terra
import torch
from torch import nn

LAYERS = 4


def make(optimizer_of):
    torch.manual_seed(3)
    layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU())]
    model = nn.Sequential(*layers)
    optimizer = optimizer_of(model.parameters())
    x, y = torch.randn(4, 8), torch.randn(4, 8)

    def step():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    step.optimizer = optimizer
    return model, step


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam_foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr_decay=0.01),
    "adagrad_fused": lambda p: torch.optim.Adagrad(p, fused=True),
    "adagrad_foreach": lambda p: torch.optim.Adagrad(p, lr_decay=0.01, foreach=True),
    "adamax": lambda p: torch.optim.Adamax(p),
    "sgd_fused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "sgd_tensor_lr": lambda p: torch.optim.SGD(p, lr=torch.tensor(0.05)),
    "adam_fused": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, fused=True),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adamw_maximize": lambda p: torch.optim.AdamW(p, lr=1e-4, maximize=True),
    "adamw_tensor_lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01)),
    "nadam": lambda p: torch.optim.NAdam(p, weight_decay=0.1, decoupled_weight_decay=True),
    "nadam_foreach": lambda p: torch.optim.NAdam(p, foreach=True),
    "nadam_tensor_lr": lambda p: torch.optim.NAdam(p, lr=torch.tensor(0.01)),
    "radam": lambda p: torch.optim.RAdam(p, weight_decay=0.1),
    "radam_foreach": lambda p: torch.optim.RAdam(p, foreach=True),
    "rprop": lambda p: torch.optim.Rprop(p),
    "rprop_foreach": lambda p: torch.optim.Rprop(p, foreach=True),
    "asgd": lambda p: torch.optim.ASGD(p, weight_decay=0.1),
    "asgd_averaging": lambda p: torch.optim.ASGD(p, t0=3),
    "asgd_foreach": lambda p: torch.optim.ASGD(p, t0=3, foreach=True),
    "asgd_tensor_lr": lambda p: torch.optim.ASGD(p, lr=torch.tensor(0.01), t0=3, alpha=0.6),
    "asgd_tensor_lr_foreach": lambda p: torch.optim.ASGD(p, lr=torch.tensor(0.01), t0=3, foreach=True),
    "asgd_double_lr": lambda p: torch.optim.ASGD(p, lr=torch.tensor(0.01, dtype=torch.float64), lambd=0.1),
    "asgd_double_lr_foreach": lambda p: torch.optim.ASGD(
        p, lr=torch.tensor(0.01, dtype=torch.float64), lambd=0.1, foreach=True
    ),
    "muon": lambda p: torch.optim.Muon([q for q in p if q.dim() == 2]),
    "muon_matched": lambda p: torch.optim.Muon([q for q in p if q.dim() == 2], adjust_lr_fn="match_rms_adamw"),
    "adafactor": lambda p: torch.optim.Adafactor(p),
    "adafactor_foreach": lambda p: torch.optim.Adafactor(p, lr=0.5, weight_decay=0.1, foreach=True),
    "adafactor_tensor_lr": lambda p: torch.optim.Adafactor(p, lr=torch.tensor(0.2), weight_decay=0.1, maximize=True),
    "groups": lambda p: torch.optim.AdamW([{"params": q, "lr": 0.001 * k} for k, q in enumerate(p)]),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_steady_step_is_a_handful_of_spans(name):
    """One span a module, for the loss, the backward and the optimizer; nothing is matched one by one."""
    model, step = make(OPTIMIZERS[name])
    reference, eager = make(OPTIMIZERS[name])
    fn = terra.function(step, numerics="exact")
    for _ in range(30):
        assert torch.equal(eager(), fn())
    before = fn.stats()
    steps = 10
    for _ in range(steps):
        assert torch.equal(eager(), fn())
    after = fn.stats()
    keys = ("regions_coexecuted", "spans", "span_events", "events")
    counts = {key: (after[key] - before[key]) / steps for key in keys}
    assert counts["regions_coexecuted"] == 1, (counts, fn._session.divergences())
    assert counts["spans"] == 3 * LAYERS + 3, counts
    assert counts["span_events"] == counts["events"], counts
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p.grad, q.grad)
        actual, expected = step.optimizer.state.get(p, {}), eager.optimizer.state.get(q, {})
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(actual[key], value), key
                assert actual[key]._version == value._version, key


class Attention(nn.Module):
    """Most of its calls make views, or results that are views of what nobody sees."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).split(8, dim=2)
        q, k, v = (a.view(2, 3, 2, 4).transpose(1, 2) for a in (q, k, v))
        a = (q @ k.mT).softmax(-1) @ v
        return self.out(a.transpose(1, 2).reshape(2, 3, 8))[:, -1].flatten()


def test_views_are_spans():
    """No call of an attention is matched below autograd, and its backward is one event."""

    def run(wrap):
        torch.manual_seed(7)
        model = Attention()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(2, 3, 8)

        @wrap
        def step():
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step, model

    (eager, reference), (step, model) = run(lambda f: f), run(lambda f: terra.function(f, numerics="exact"))
    for i in range(30):
        if i == 20:
            before = step.stats()
        assert torch.equal(eager(), step())
    after = step.stats()
    counts = {key: (after[key] - before[key]) / 10 for key in ("spans", "span_events", "events")}
    assert counts["span_events"] == counts["events"], counts
    # linear, split; three times view and transpose; mT, matmul, softmax, matmul; transpose, reshape, linear, select,
    # flatten; square, mean, backward, optimizer, detach
    assert counts["spans"] == 2 + 6 + 4 + 5 + 5, counts
    assert torch.equal(model.qkv.weight, reference.qkv.weight)


class Residual(nn.Module):
    """As image models are written: activations and sums in place, and an average that follows without grad mode."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        h = nn.functional.relu(self.first(x), inplace=True)
        h = self.second(h)
        h += x
        with torch.no_grad():
            self.mean.mul_(0.9).add_(h.mean(0), alpha=0.1)
            self.mean[2:4] = 0.5
        return h.relu_()


def test_writes_are_spans():
    """Each write is one event, and so is the backward of what was written."""

    def run(wrap):
        torch.manual_seed(7)
        model = Residual()
        x = torch.randn(3, 8)

        @wrap
        def step():
            model.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss.detach()

        return step, model

    (eager, reference), (step, model) = run(lambda f: f), run(lambda f: terra.function(f, numerics="exact"))
    for i in range(30):
        if i == 20:
            before = step.stats()
        assert torch.equal(eager(), step())
    after = step.stats()
    counts = {key: (after[key] - before[key]) / 10 for key in ("spans", "span_events", "events")}
    assert counts["span_events"] == counts["events"], counts
    # linear, relu_, linear, add_, relu_; mul_, mean, add_, slice, fill_; square, mean, backward, detach
    assert counts["spans"] == 5 + 5 + 4, counts
    assert torch.equal(model.first.weight.grad, reference.first.weight.grad)
    assert torch.equal(model.mean, reference.mean)
    assert model.mean._version == reference.mean._version


SCHEDULED = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "adam_fused": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    "adamw_tensor_lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.1)),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "radam_foreach": lambda p: torch.optim.RAdam(p, lr=0.1, foreach=True),
    "asgd_tensor_lr": lambda p: torch.optim.ASGD(p, lr=torch.tensor(0.1)),
    "asgd_tensor_lr_foreach": lambda p: torch.optim.ASGD(p, lr=torch.tensor(0.1), foreach=True),
    "muon": lambda p: torch.optim.Muon([q for q in p if q.dim() == 2], lr=0.1),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1, weight_decay=0.1),
    "adafactor_foreach": lambda p: torch.optim.Adafactor(p, lr=0.1, foreach=True),
}


@pytest.mark.parametrize("name", SCHEDULED)
def test_a_schedule_does_not_leave_the_span(name):
    """The learning rate is fed: it may change at every step."""

    def run(wrap):
        torch.manual_seed(5)
        model = nn.Linear(4, 4)
        optimizer = SCHEDULED[name](model.parameters())
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        x = torch.randn(3, 4)

        @wrap
        def step():
            optimizer.zero_grad()
            loss = model(x).square().sum()
            loss.backward()
            optimizer.step()
            schedule.step()
            return loss

        return step, model

    eager, reference = run(lambda f: f)
    step, model = run(lambda f: terra.function(f, numerics="exact"))
    for i in range(40):
        assert torch.equal(eager(), step())
        if i == 30:
            before = step.stats()
    after = step.stats()
    assert after["regions_coexecuted"] - before["regions_coexecuted"] == 9
    assert after["span_events"] - before["span_events"] == after["events"] - before["events"]
    assert torch.equal(model.weight, reference.weight)


def test_numbers_of_the_state_are_true_in_between():
    """Step counts, NAdam's product, ASGD's averages are written at once, and believed when the program changes them."""

    def run(wrap, make):
        torch.manual_seed(8)
        model = nn.Linear(4, 4)
        optimizer = make(model.parameters())
        x = torch.randn(3, 4)
        seen = []

        @wrap
        def step():
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()

        for i in range(30):
            step()
            for state in optimizer.state.values():
                seen.append([float(v) for v in state.values() if v.dim() == 0])
                if i == 20:
                    state["step"].fill_(3.0)
        return seen, [p.detach().clone() for p in model.parameters()]

    for make in (
        torch.optim.NAdam,
        lambda p: torch.optim.ASGD(p, t0=5),
        lambda p: torch.optim.ASGD(p, t0=5, foreach=True),
        lambda p: torch.optim.ASGD(p, lr=torch.tensor(0.02), t0=5),
        lambda p: torch.optim.AdamW(p, fused=True),
    ):
        expected = run(lambda f: f, make)
        actual = run(lambda f: terra.function(f, numerics="exact"), make)
        assert expected[0] == actual[0]
        assert all(map(torch.equal, expected[1], actual[1]))


def test_numbers_are_updated_beside_a_span():
    """Parameters without dimensions whose gradients are real numbers are updated at once, and not forgotten."""

    def run(wrap):
        torch.manual_seed(6)
        model, scale = nn.Linear(4, 4), nn.Parameter(torch.tensor(2.0))
        optimizer = torch.optim.SGD([*model.parameters(), scale], lr=0.1, momentum=0.5)
        x = torch.randn(3, 4)

        @wrap
        def step():
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            penalty = (scale * scale + scale).sin()
            penalty.backward()
            optimizer.step()
            return loss, penalty, scale.detach().clone()

        return step, optimizer

    (eager, _), (step, _) = run(lambda f: f), run(lambda f: terra.function(f, numerics="exact"))
    for _ in range(25):
        for expected, actual in zip(eager(), step(), strict=True):
            assert torch.equal(expected, actual)


SCALED = {
    "times": lambda loss, i: loss * (1.0 + i),
    "divided": lambda loss, i: loss / (2 + i % 3),
    "twice": lambda loss, i: (loss * (0.5 + i)).sin() * max(0.5 + i, 3.5 - i),
    "negative": lambda loss, i: (1.0 + 0.25 * i) - loss * -0.5 * i,
}


@pytest.mark.parametrize("name", SCALED)
def test_a_backward_takes_scalars_that_vary(name):
    """What the loss is multiplied by reaches the backward; two numbers that were equal at first are not confused."""

    def run(wrap):
        torch.manual_seed(9)
        model = nn.Linear(4, 4)
        x = torch.randn(3, 4)

        @wrap
        def step(i):
            model.zero_grad()
            loss = SCALED[name](model(x).square().mean(), i)
            loss.backward()
            return loss

        return step, model

    (eager, reference), (step, model) = run(lambda f: f), run(lambda f: terra.function(f, numerics="exact"))
    for i in range(40):
        if i == 30:
            before = step.stats()
        assert torch.equal(eager(i), step(i))
        assert torch.equal(model.weight.grad, reference.weight.grad)
    after = step.stats()
    assert after["regions_coexecuted"] - before["regions_coexecuted"] == 10, step._session.divergences()
    assert after["span_events"] - before["span_events"] == after["events"] - before["events"]


def test_gradients_are_accumulated_with_varying_scalars():
    """A loss is divided by a number of parts that varies, and the gradient may be given."""

    def run(wrap):
        torch.manual_seed(10)
        model = nn.Linear(4, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(3, 4)

        @wrap
        def step(n, seed):
            optimizer.zero_grad()
            for _ in range(2):
                (model(x).square().mean() / n).backward()
            model(x).backward(gradient=seed)
            optimizer.step()
            return model.weight.detach().clone()

        return step

    eager, step = run(lambda f: f), run(lambda f: terra.function(f, numerics="exact"))
    for i in range(50):
        if i == 40:
            before = step.stats()
        seed = torch.full((3, 4), 0.01 * i)
        assert torch.equal(eager(2.0 + i % 4, seed), step(2.0 + i % 4, seed))
    after = step.stats()
    assert after["regions_coexecuted"] - before["regions_coexecuted"] == 10


def gradients_returned(model, x):
    loss = model(x).square().mean()
    for p, g in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
        p.grad = g
    return loss


def gradients_of_the_input(model, x):
    x = x.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(model(x).square().mean(), x)
    return g


def two_roots(model, x):
    h = model[0](x)
    torch.autograd.backward([h.square().mean(), model[1](h).mean()])
    return h


def some_inputs(model, x):
    loss = model(x).square().mean()
    loss.backward(inputs=[model[1].weight, model[0].bias])
    return loss


def two_roots_with_gradients(model, x):
    h = model[0](x)
    torch.autograd.backward([h, model[1](h).mean()], [x, None], inputs=[model[0].weight])
    return h


# Spans of a step, and how often PyTorch makes a gradient of ones: below autograd, one event each.
GRADIENTS = {
    gradients_returned: (2 + 2 + 1, 1),
    gradients_of_the_input: (2 + 2 + 2 + 1, 1),
    two_roots: (1 + 2 + 2 + 1, 2),
    some_inputs: (2 + 2 + 1, 1),
    two_roots_with_gradients: (1 + 2 + 1, 1),
}


@pytest.mark.parametrize("body", GRADIENTS, ids=lambda body: body.__name__)
def test_gradients_are_one_span(body):
    """Whatever the engine is asked for: gradients that are returned, of some inputs, from several roots."""

    def run(wrap):
        torch.manual_seed(11)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        x = torch.randn(3, 4)

        @wrap
        def step():
            model.zero_grad()
            return body(model, x).detach()

        return step, model

    (eager, reference), (step, model) = run(lambda f: f), run(lambda f: terra.function(f, numerics="exact"))
    for i in range(30):
        if i == 20:
            before = step.stats()
        assert torch.equal(eager(), step())
        for p, q in zip(model.parameters(), reference.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None)
            assert p.grad is None or torch.equal(p.grad, q.grad)
    after = step.stats()
    counts = {key: (after[key] - before[key]) / 10 for key in ("regions_coexecuted", "spans", "span_events", "events")}
    spans, ones = GRADIENTS[body]
    assert counts["regions_coexecuted"] == 1, counts
    assert counts["spans"] == spans + 1, counts  # and the detach
    assert counts["span_events"] == counts["events"] - ones, counts
