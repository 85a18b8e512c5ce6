"""Custom autograd Functions and hooks of modules: the program's code in the middle of a backward."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from test_behaviour_hooks import program, steady_steps
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from util import check

KINDS = {}
BOTH = ("exact", "fast")


def kind(fn):
    KINDS[fn.__name__] = fn
    return fn


class Square(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * g * x


class StraightThrough(Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return g


class SumAndDifference(Function):
    """Several inputs, one of them no tensor, and several results; a gradient that is missing stays None."""

    @staticmethod
    def forward(ctx, a, b, factor):
        ctx.set_materialize_grads(False)
        ctx.factor = factor
        return a + factor * b, a - b

    @staticmethod
    def backward(ctx, s, d):
        if s is None or d is None:
            one = d if s is None else s
            return one, None if s is None else one * ctx.factor, None
        return s + d, ctx.factor * s - d, None


class Twice(Function):
    """One gradient object for two inputs."""

    @staticmethod
    def forward(ctx, a, b):
        return a + b

    @staticmethod
    def backward(ctx, g):
        return g, g


class InPlace(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(0.5)

    @staticmethod
    def backward(ctx, g):
        return g.mul(0.5)


class Reads(Function):
    """Looks at values, and does one thing or another."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * 2 if float(g.sum()) > 0 else g * 0.5


class Reversed(Function):
    @staticmethod
    def forward(ctx, x, log):
        ctx.log = log
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        ctx.log("reversed", tuple(g.shape), torch.is_grad_enabled(), ctx.needs_input_grad)
        return -g, None


def after(s, layer, change):
    """The result of a layer goes through `change`."""
    forward = s.net[layer].forward
    s.net[layer].forward = lambda x: change(forward(x))


@kind
def saved_tensors(s):
    after(s, 1, Square.apply)


@kind
def several_functions(s):
    after(s, 0, Square.apply)
    after(s, 1, StraightThrough.apply)
    after(s, 3, Square.apply)


@kind
def several_inputs_and_results(s):
    after(s, 1, lambda h: sum(SumAndDifference.apply(h, h.tanh(), 3.0)))


@kind
def some_results_without_gradient(s):
    after(s, 1, lambda h: SumAndDifference.apply(h, h.tanh(), 3.0)[s.i % 3 == 1])


@kind
def one_gradient_for_two(s):
    after(s, 1, lambda h: Twice.apply(h, h))
    after(s, 3, lambda h: Twice.apply(h.tanh(), h.sin()))


@kind
def one_gradient_for_two_parameters(s):
    weight, other = nn.Parameter(torch.ones(12)), nn.Parameter(torch.zeros(12))
    s.t.watch(weight=weight, other=other)
    after(s, 1, lambda h: h * Twice.apply(weight, other))


@kind
def in_place(s):
    after(s, 1, lambda h: InPlace.apply(h * 1))


@kind
def reads_values(s):
    after(s, 2, Reads.apply)


@kind
def logs(s):
    after(s, 2, lambda h: Reversed.apply(h, s.t.log))


@kind
def with_tensor_hooks(s):
    after(s, 1, Square.apply)
    for number in range(5):
        s.on[number] = lambda h, number=number: h.register_hook(lambda g: s.t.log("result", number))
    s.net[1].up.bias.register_hook(lambda g: g * 2)


@kind
def with_hooks_of_the_node(s):
    def hooked(h):
        h = Square.apply(h)
        h.grad_fn.register_hook(lambda inputs, outputs: s.t.log("after") or tuple(2 * g for g in inputs))
        h.grad_fn.register_prehook(lambda outputs: s.t.log("before") or tuple(g + 1 for g in outputs))
        return h

    after(s, 1, hooked)


@kind
def hooks_of_the_node_come_and_go(s):
    kept = []

    def hooked(h):
        h = Square.apply(h)
        kept[:] = [h.grad_fn, h.grad_fn.register_hook(lambda inputs, outputs: (inputs[0] * 3,))]
        return h

    def change(g):
        if s.i % 3 == 1:
            kept[1].remove()
        if s.i % 3 == 2:
            kept[0].register_hook(lambda inputs, outputs: s.t.log("one more"))

    after(s, 1, hooked)
    s.net[3].up.bias.register_hook(change)


@kind
def graph_is_looked_at(s):
    def look(h):
        h = Square.apply(h)
        if s.i in (4, 5):
            s.t.log(h.grad_fn.name(), [type(node).__name__ for node, _ in h.grad_fn.next_functions])
        return h

    after(s, 1, look)


@kind
def checkpointed(s):
    block = s.net[1].forward
    s.net[1].forward = lambda x: checkpoint(block, x, use_reentrant=True)


@kind
def shared_by_two_backwards(s):
    s.retain_graph = True
    after(s, 1, Square.apply)


