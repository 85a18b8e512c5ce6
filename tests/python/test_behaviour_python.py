"""Python around the tensor work: prints, branches, loops, indexing, closures, hooks, exceptions, threads."""

import concurrent.futures
import copy
import io
import pickle
import weakref

import numpy as np
import pytest
import terra
import torch
import torch.nn.functional as F
from models import classes, cnn, mlp, vectors
from torch import nn
from util import check


def sgd(net, lr=0.1):
    return torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)


def train_step(net, optimizer, x, y):
    optimizer.zero_grad()
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    return loss


def in_threads(count, call):
    """Results of call(0), call(1), … on threads of their own."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


def stepping(body, turns=8, **options):
    """A program that calls `body(x, i)` as a region with x = vectors(i), and keeps its results."""

    def program(t):
        step = t.function(body)
        for i in t.loop(turns):
            t.out(step(vectors(i), i))

    return program


def test_prints_in_mid_step(numerics):
    def program(t):
        net = mlp()
        optimizer = sgd(net)
        t.watch(net=net, optimizer=optimizer)

        @t.function
        def step(x, y):
            hidden = net[0](x)
            print("hidden", hidden[0, :3])
            print(f"mean {hidden.mean():.3f} shape {tuple(hidden.shape)}")
            loss = train_step(net, optimizer, x, y)
            print(loss, net[3].bias.grad)

        for i in t.loop(7):
            step(vectors(i), classes(i))

    check(program, numerics)


def test_print_only_in_some_steps(numerics):
    def body(x, i):
        h = (x * 2).tanh()
        if i in (3, 5):
            print(h[0])
        return (h + 1).relu()

    check(stepping(body), numerics)


def test_branch_on_a_python_value(numerics):
    def body(x, i):
        h = x * 2
        h = h.sin() if i % 2 else h.cos() + 1
        if i % 3 == 0:
            h = h @ h.t()
        return h.sum(0)

    check(stepping(body, 14), numerics)


def test_branch_on_item(numerics):
    def body(x, i):
        if x.mean().item() > 0:
            return (x + 1).exp()
        return x.abs().sqrt()

    check(stepping(body, 14), numerics)


def test_branch_on_tensor_truth(numerics):
    def body(x, i):
        while (x.abs() > 1.5).any():
            x = x * 0.5
        if x.sum() > 0 and not (x == 0).all():
            x = x + 1
        return x

    check(stepping(body, 12), numerics)


def test_new_branch_late(numerics):
    def body(x, i):
        h = x.sin() + 1
        if i == 9:
            h = h.cumsum(0) - 3
        return h.cos() * 2

    check(stepping(body, 13), numerics)


def test_loop_with_varying_number_of_turns(numerics):
    def body(x, i):
        for _k in range(i % 4):
            x = torch.tanh(x * 1.5) + 0.1
        return x

    check(stepping(body, 16), numerics)


def test_loop_until_converged(numerics):
    def body(x, i):
        turns = 0
        while x.abs().max().item() > 0.5:
            x = x * 0.7
            turns += 1
        return x, turns

    def program(t):
        step = t.function(body)
        for i in t.loop(10):
            x, turns = step(vectors(i), i)
            t.out(x)
            t.log(turns)

    check(program, numerics)


def test_indexing_data_by_turn(numerics):
    def program(t):
        data = torch.randn(5, 6, 8)
        labels = torch.randint(0, 5, (5, 6))
        net = mlp()
        optimizer = sgd(net)
        t.watch(net=net, data=data)

        @t.function
        def step(i):
            return train_step(net, optimizer, data[i % 5], labels[i % 5])

        for i in t.loop(13):
            t.out(step(i))

    check(program, numerics)


def test_slices_with_a_moving_start(numerics):
    def program(t):
        data = torch.randn(64, 8)

        @t.function
        def step(i):
            batch = data[i * 4 : i * 4 + 4]
            return batch.tanh() + data[i : i + 1] * 2, data[:, i % 8].sum(), data[-1 - i]

        for i in t.loop(12):
            t.out(*step(i))

    check(program, numerics)


def test_scalars_that_change(numerics):
    def body(x, i):
        h = x * (1 + i * 0.25) + i
        h = torch.add(h, x, alpha=0.5 * i)
        h = h.clamp(min=-i, max=i + 0.5)
        h = torch.where(h > i * 0.1, h, 1.0 / (i + 1))
        return h / (i + 1), h - 2**i, i - h

    def program(t):
        step = t.function(body)
        for i in t.loop(10):
            t.out(*step(vectors(i), i))

    check(program, numerics)


def test_scalar_changes_its_type(numerics):
    def body(x, i):
        s = [2, 2.0, True, 3, 0.5, 2][i % 6]
        return x * s, (x > 0).int() * s, torch.full((2,), s)

    def program(t):
        step = t.function(body)
        for i in t.loop(14):
            t.out(*step(vectors(i), i))

    check(program, numerics)


def test_special_scalars(numerics):
    def body(x, i):
        s = [0.0, -0.0, float("inf"), float("nan"), -float("inf"), 1e-45, 1e308][i % 7]
        return x * s, x + s, torch.maximum(x, torch.tensor(s))

    def program(t):
        step = t.function(body)
        for i in t.loop(15):
            t.out(*step(vectors(i), i))

    check(program, numerics)


def test_tensors_in_closures_lists_and_dicts(numerics):
    def program(t):
        scale = torch.tensor(2.0)
        state = {"h": torch.zeros(6, 8), "all": []}
        t.watch(scale=scale, state=state)

        @t.function
        def step(x):
            nonlocal scale
            state["h"] = state["h"] * 0.9 + x * scale
            state["all"].append(state["h"].mean())
            scale = scale + 0.1
            return {"h": state["h"], "pair": (x, [state["all"][-1]])}

        for i in t.loop(8):
            t.out(step(vectors(i)))

    check(program, numerics)


def test_python_object_mutated_by_the_step(numerics):
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.keep, self.linear = 0.9, nn.Linear(8, 8)

        def forward(self, x):
            self.keep -= 0.05
            return F.dropout(self.linear(x), 1 - self.keep)

    def program(t):
        net = Counter()
        step = t.function(net)
        for i in t.loop(10):
            t.out(step(vectors(i)))
            t.log(net.keep)

    check(program, numerics)


def test_method_as_a_region(numerics):
    class Model:
        def __init__(self, scale):
            self.weight, self.scale = torch.randn(8, 3), scale

        def forward(self, x):
            return torch.relu(x @ self.weight) * self.scale

    def program(t):
        models = [Model(2.0), Model(3.0)]
        steps = [t.function(m.forward) for m in models]
        for i in t.loop(8):
            t.out([step(vectors(i)) for step in steps])

    check(program, numerics)


def test_decorated_method_of_a_class(numerics):
    def program(t):
        class Model:
            def __init__(self, scale):
                self.weight, self.scale = torch.randn(8, 3), scale

            @t.function
            def forward(self, x):
                return torch.relu(x @ self.weight) * self.scale

        models = [Model(2.0), Model(3.0)]
        for i in t.loop(8):
            t.out([m.forward(vectors(i)) for m in models])

    check(program, numerics)


def test_recursion_and_nested_regions(numerics):
    def program(t):
        @t.function
        def inner(x):
            return x.sin() + 1

        @t.function
        def fall(x, depth):
            if depth == 0:
                return inner(x)
            return fall(x * 0.5, depth - 1) + inner(x)

        for i in t.loop(10):
            t.out(fall(vectors(i), i % 3))

    check(program, numerics)


def test_generator_function_decorated(numerics):
    def program(t):
        @t.function
        def produce(x):
            for k in range(3):
                x = (x * 1.5).tanh()
                yield x.sum(k % 2)

        for i in t.loop(5):
            t.out(list(produce(vectors(i))))

    check(program, numerics, coexecutes=False)


def test_generator_consumed_inside_a_region(numerics):
    def program(t):
        def chunks(x):
            for piece in x.split(2):
                yield piece * 2

        @t.function
        def step(x):
            return torch.cat([c.tanh() for c in chunks(x)])

        for i in t.loop(7):
            t.out(step(vectors(i)))

    check(program, numerics)


@pytest.mark.parametrize("where", ["forward", "after_backward", "first", "handled_inside"])
def test_exception_in_mid_step(where, numerics):
    def program(t):
        net = cnn().train()
        optimizer = sgd(net)
        t.watch(net=net, optimizer=optimizer)

        @t.function
        def step(x, y, i):
            bad = i in (1, 4, 7)
            if bad and where == "first":
                raise ValueError(f"first {i}")
            optimizer.zero_grad()
            hidden = net[:3](x)
            try:
                if bad and where in ("forward", "handled_inside"):
                    raise ValueError(f"forward {hidden.shape} {i}")
            except ValueError:
                if where == "forward":
                    raise
            loss = F.cross_entropy(net[3:](hidden), y)
            loss.backward()
            if bad and where == "after_backward":
                raise KeyError(i)
            optimizer.step()

        for i in t.loop(10):
            with t.catches():
                step(torch.randn(4, 1, 8, 8), classes(i, 4), i)

    check(program, numerics)


def test_shape_errors_are_eagers(numerics):
    def program(t):
        @t.function
        def step(x, i):
            h = x * 2
            if i % 3 == 2:
                h @ torch.ones(5, 5)
            return h + 1

        for i in t.loop(9):
            with t.catches():
                t.out(step(vectors(i), i))

    check(program, numerics)


def test_error_in_a_hook_during_backward(numerics):
    def program(t):
        net = mlp()
        turn = 0
        t.watch(net=net)

        def hook(grad):
            if turn in (2, 5):
                raise RuntimeError(f"hook at {turn}")
            return grad * 2

        @t.function
        def step(x):
            net.zero_grad()
            h = net[0](x)
            h.register_hook(hook)
            net[1:](h).sum().backward()

        for i in t.loop(8):
            turn = i
            with t.catches():
                step(vectors(i))

    check(program, numerics)


def test_module_hooks(numerics):
    def program(t):
        net = mlp()
        seen = []
        net[1].register_forward_hook(lambda m, args, out: out * 1.5)
        net[2].register_forward_pre_hook(lambda m, args: (args[0] + 0.1,))
        net[3].register_full_backward_hook(lambda m, gi, go: seen.append(go[0].sum().item()))
        t.watch(net=net, seen=seen)

        @t.function
        def step(x, y):
            net.zero_grad()
            F.cross_entropy(net(x), y).backward()

        for i in t.loop(6):
            step(vectors(i), classes(i))

    check(program, numerics)


def test_tensor_and_post_accumulate_hooks(numerics):
    def program(t):
        net = mlp()
        log = []
        net[0].weight.register_hook(lambda g: g.clamp(-0.01, 0.01))

        def apply_and_forget(p):
            with torch.no_grad():
                p.add_(p.grad, alpha=-0.1)
            log.append(float(p.grad.abs().max()))
            p.grad = None

        for p in net.parameters():
            p.register_post_accumulate_grad_hook(apply_and_forget)
        t.watch(net=net, log=log)

        @t.function
        def step(x, y):
            F.cross_entropy(net(x), y).backward()

        for i in t.loop(6):
            step(vectors(i), classes(i))

    check(program, numerics)


def test_state_dict_deepcopy_pickle_and_save_in_the_middle(numerics):
    def program(t):
        net = cnn()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, eps=1e-3)
        kept = []
        t.watch(net=net, optimizer=optimizer, kept=kept)

        @t.function
        def step(x, y, i):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            if i == 3:
                kept.append(copy.deepcopy(net.state_dict()))
            if i == 4:
                kept.append(pickle.loads(pickle.dumps(net[0].weight.grad)))
            optimizer.step()
            if i == 5:
                file = io.BytesIO()
                torch.save({"net": net.state_dict(), "opt": optimizer.state_dict()}, file)
                file.seek(0)
                kept.append(torch.load(file))
            if i == 6:
                kept.append(copy.deepcopy(net))

        for i in t.loop(9):
            step(torch.randn(4, 1, 8, 8), classes(i, 4), i)
            if i == 7:
                net.load_state_dict(kept[0])

    check(program, numerics)


def test_results_used_after_the_region(numerics):
    def program(t):
        @t.function
        def step(x):
            return x @ x.t(), (x * 3).sum()

        for i in t.loop(7):
            a, b = step(vectors(i))
            t.log(b.item(), a.tolist(), a.numpy().shape, bool(b > 0), float(b), f"{b:.3f}", len(a))
            t.log(np.asarray(a).sum().item(), [float(row[0]) for row in a])

    check(program, numerics)


def test_results_read_by_other_threads(numerics):
    def program(t):
        @t.function
        def step(x):
            return (x @ x.t()).tanh().sum(0)

        for i in t.loop(7):
            out = step(vectors(i))
            t.log(in_threads(3, lambda k, out=out: out.tolist()))

    check(program, numerics)


def test_threads_that_call_the_function(numerics):
    def program(t):
        @t.function
        def step(x):
            return (x @ x.t()).tanh().sum(0)

        for i in t.loop(6):
            t.out(in_threads(3, lambda k, i=i: step(vectors(10 * i + k))), step(vectors(i)))

    check(program, numerics)


def test_objects_die_when_they_do_eagerly():
    def program(t):
        @t.function
        def step(x):
            a = x * 2
            b = a + 1
            first = weakref.ref(a)
            del a
            second = weakref.ref(b)
            storage = weakref.ref(b.untyped_storage())
            t.log(first() is None, second() is None, storage() is None)
            return b

        for i in t.loop(6):
            t.out(step(vectors(i)))

    check(program, "exact")


@pytest.mark.parametrize("from_turn", [3, 6, 9])
def test_values_that_begin_to_survive(from_turn, numerics):
    """Intermediate values that were fused away, and are then kept: no op tells, only the reference."""

    def program(t):
        kept, weak = [], []
        t.watch(kept=kept)

        @t.function
        def step(x, i):
            a = x * 2
            b = (a + 1).tanh()
            c = b.view(-1)[3:9]
            d = (c - x.sum()) * b.mean()
            if i >= from_turn:
                kept.extend([[a], [b, a], [c], [d, c]][i % 4])
            weak.append(weakref.ref(a))
            del a, b, c
            return d.exp()

        for i in t.loop(13):
            t.out(step(vectors(i), i))
            t.log(weak[-1]() is None)

    check(program, numerics)


def test_function_without_tensor_work():
    def program(t):
        @t.function
        def step(a, *, b):
            return a + b

        for i in t.loop(4):
            t.log(step(i, b=2))

    check(program, "exact", coexecutes=False)


def test_decorating_what_is_not_callable():
    for thing in (3, None, "x", torch.ones(2)):
        if thing is not None:
            with pytest.raises(TypeError):
                terra.function(thing)


def test_function_keeps_its_name_and_arguments():
    @terra.function
    def step(x, *args, scale=2, **more):
        """Doc."""
        return x * scale, args, more

    assert step.__name__ == "step" and step.__doc__ == "Doc."
    out, args, more = step(torch.ones(2), 1, scale=3, other="k")
    assert out.tolist() == [3, 3] and args == (1,) and more == {"other": "k"}


def test_stats_and_explain():
    @terra.function
    def step(x):
        return (x * 2).sum()

    for i in range(6):
        step(vectors(i))
        step.wait_compiled()
    terra.synchronize()
    stats = step.stats()
    assert stats["regions_recorded"] >= 1 and stats["regions_coexecuted"] >= 3
    for key in ("events", "regions_diverged", "compile_seconds", "skeleton_seconds", "graph_seconds"):
        assert key in stats
    text = terra.explain(step)
    assert isinstance(text, str) and text
