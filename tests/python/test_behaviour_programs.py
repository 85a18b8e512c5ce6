"""Programs of other shapes than one model, one loss and one step, long enough for calls to be recognised as a whole."""

import asyncio
import copy
import threading

import numpy as np
import terra
import torch
import torch.nn.functional as F
from models import classes, mlp, tokens, vectors
from torch import nn
from util import check


def adamw(*modules):
    return torch.optim.AdamW([p for m in modules for p in m.parameters()], lr=1e-2, eps=1e-3)


def test_gradient_penalty(numerics):
    def program(t):
        generator = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 8))
        critic = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        of_generator, of_critic = adamw(generator), adamw(critic)
        t.watch(generator=generator, critic=critic, optimizers=[of_generator, of_critic])

        @t.function
        def step(real, penalised):
            with torch.no_grad():
                fake = generator(torch.randn(6, 4))
            share = torch.rand(6, 1)
            mixed = (share * real + (1 - share) * fake).requires_grad_()
            (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
            penalty = ((slope.norm(2, dim=1) - 1) ** 2).mean()
            loss = critic(fake).mean() - critic(real).mean() + (10 * penalty if penalised else 0)
            of_critic.zero_grad()
            loss.backward()
            of_critic.step()
            of_generator.zero_grad()
            (-critic(generator(torch.randn(6, 4))).mean()).backward()
            of_generator.step()
            return loss, penalty

        for i in t.loop(14):
            t.out(*step(vectors(i), i % 7 != 6))

    check(program, numerics)


def test_experts_chosen_by_data():
    def program(t):
        gate, head = nn.Linear(8, 3), nn.Linear(8, 5)
        experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        optimizer = adamw(gate, head, experts)
        t.watch(gate=gate, head=head, experts=experts, optimizer=optimizer)

        @t.function
        def step(x, y):
            optimizer.zero_grad()
            weight, choice = F.softmax(gate(x), -1).max(-1)
            out = torch.zeros_like(x)
            for k, expert in enumerate(experts):
                mine = choice == k
                if mine.any():
                    out[mine] = expert(x[mine]) * weight[mine, None]
            loss = F.cross_entropy(head(out), y)
            loss.backward()
            optimizer.step()
            return loss

        for i in t.loop(14):
            t.out(step(vectors(i), classes(i)))

    check(program, "exact")


def test_recursion_over_trees():
    trees = [(0, 1), ((0, 1), 2), ((0, 1), (2, 3)), (0, (1, (2, 3)))]

    def program(t):
        cell, head = nn.GRUCell(8, 8), nn.Linear(8, 5)
        optimizer = adamw(cell, head)
        t.watch(cell=cell, head=head, optimizer=optimizer)

        @t.function
        def step(x, y, tree):
            def fold(node):
                return x[node : node + 1] if isinstance(node, int) else cell(fold(node[0]), fold(node[1]))

            optimizer.zero_grad()
            loss = F.cross_entropy(head(fold(tree)), y[:1])
            loss.backward()
            optimizer.step()
            return loss

        for i in t.loop(16):
            t.out(step(vectors(i), classes(i), trees[i * i % 4]))

    check(program, "exact")


def test_generation_with_a_cache(numerics):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.qkv, self.out = nn.Embedding(11, 16), nn.Linear(16, 48), nn.Linear(16, 11)

        def forward(self, x, cache):
            q, k, v = self.qkv(self.embed(x)).view(*x.shape, 3, 2, 8).permute(2, 0, 3, 1, 4)
            if cache is not None:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
            return self.out(mixed.transpose(1, 2).reshape(*x.shape, 16)), (k, v)

    def program(t):
        model = Model()
        t.watch(model=model)

        @t.function
        @torch.no_grad()
        def generate(x, sample):
            cache, text, last = None, x, x
            for _ in range(4):
                logits, cache = model(last, cache)
                chances = F.softmax(logits[:, -1] / 0.8, -1)
                last = torch.multinomial(chances, 1) if sample else chances.argmax(-1, keepdim=True)
                text = torch.cat([text, last], 1)
                if (last == 0).all():
                    break
            return text

        for i in t.loop(10):
            t.out(generate(tokens(i, 3, 4), i % 4 != 3))

    check(program, numerics)


def test_functions_share_a_graph():
    def program(t):
        net = mlp()
        optimizer = adamw(net)
        t.watch(net=net, optimizer=optimizer)
        encode = t.function(lambda x: net[:3](x))
        loss_of = t.function(lambda h, y: F.cross_entropy(net[3](h), y))

        @t.function
        def update(losses):
            optimizer.zero_grad()
            sum(losses).backward()
            optimizer.step()

        for i in t.loop(16):
            h = encode(vectors(i))
            other = encode(vectors(i + 1)) if i % 4 == 3 else h * 0.5
            losses = [loss_of(h, classes(i)), loss_of(other, classes(i + 1))]
            if i % 5 == 4:
                h.register_hook(lambda g: g * 2)
            update(losses)
            t.out(*losses, h)

    check(program, "exact")


def test_trainings_side_by_side_in_threads():
    def train(net, wrap, losses):
        optimizer = adamw(net)

        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        step = wrap(step)
        for i in range(120):
            loss = step(vectors(i), classes(i))
            if i % 7 == 0:
                losses.append(loss.item())
        losses.extend(p.sum().item() for p in net.parameters())

    networks = [mlp() for _ in range(3)]
    expected, actual = [[] for _ in networks], [[] for _ in networks]
    for net, losses in zip(copy.deepcopy(networks), expected, strict=True):
        train(net, lambda step: step, losses)
    wrap = terra.function(numerics="exact")
    threads = [threading.Thread(target=train, args=(net, wrap, out)) for net, out in zip(networks, actual, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert actual == expected


def test_long_chains_are_freed_without_deep_recursion():
    weight = torch.ones(4, requires_grad=True)

    def chain(x, backward):
        for _ in range(3000):
            x = x * weight + 0.001
        weight.grad = None
        if backward:
            x.sum().backward()
        return x.detach()

    step = terra.function(chain, numerics="exact")
    for k in range(5):
        expected = chain(torch.ones(4) * k, True), weight.grad
        assert torch.equal(step(torch.ones(4) * k, True), expected[0])
        assert torch.equal(weight.grad, expected[1])
        step(torch.ones(4), False)
    assert step.stats()["regions_coexecuted"] > 0


def test_parameters_and_gradients_are_views_of_flat_buffers(numerics):
    def program(t):
        net = mlp()
        flat = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
        slopes = torch.zeros_like(flat)
        at = 0
        for p in net.parameters():
            p.data = flat[at : at + p.numel()].view_as(p)
            p.grad = slopes[at : at + p.numel()].view_as(p)
            at += p.numel()
        t.watch(net=net, flat=flat, slopes=slopes)

        @t.function
        def step(x, y):
            slopes.zero_()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            with torch.no_grad():
                flat.sub_(slopes / (slopes.norm() + 1e-3), alpha=0.05)
            return loss.detach(), flat.norm()

        for i in t.loop(12):
            t.out(*step(vectors(i), classes(i)))

    check(program, numerics)


def test_weights_whose_memory_is_given_back_between_steps(numerics):
    """As in sharded training: a parameter's storage is empty except while it is needed."""

    def program(t):
        net = mlp()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        whole = [p.detach().clone() for p in net.parameters()]
        t.watch(whole=whole)

        @t.function
        def step(x, y):
            for p, w in zip(net.parameters(), whole, strict=True):
                p.untyped_storage().resize_(w.untyped_storage().nbytes())
                p.data.copy_(w)
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            for p, w in zip(net.parameters(), whole, strict=True):
                w.copy_(p.detach())
                p.untyped_storage().resize_(0)
            return loss.detach()

        for i in t.loop(12):
            t.out(step(vectors(i), classes(i)))

    check(program, numerics)


def test_steps_interleaved_by_an_event_loop(numerics):
    """Two forwards take turns inside a call, in an order that the event loop decides."""

    def program(t):
        net = mlp()
        optimizer = adamw(net)
        t.watch(net=net, optimizer=optimizer)

        async def forward(x, turns):
            for n, layer in enumerate(net):
                x = layer(x)
                if n < turns:
                    await asyncio.sleep(0)
            return x

        @t.function
        def step(x, y, turns):
            async def both():
                return await asyncio.gather(forward(x, turns), forward(x * 2, 1))

            optimizer.zero_grad()
            loss = sum(F.cross_entropy(out, y) for out in asyncio.run(both()))
            loss.backward()
            optimizer.step()
            return loss.detach()

        for i in t.loop(14):
            t.out(step(vectors(i), classes(i), i % 3))

    check(program, numerics)


def test_contrast_with_a_queue_and_a_slow_encoder(numerics):
    def program(t):
        fast = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6))
        slow = copy.deepcopy(fast).requires_grad_(False)
        optimizer = torch.optim.SGD(fast.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        queue, place = F.normalize(torch.randn(6, 24), dim=0), torch.zeros(1, dtype=torch.long)
        t.watch(fast=fast, slow=slow, optimizer=optimizer, queue=queue, place=place)

        @t.function
        def step(x):
            with torch.no_grad():
                for a, b in zip(fast.parameters(), slow.parameters(), strict=True):
                    b.data = b.data * 0.9 + a.data * 0.1
                key = F.normalize(slow(x + 0.1 * torch.randn_like(x)), dim=1)
            query = F.normalize(fast(x), dim=1)
            alike = torch.einsum("nc,nc->n", query, key).unsqueeze(-1)
            others = torch.einsum("nc,ck->nk", query, queue.clone())
            loss = F.cross_entropy(torch.cat([alike, others], 1) / 0.2, torch.zeros(len(x), dtype=torch.long))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            at = int(place)
            queue[:, at : at + 4] = key.T
            place[0] = (at + 4) % 24
            return loss.detach()

        for _ in t.loop(16):
            t.out(step(torch.randn(4, 8)))

    check(program, numerics)


def test_policy_gradient_in_an_environment_of_numpy(numerics):
    def program(t):
        body = nn.Sequential(nn.Linear(4, 16), nn.Tanh())
        policy, critic = nn.Linear(16, 3), nn.Linear(16, 1)
        optimizer = adamw(body, policy, critic)
        world = np.random.RandomState(0)
        t.watch(body=body, policy=policy, critic=critic, optimizer=optimizer)

        @t.function
        def episode(length):
            state = world.randn(4).astype(np.float32)
            chosen, values, rewards = [], [], []
            for _ in range(length):
                features = body(torch.from_numpy(state))
                choice = torch.distributions.Categorical(logits=policy(features))
                action = choice.sample()
                chosen.append(choice.log_prob(action) + 0.01 * choice.entropy())
                values.append(critic(features).squeeze(-1))
                state = (0.9 * state + 0.1 * (action.item() - 1) + 0.05 * world.randn(4)).astype(np.float32)
                rewards.append(float(-np.abs(state).sum()))
            returns = torch.tensor(np.cumsum(rewards[::-1])[::-1].copy(), dtype=torch.float32)
            values = torch.stack(values)
            loss = F.smooth_l1_loss(values, returns) - (torch.stack(chosen) * (returns - values.detach())).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_value_(body.parameters(), 0.5)
            optimizer.step()
            return loss.item(), rewards

        for i in t.loop(12):
            t.log(*episode([5, 5, 7, 3][i % 4]))

    check(program, numerics)