@kind
def only_now_and_then(s):
    after(s, 1, lambda h: Square.apply(h) if s.i % 3 == 2 else h * h)


@kind
def accumulated(s):
    s.optimizer.zero_grad = lambda: None if s.i % 2 else torch.optim.SGD.zero_grad(s.optimizer)
    after(s, 3, Square.apply)


# Hooks of modules


def shapes(gradients):
    return [None if g is None else tuple(g.shape) for g in gradients]


@kind
def hooks_of_all_modules(s):
    for name, module in s.net.named_modules():
        module.register_full_backward_hook(
            lambda m, inputs, outputs, name=name: s.t.log(name, shapes(inputs), shapes(outputs))
        )
        module.register_full_backward_pre_hook(lambda m, outputs, name=name: s.t.log("before", name, shapes(outputs)))


@kind
def module_hook_scales_inputs(s):
    s.net[3].register_full_backward_hook(lambda m, inputs, outputs: (inputs[0] * 2,))


@kind
def module_hook_keeps_gradients(s):
    s.net[3].register_full_backward_hook(lambda m, inputs, outputs: s.kept.extend((*inputs, *outputs)))
    s.before_backward = s.kept.clear
    s.after_backward = lambda: s.results.extend(g * 1 for g in s.kept)


@kind
def module_hook_scales_outputs(s):
    s.net[1].register_full_backward_pre_hook(lambda m, outputs: (outputs[0].clamp(-0.01, 0.01),))


@kind
def module_hooks_in_order(s):
    s.net[1].register_full_backward_hook(lambda m, i, o: s.t.log("first"))
    s.net[1].register_full_backward_hook(lambda m, i, o: (i[0] + 1,))
    s.net[1].register_full_backward_hook(lambda m, i, o: s.t.log("last", i[0] * 1))
    s.net[1].register_full_backward_pre_hook(lambda m, o: (o[0] * 2,))
    s.net[1].register_full_backward_pre_hook(lambda m, o: s.t.log("before all", o[0] * 1), prepend=True)


@kind
def module_hooks_come_and_go(s):
    handles = []

    def change():
        if s.i in (2, 5):
            handles.append(s.net[3].register_full_backward_hook(lambda m, i, o: (i[0] * 3,)))
        if s.i in (4, 7):
            handles.pop().remove()

    s.before_backward = change


@kind
def module_used_twice(s):
    s.net[1].register_full_backward_hook(lambda m, i, o: s.t.log("block") or (i[0] * 0.5,))
    forward = s.net[2].forward
    s.net[2].forward = lambda h: forward(s.net[1](h))


@kind
def module_hook_by_turn(s):
    s.net[3].register_full_backward_hook(lambda m, i, o: (i[0] * (1 + s.i),) if s.i % 2 else None)


@kind
def old_module_hooks(s):
    s.net[1].register_backward_hook(lambda m, i, o: s.t.log("old", shapes(o)))


@kind
def hooks_of_other_nodes(s):
    s.on[1] = lambda h: h.grad_fn.register_hook(lambda i, o: s.t.log("node", shapes(i), shapes(o)))


@kind
def hooks_of_other_nodes_change_gradients(s):
    def hooked(h):
        h.grad_fn.register_prehook(lambda outputs: tuple(g * 2 for g in outputs))
        h.grad_fn.register_hook(lambda inputs, outputs: tuple(None if g is None else g + 1 for g in inputs))

    s.on[1] = s.on[4] = hooked


@kind
def hooks_behind_other_nodes(s):
    """Inside of what a call stands for: a linear layer's own nodes."""

    def hooked(h):
        inner = h.grad_fn.next_functions[-1][0]
        inner.register_hook(lambda i, o: s.t.log("behind", shapes(i), shapes(o)))

    s.on[4] = hooked


@kind
def hooks_of_other_nodes_come_and_go(s):
    kept = []

    def hooked(h):
        if s.i % 4 > 1:
            kept[:] = [h.grad_fn, h.grad_fn.register_hook(lambda i, o: s.t.log("node", shapes(o)))]

    def change(g):
        if s.i % 4 == 2:
            kept[1].remove()
        if s.i % 4 == 3:
            kept[0].register_prehook(lambda o: s.t.log("one more", shapes(o)))

    s.on[1] = hooked
    s.net[3].up.bias.register_hook(change)


@kind
def looked_at_without_hooks(s):
    s.on[3] = lambda h: s.t.log(h.grad_fn.name(), len(h.grad_fn.next_functions))


@kind
def hooks_of_saved_tensors(s):
    """Values that nodes have saved are what these make of them."""

    def hooked(h):
        if s.i % 4 > 1:
            h.grad_fn._raw_saved_result.register_hooks(lambda x: x * 0.5, lambda x: s.t.log("unpacked") or x * 4)

    s.on[2] = hooked


