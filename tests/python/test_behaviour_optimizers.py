"""Optimizers whose options, state, parameters or gradients change while they run, in every way that programs do it.

A disturbance changes something before a step, between backward and update, in place of the update, or after it.
"""

import contextlib
import copy
import functools
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from conftest import CONFORMANCE
from models import classes, vectors
from snapshot import Tolerance
from torch import nn
from torch.optim import lr_scheduler as schedulers
from util import check

MAKERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2, eps=1e-3),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-2, eps=1e-3, weight_decay=1e-2, amsgrad=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, eps=1e-3, lr_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, eps=1e-3, momentum=0.5, centered=True),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=1e-2, eps=1e-3),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=1e-2, eps=1e-3, decoupled_weight_decay=True, weight_decay=1e-2),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=1e-2, eps=1e-3),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.5, eps=1e-3),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=1e-2),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.1, t0=3, lambd=1e-2),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2),
    "Muon": lambda p: torch.optim.Muon([q for q in p if q.dim() == 2], lr=1e-2),
    "foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, eps=1e-3, foreach=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=1e-2, eps=1e-3, fused=True),
}
DISTURBANCES = {}


def when(phase):
    def register(fn):
        DISTURBANCES[fn.__name__] = (phase, fn)
        return fn

    return register


class Training:
    """A model, its optimizer, and what a disturbance keeps."""

    def __init__(self, make):
        self.net = nn.Sequential(nn.Linear(8, 12), nn.LayerNorm(12), nn.GELU(), nn.Linear(12, 5))
        self.late = nn.Linear(5, 5)
        self.optimizer = make(self.net.parameters())
        self.kept = {}
        self.i = 0

    def backward(self):
        """A loss and its gradients, as the body of a closure too."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.late(self.net(vectors(self.i))), classes(self.i))
        loss.backward()
        return loss

    def groups(self, **options):
        """Sets those options that the optimizer has."""
        for group in self.optimizer.param_groups:
            group.update({name: value for name, value in options.items() if name in group})


# Before a step, outside of the region


@when("before")
def learning_rate_decays(o):
    o.groups(lr=0.1 / (1 + o.i))


@when("before")
def options_change(o):
    if o.i == 4:
        o.groups(momentum=0.5, betas=(0.8, 0.95), alpha=0.8, weight_decay=0.05, eps=1e-2, rho=0.8, lambd=1e-3)


@when("before")
def options_become_zero_and_come_back(o):
    if o.i in (3, 6):
        o.groups(weight_decay=0.0 if o.i == 3 else 0.1, momentum=0.0 if o.i == 3 else 0.9)


@when("before")
def learning_rate_zero_for_two_turns(o):
    o.groups(lr=0.0 if o.i in (4, 5) else 0.02)


@when("before")
def learning_rate_becomes_a_tensor(o):
    if o.i == 4:
        o.groups(lr=torch.tensor(0.01))


@when("before")
def ascent_for_two_turns(o):
    o.groups(maximize=o.i in (4, 5))


@when("before")
def implementation_changes(o):
    o.groups(foreach=o.i // 3 % 2 == 1)


@when("before")
def state_saved_and_loaded(o):
    if o.i == 3:
        o.kept["state"] = copy.deepcopy(o.optimizer.state_dict())
    if o.i == 6:
        o.optimizer.load_state_dict(o.kept["state"])


@when("before")
def state_loaded_into_a_new_optimizer(o):
    if o.i == 5:
        state, kind = o.optimizer.state_dict(), type(o.optimizer)
        o.optimizer = kind(o.optimizer.param_groups[0]["params"], lr=0.5)
        o.optimizer.load_state_dict(state)


@when("before")
def group_added(o):
    if o.i == 4:
        o.optimizer.add_param_group({"params": [o.late.weight], "lr": 0.05})


@when("before")
def parameter_leaves_its_group(o):
    if o.i == 4:
        params = o.optimizer.param_groups[0]["params"]
        o.optimizer.state.pop(params[1], None)
        o.optimizer.param_groups[0]["params"] = params[:1] + params[2:]


@when("before")
def parameter_object_replaced(o):
    if o.i == 4:
        o.net[3].weight = nn.Parameter(o.net[3].weight.detach() * 0.5)


@when("before")
def data_of_parameters_replaced(o):
    if o.i in (3, 5):
        for p in o.net.parameters():
            p.data = p.data * 0.9


@when("before")
def parameters_written_in_place(o):
    if o.i % 3 == 2:
        with torch.no_grad():
            o.net[0].weight.copy_(torch.full_like(o.net[0].weight, 0.1 * o.i))
            nn.init.zeros_(o.net[3].bias)


@when("before")
def parameters_made_views_of_one_buffer(o):
    if o.i == 4:
        flat = nn.utils.parameters_to_vector(o.net.parameters())
        nn.utils.vector_to_parameters(flat.detach().clone(), o.net.parameters())


@when("before")
def model_state_loaded(o):
    if o.i == 2:
        o.kept["model"] = copy.deepcopy(o.net.state_dict())
    if o.i in (5, 6):
        o.net.load_state_dict(o.kept["model"], assign=False)


@when("before")
def state_written_by_hand(o):
    if o.i in (4, 6):
        for state in o.optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and value.dim():
                    state[name] = value * 0.5 if o.i == 4 else value.mul_(0.5)


@when("before")
def state_cleared(o):
    if o.i == 4:
        o.optimizer.state.clear()


@when("before")
def frozen_for_some_turns(o):
    if o.i in (3, 6):
        o.net[0].requires_grad_(o.i == 6)
        o.net[0].weight.grad = None


@when("before")
def pickled_and_read_back(o):
    if o.i == 4:
        o.net, o.late, o.optimizer = pickle.loads(pickle.dumps((o.net, o.late, o.optimizer)))


@when("before")
def copied_in_mid_run(o):
    if o.i == 4:
        o.kept["old"] = [p.detach().clone() for p in o.net.parameters()]
        o.net, o.late, o.optimizer = copy.deepcopy((o.net, o.late, o.optimizer))


# Between backward and update


@when("inside")
def gradients_set_by_hand(o):
    o.net[0].bias.grad = torch.full_like(o.net[0].bias, 0.1 + o.i)
    o.net[3].weight.grad.mul_(0.5)


@when("inside")
def gradients_missing_now_and_then(o):
    if o.i % 3 == 2:
        o.net[0].weight.grad = o.net[1].bias.grad = None
    if o.i == 7:
        for p in o.net.parameters():
            p.grad = None


@when("inside")
def gradients_with_other_strides(o):
    o.net[0].weight.grad = o.net[0].weight.grad.t().contiguous().t()


@when("inside")
def gradients_share_memory(o):
    o.net[1].bias.grad = o.net[1].weight.grad


@when("inside")
def state_looked_at(o):
    states = [list(state.values()) for state in o.optimizer.state.values()]
    o.kept["sum"] = sum(float(v.sum()) for state in states for v in state if isinstance(v, torch.Tensor))


@when("inside")
def noise_added_to_gradients(o):
    for p in o.net.parameters():
        p.grad.add_(torch.randn_like(p.grad), alpha=0.01)


# In place of the update


@when("update")
def closure(o):
    o.kept["loss"] = o.optimizer.step(o.backward)


@when("update")
def twice(o):
    o.optimizer.step()
    o.optimizer.step()


@when("update")
def skipped_now_and_then(o):
    if o.i % 3 != 2:
        o.optimizer.step()


@when("update")
def only_when_gradients_are_finite(o):
    if o.i == 5:
        o.net[3].bias.grad[0] = float("nan")
    if all(bool(p.grad.isfinite().all()) for p in o.net.parameters()):
        o.optimizer.step()


@when("update")
def hooks_around(o):
    before = o.optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: o.groups(lr=0.01 * (1 + o.i)))
    after = o.optimizer.register_step_post_hook(lambda *_: o.kept.update(step=o.i))
    o.optimizer.step()
    before.remove()
    after.remove()


@when("update")
def hook_that_raises(o):
    def fail(*_):
        if o.i in (1, 4, 6):
            raise ArithmeticError(f"turn {o.i}")

    handle = o.optimizer.register_step_pre_hook(fail)
    try:
        o.optimizer.step()
    finally:
        handle.remove()


@when("update")
def step_wrapped_on_the_instance(o):
    if "wrapped" not in o.kept:
        inner = o.optimizer.step
        o.kept["wrapped"] = 0

        @functools.wraps(inner)
        def step(*args):
            o.kept["wrapped"] += 1
            return inner(*args)

        o.optimizer.step = step
    o.optimizer.step()


@when("update")
def in_inference_mode(o):
    with torch.inference_mode(o.i in (4, 5)):
        o.optimizer.step()


@when("update")
def on_another_thread(o):
    thread = threading.Thread(target=o.optimizer.step)
    thread.start()
    thread.join()


@when("update")
def while_a_graph_is_alive(o):
    loss = o.late(o.net(vectors(o.i))).pow(2).sum()
    o.optimizer.step()
    try:
        loss.backward()
    except RuntimeError as error:
        o.kept["error"] = str(error)


@when("update")
def profiled(o):
    with torch.profiler.record_function("update"):
        o.optimizer.step()


# After the update


@when("after")
def parameters_clamped(o):
    with torch.no_grad():
        for p in o.net.parameters():
            p.clamp_(-0.3, 0.3)


@when("after")
def parameters_and_counters_looked_at(o):
    o.kept["norm"] = float(sum(p.detach().norm() for p in o.net.parameters()))
    o.kept["steps"] = [float(s["step"]) for s in o.optimizer.state.values() if "step" in s]


@when("after")
def second_optimizer_over_the_same_parameters(o):
    if "second" not in o.kept:
        o.kept["second"] = torch.optim.SGD(o.net[0].parameters(), lr=0.01, momentum=0.5)
    o.kept["second"].step()


@when("after")
def optimizer_made_anew_in_every_turn(o):
    o.optimizer = type(o.optimizer)([p for p in o.net.parameters() if p.dim() == 2], lr=1e-2)


@when("after")
def gradients_freed_in_different_ways(o):
    o.kept["old"] = [p.grad for p in o.net.parameters()]
    o.optimizer.zero_grad(set_to_none=o.i % 2 == 0)
    if o.i % 3 == 0:
        o.net.zero_grad()


# Disturbances that say nothing for one optimizer, or that eager itself does not take.
def senseless(disturbance, optimizer):
    if disturbance == "learning_rate_becomes_a_tensor":
        return optimizer not in ("SGD", "Adam", "AdamW", "Adagrad", "Adafactor")
    if disturbance == "gradients_missing_now_and_then":
        return optimizer == "Muon"
    if disturbance == "options_change":
        return optimizer == "Adafactor"
    if disturbance in ("implementation_changes", "in_inference_mode"):
        return optimizer in ("fused", "Muon")
    return False


def cases():
    """Each disturbance with one common optimizer in fast and another in exact; under conformance with all."""
    names = list(MAKERS)
    for number, disturbance in enumerate(DISTURBANCES):
        pairs = [(names[number % 3], "fast"), (names[3 + number % (len(names) - 3)], "exact")]
        if CONFORMANCE:
            # Steps of Rprop and Muon depend on signs and on bfloat16 roundings: bit for bit or not at all.
            pairs = [(n, w) for n in names for w in ("exact", "fast") if w == "exact" or n not in ("Rprop", "Muon")]
        for optimizer, numerics in pairs:
            if not senseless(disturbance, optimizer):
                yield pytest.param(disturbance, optimizer, numerics, id=f"{disturbance}-{optimizer}-{numerics}")


# The first steps of adaptive optimizers divide small numbers by small numbers.
ADAPTIVE = Tolerance.fast(2e-3, 2e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("disturbance", "optimizer", "numerics"), cases())
def test_disturbed(disturbance, optimizer, numerics):
    phase, disturb = DISTURBANCES[disturbance]

    def program(t):
        o = Training(MAKERS[optimizer])
        t.watch(o=o)

        @t.function
        def step():
            loss = o.backward()
            if phase == "inside":
                disturb(o)
            disturb(o) if phase == "update" else o.optimizer.step()
            if phase == "after":
                disturb(o)
            return loss

        for o.i in t.loop(9):
            with t.catches() if "raise" in disturbance else contextlib.nullcontext():
                if phase == "before":
                    disturb(o)
                t.out(step())

    check(program, numerics, tolerance=ADAPTIVE)


SCHEDULES = {
    "one_cycle": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=12),
    "cyclic": lambda o: schedulers.CyclicLR(o, 1e-3, 0.1, step_size_up=2, cycle_momentum=False),
    "warm_up_then_cosine": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, total_iters=3), schedulers.CosineAnnealingLR(o, 6)], [3]),
    "warm_restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3),
    "chained": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.5, 2), schedulers.ExponentialLR(o, 0.9)]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_that_change_several_options(schedule, optimizer):
    def program(t):
        o = Training(MAKERS[optimizer])
        scheduler = SCHEDULES[schedule](o.optimizer)
        t.watch(o=o)

        @t.function
        def step():
            loss = o.backward()
            o.optimizer.step()
            scheduler.step()
            return loss

        for o.i in t.loop(9):
            t.out(step())
            t.log(scheduler.get_last_lr(), o.optimizer.param_groups[0].get("betas"))

    check(program, "exact")


def test_gradient_scaler(numerics):
    def program(t):
        o = Training(MAKERS["SGD"])
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        t.watch(o=o)

        @t.function
        def step(poison):
            o.optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = o.late(o.net(vectors(o.i)))
            loss = F.cross_entropy(out.float(), classes(o.i)) * poison
            scaler.scale(loss).backward()
            scaler.unscale_(o.optimizer)
            norm = nn.utils.clip_grad_norm_(o.net.parameters(), 0.5)
            scaler.step(o.optimizer)
            scaler.update()
            return norm, scaler.get_scale()

        for o.i in t.loop(10):
            t.out(*step(float("inf") if o.i in (3, 7) else 1.0))

    check(program, numerics, tolerance=Tolerance.fast(3e-2, 2e-2))


def test_optimizer_of_the_users_own(numerics):
    class Sign(torch.optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        state = self.state[p]
                        mean = state.setdefault("mean", torch.zeros_like(p))
                        mean.lerp_(p.grad, 0.3)
                        p.sub_(mean.tanh() * group["lr"])

    class Loud(torch.optim.SGD):
        def step(self, closure=None):
            self.calls = getattr(self, "calls", 0) + 1
            self.param_groups[0]["lr"] *= 0.9
            return super().step(closure)

    def program(t):
        kinds = [Training(lambda p: Sign(p, 0.1)), Training(lambda p: Loud(p, lr=0.1, momentum=0.9))]
        t.watch(first=kinds[0], second=kinds[1])

        @t.function
        def step(o):
            loss = o.backward()
            o.optimizer.step()
            return loss

        for i in t.loop(12):
            kinds[i % 2].i = i
            t.out(step(kinds[i % 2]))

    check(program, numerics)


def test_forward_backward_and_update_are_regions_of_their_own(numerics):
    def program(t):
        o = Training(MAKERS["AdamW"])
        t.watch(o=o)
        forward = t.function(lambda x, y: F.cross_entropy(o.late(o.net(x)), y))
        backward = t.function(lambda loss: loss.backward())
        update = t.function(lambda: o.optimizer.step())
        clear = t.function(lambda: o.optimizer.zero_grad())
        for i in t.loop(9):
            clear()
            loss = forward(vectors(i), classes(i))
            t.out(loss)
            if i in (2, 6):
                loss.backward()  # outside of any region
            else:
                backward(loss)
            o.optimizer.step() if i in (3, 6) else update()

    check(program, numerics)


def test_adversarial_training_with_shared_and_detached_values(numerics):
    def program(t):
        maker, critic = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
        m_opt, c_opt = torch.optim.Adam(maker.parameters(), 1e-2, eps=1e-3), torch.optim.SGD(critic.parameters(), 0.1)
        t.watch(maker=maker, critic=critic, m_opt=m_opt)

        @t.function
        def step(real, i):
            fake = maker(torch.randn(6, 4)).tanh()
            c_opt.zero_grad()
            c_loss = critic(fake.detach()).mean() - critic(real).mean()
            mix = (0.5 * real + 0.5 * fake.detach()).requires_grad_()
            (slope,) = torch.autograd.grad(critic(mix).sum(), mix, create_graph=True)
            (c_loss + (slope.norm(dim=1) - 1).pow(2).mean()).backward()
            c_opt.step()
            if i % 2:
                critic.requires_grad_(False)
                m_opt.zero_grad()
                (-critic(fake).mean()).backward()
                m_opt.step()
                critic.requires_grad_(True)
            return fake, c_loss.item()

        for i in t.loop(10):
            t.out(*step(vectors(i), i))

    check(program, numerics)


def test_hidden_state_carried_with_and_without_detach(numerics):
    """Truncated backpropagation: the graph of several regions is alive, then cut."""

    def program(t):
        cell, head = nn.GRUCell(8, 12), nn.Linear(12, 5)
        optimizer = torch.optim.SGD([*cell.parameters(), *head.parameters()], lr=0.1)
        t.watch(cell=cell, head=head)

        @t.function
        def advance(x, hidden, y):
            hidden = cell(x, hidden)
            return hidden, F.cross_entropy(head(hidden), y)

        @t.function
        def update(losses):
            optimizer.zero_grad()
            sum(losses).backward()
            optimizer.step()

        hidden, losses = torch.zeros(6, 12), []
        for i in t.loop(12):
            hidden, loss = advance(vectors(i), hidden, classes(i))
            losses.append(loss)
            if len(losses) == 3:
                update(losses)
                hidden, losses = hidden.detach(), []
            t.out(hidden)

    check(program, numerics)


def test_modules_sharing_parameters_and_unused_ones(numerics):
    def program(t):
        shared = nn.Linear(8, 8)
        net = nn.ModuleList([shared, nn.Linear(8, 8), shared, nn.Linear(8, 5)])
        net[1].weight = shared.weight
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, eps=1e-3)
        t.watch(net=net, optimizer=optimizer)

        @t.function
        def step(x, y, i):
            optimizer.zero_grad()
            for layer in list(net)[: 3 if i % 4 else 1]:
                x = layer(x).relu()
            loss = F.cross_entropy(net[3](x) if i % 3 else x[:, :5], y)
            loss.backward()
            optimizer.step()
            return loss, [p.grad is None for p in net.parameters()]

        for i in t.loop(12):
            t.out(*step(vectors(i), classes(i), i))

    check(program, numerics)