@kind
def looked_at_in_the_middle_of_a_backward(s):
    results = []
    s.on[1] = results.append

    def look(g):
        node = results.pop().grad_fn
        node.register_hook(lambda i, o: s.t.log("node", shapes(i), shapes(o)))

    s.net[4].bias.register_hook(look)


@kind
def hook_over_several_gradients(s):
    tensors = [s.net[0].weight, s.net[3].up.bias, s.net[4].weight]
    torch.autograd.graph.register_multi_grad_hook(tensors, lambda grads: s.t.log("all", shapes(grads)))
    torch.autograd.graph.register_multi_grad_hook(tensors, lambda g: s.t.log("any", tuple(g.shape)), mode="any")


@kind
def hook_over_gradients_of_results(s):
    results = []
    s.on[1] = s.on[3] = results.append

    def register():
        torch.autograd.graph.register_multi_grad_hook(
            [*results, s.net[0].weight], lambda grads: s.t.log("all", shapes(grads))
        )
        results.clear()

    s.before_backward = register


class OddGradients(Function):
    @staticmethod
    def forward(ctx, x, way):
        ctx.way = way
        return x * 1

    @staticmethod
    def backward(ctx, g):
        odd = [g.double(), g.expand(2, *g.shape), g.t().contiguous().t()][ctx.way]
        return odd, None


@kind
def gradients_of_other_types_and_shapes(s):
    """What autograd casts and sums on the way."""
    for way, layer in enumerate((0, 1, 3)):
        after(s, layer, lambda h, way=way: OddGradients.apply(h, way))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("numerics", BOTH)
@pytest.mark.parametrize("name", KINDS)
def test_functions(name, numerics):
    check(program(KINDS[name], turns=10), numerics)


class Raises(Function):
    @staticmethod
    def forward(ctx, x, s):
        ctx.s = s
        return x * 1

    @staticmethod
    def backward(ctx, g):
        if ctx.s.i in (4, 6, 7):
            raise LookupError(f"in turn {ctx.s.i}")
        return (g, None) if ctx.s.i != 8 else (g[:1, :1], None, None)


@pytest.mark.parametrize("numerics", BOTH)
@pytest.mark.parametrize("where", ["function", "module", "module, before"])
def test_code_that_raises_leaves_what_eager_leaves(where, numerics):
    def prepare(s):
        def fail(*_):
            if s.i in (4, 6, 7):
                raise LookupError(f"in turn {s.i}")

        if where == "function":
            after(s, 1, lambda h: Raises.apply(h, s))
        elif where == "module":
            s.net[1].register_full_backward_hook(fail)
        else:
            s.net[1].register_full_backward_pre_hook(fail)

    check(program(prepare, turns=11, raising=True), numerics)


@pytest.mark.parametrize("numerics", BOTH)
def test_root_is_an_edge(numerics):
    """A root that is told by its node: what is behind it becomes eager's graph before the engine looks."""

    def run(t):
        layer = nn.Linear(4, 6)
        t.watch(layer=layer)

        @t.function
        def step(x):
            layer.zero_grad()
            h = Square.apply(layer(x))
            edge = torch.autograd.graph.get_gradient_edge(h)
            torch.autograd.backward([edge], [torch.ones(3, 6)])
            return h.detach()

        for _ in t.loop(7):
            t.out(step(torch.randn(3, 4)))

    check(run, numerics)


@pytest.mark.parametrize("numerics", BOTH)
@pytest.mark.parametrize("again", [False, True])
def test_second_backward_through_a_function(again, numerics):
    def run(t):
        layer = nn.Linear(4, 6)
        t.watch(layer=layer)

        @t.function
        def step(x):
            layer.zero_grad()
            h = Square.apply(layer(x))
            loss = F.gelu(h).sum()
            loss.backward(retain_graph=again)
            with contextlib.suppress(IndexError), t.catches(RuntimeError):
                loss.backward()
            return loss.detach()

        for _ in t.loop(8):
            t.out(step(torch.randn(3, 4)))

    check(run, numerics)


STEADY = [
    "saved_tensors",
    "several_functions",
    "several_inputs_and_results",
    "one_gradient_for_two",
    "one_gradient_for_two_parameters",
    "with_tensor_hooks",
    "with_hooks_of_the_node",
    "hooks_of_other_nodes",
    "hooks_of_other_nodes_change_gradients",
    "hook_over_several_gradients",
    "hook_over_gradients_of_results",
    "gradients_of_other_types_and_shapes",
    "checkpointed",
    "hooks_of_all_modules",
    "module_hook_scales_inputs",
    "module_hooks_in_order",
    "module_used_twice",
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", STEADY)
def test_steady_steps_are_recognised_in_pieces(name):
    steady_steps(KINDS[name])
