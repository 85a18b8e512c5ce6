"""The autograd graph as programs use it: nodes, seeds, repeated and partial backwards, hooks."""

import threading

import pytest
import torch
from models import vectors
from scenes import cases, play

ACTS = {}


def act(fn):
    ACTS[fn.__name__] = fn
    return fn


# Nodes


@act
def names_of_nodes(s):
    s.zero_grad()
    yield
    for value in (s.h, s.g, s.logits, s.loss):
        s.log(value.grad_fn.name(), value.is_leaf, value.requires_grad, value.output_nr, value._version)
    s.log([name for name, _ in s.net.named_parameters() if s.net.get_parameter(name).grad_fn is not None])
    s.loss.backward()


def walk(node, seen):
    """All nodes below `node`, each once, deepest paths last."""
    if node is None or node in seen:
        return seen
    seen.append(node)
    for following, _ in node.next_functions:
        walk(following, seen)
    return seen


@act
def leaves_reached_from_the_loss(s):
    s.zero_grad()
    yield
    nodes = walk(s.loss.grad_fn, [])
    s.log(sorted(tuple(node.variable.shape) for node in nodes if hasattr(node, "variable")))
    s.log(all(isinstance(node, torch.autograd.graph.Node) for node in nodes))
    s.loss.backward()


@act
def whole_graph_by_name(s):
    s.zero_grad()
    yield
    s.log([(n.name(), [(f.name() if f else None, k) for f, k in n.next_functions]) for n in walk(s.loss.grad_fn, [])])
    s.loss.backward()


@act
def hooks_of_nodes(s):
    s.zero_grad()
    yield
    s.g.grad_fn.register_hook(lambda inputs, outputs: s.out(inputs[0] * 1, outputs[0] * 1))
    s.h.grad_fn.register_prehook(lambda outputs: (outputs[0] * 0.5,))
    removed = s.logits.grad_fn.register_hook(lambda *_: s.log("never"))
    removed.remove()
    s.loss.backward()


@act
def node_called_by_hand(s):
    s.zero_grad()
    yield
    s.out(s.g.grad_fn(torch.full_like(s.g, 0.5)))
    s.loss.backward()


@act
def saved_tensors_looked_at(s):
    s.zero_grad()
    yield
    saved = s.g.grad_fn._saved_self
    s.log(saved.shape, s.g.grad_fn._saved_approximate, saved.grad_fn.name())
    s.out(saved.detach() * 1)
    s.loss.backward()
    with s.catches():
        s.g.grad_fn._saved_self  # noqa: B018


@act
def metadata_of_nodes(s):
    s.zero_grad()
    yield
    s.g.grad_fn.metadata["mark"] = s.i
    s.loss.backward()
    s.log(s.g.grad_fn.metadata, s.g.grad_fn is s.g.grad_fn)


@act
def order_of_nodes(s):
    s.zero_grad()
    yield
    numbers = [v.grad_fn._sequence_nr() for v in (s.h, s.g, s.logits, s.loss)]
    s.log(numbers == sorted(numbers), len(set(numbers)))
    s.loss.backward()


@act
def gradient_edges(s):
    s.zero_grad()
    yield
    edge = torch.autograd.graph.get_gradient_edge(s.h)
    s.out(torch.autograd.grad(s.loss, [edge], retain_graph=True))
    root = torch.autograd.graph.get_gradient_edge(s.loss)
    torch.autograd.backward(root, torch.tensor(0.5))


@act
def hooks_of_accumulators(s):
    """As data-parallel wrappers find them: through a view of the parameter."""
    s.zero_grad()
    weight = s.net[0].weight
    node = weight.expand_as(weight).grad_fn.next_functions[0][0]
    handle = node.register_hook(lambda *_: s.log("accumulated", tuple(weight.grad.shape)))
    yield
    s.log(node is torch.autograd.graph.get_gradient_edge(weight).node)
    s.loss.backward()
    handle.remove()


# Backwards: repeated, partial, seeded


@act
def backward_twice(s):
    s.zero_grad()
    yield
    s.loss.backward()
    with s.catches():
        s.loss.backward()


@act
def retained_and_repeated(s):
    s.zero_grad()
    yield
    for _ in range(2):
        s.loss.backward(retain_graph=True)
    s.loss.backward()
    with s.catches():
        s.logits.sum().backward()


@act
def two_losses_over_one_forward(s):
    s.zero_grad()
    yield
    s.loss.backward(retain_graph=True)
    extra = s.logits.pow(2).mean()
    extra.backward()
    s.out(extra)


@act
def second_loss_after_the_graph_was_freed(s):
    s.zero_grad()
    yield
    s.loss.backward()
    with s.catches():
        s.h.pow(2).sum().backward()
    with s.catches():
        s.g.mean().backward()


@act
def gradient_of_leaves(s):
    yield
    s.out(torch.autograd.grad(s.loss, list(s.net[4].parameters()), retain_graph=True))
    s.out(torch.autograd.grad(s.loss, [s.net[0].weight]))
    s.update = False


@act
def gradients_of_interior_values(s):
    s.zero_grad()
    yield
    s.out(torch.autograd.grad(s.loss, [s.h, s.logits, s.net[0].bias], retain_graph=True))
    s.out(torch.autograd.grad(s.logits, [s.g], torch.ones_like(s.logits), retain_graph=True))
    s.loss.backward()


@act
def gradient_of_the_input(s):
    s.zero_grad()
    s.x = s.x.clone().requires_grad_()
    yield
    s.out(torch.autograd.grad(s.loss, s.x, retain_graph=True))
    s.loss.backward()
    s.out(s.x.grad)


@act
def unused_and_materialised_gradients(s):
    s.zero_grad()
    yield
    spare = s.net.spare.weight
    with s.catches():
        torch.autograd.grad(s.loss, [s.h, spare], retain_graph=True)
    s.out(torch.autograd.grad(s.loss, [s.h, spare], retain_graph=True, allow_unused=True))
    s.out(torch.autograd.grad(s.loss, [spare], retain_graph=True, allow_unused=True, materialize_grads=True))
    s.loss.backward()


@act
def backward_into_leaves_by_name(s):
    s.zero_grad()
    yield
    s.loss.backward(inputs=[s.net[4].weight, s.net[1].bias])
    s.log([p.grad is None for p in s.net.parameters()])


@act
def backward_into_an_interior_value(s):
    s.zero_grad()
    yield
    s.loss.backward(inputs=[s.g, s.net[4].weight], retain_graph=True)
    s.log(s.net[0].weight.grad is None)
    s.loss.backward()


@act
def several_roots_and_seeds(s):
    s.zero_grad()
    yield
    torch.autograd.backward([s.loss, s.logits, s.h], [None, torch.full_like(s.logits, 0.1), s.h.detach() * 0.01])


@act
def seed_of_another_kind(s):
    s.zero_grad()
    yield
    seed = torch.linspace(-0.02, 0.02, s.logits.numel()).view(5, -1).t()
    s.logits.backward(seed, retain_graph=True)
    s.logits.backward(torch.full((), 0.01).expand_as(s.logits))


@act
def batched_gradients(s):
    s.zero_grad()
    yield
    eye = torch.eye(s.logits.numel()).view(-1, *s.logits.shape)[:4]
    s.out(torch.autograd.grad(s.logits, s.net[4].weight, eye, is_grads_batched=True, retain_graph=True))
    s.loss.backward()


@act
def loss_scaled_by_a_changing_number(s):
    s.zero_grad()
    yield
    (s.loss * (1 + s.i * 0.25) / 3).backward()
    for p in s.net.parameters():
        if p.grad is not None:
            p.grad.div_(1 + s.i * 0.25)


@act
def branch_on_the_loss(s):
    s.zero_grad()
    yield
    (s.loss * 2 if s.loss.item() > 1.7 else s.loss + s.logits.pow(2).mean()).backward()


@act
def regularised_by_all_parameters(s):
    s.zero_grad()
    yield
    (s.loss + 0.01 * sum(p.pow(2).sum() for p in s.net[:5].parameters())).backward()


@act
def accumulating_over_micro_batches(s):
    s.zero_grad(set_to_none=bool(s.i % 2))
    yield
    (s.loss / 3).backward()
    for k in range(2):
        s.x = vectors(s.i + 10 * (k + 1))
        s.forward()
        (s.loss / 3).backward()


@act
def gradients_zeroed_in_place(s):
    s.zero_grad(set_to_none=False)
    yield
    s.loss.backward()


@act
def gradients_not_zeroed(s):
    yield
    s.loss.backward()


@act
def backward_without_grad_mode(s):
    s.zero_grad()
    yield
    with torch.no_grad():
        s.loss.backward()


@act
def backward_on_another_thread(s):
    s.zero_grad()
    yield
    thread = threading.Thread(target=s.loss.backward)
    thread.start()
    thread.join()


@act
def two_backwards_on_another_thread(s):
    s.zero_grad()
    yield
    for retain in (True, False):
        thread = threading.Thread(target=s.loss.backward, kwargs={"retain_graph": retain})
        thread.start()
        thread.join()


@act
def single_threaded_backward(s):
    s.zero_grad()
    yield
    with torch.autograd.set_multithreading_enabled(False):
        s.loss.backward()


@act
def forward_computed_for_nothing(s):
    yield
    s.update = False


# Hooks and retained gradients


@act
def retained_gradients(s):
    s.zero_grad()
    s.on_h = lambda h: h.retain_grad()
    yield
    s.logits.retain_grad()
    s.loss.retain_grad()
    s.loss.backward()
    s.out(s.h.grad, s.logits.grad, s.loss.grad)
    s.log(s.g.retains_grad, s.h.retains_grad)


@act
def hook_before_the_rest_of_the_forward(s):
    s.zero_grad()
    s.on_h = lambda h: h.register_hook(lambda grad: grad * 2)
    yield
    s.loss.backward()


@act
def hooks_after_the_forward(s):
    s.zero_grad()
    yield
    s.h.register_hook(lambda grad: s.out(grad * 1))
    s.h.register_hook(lambda grad: grad.clamp(-0.01, 0.01))
    removed = s.h.register_hook(lambda grad: grad * 100)
    s.loss.register_hook(lambda grad: grad + 1)
    removed.remove()
    s.loss.backward()


@act
def hook_before_and_after_retain_grad(s):
    s.zero_grad()
    yield
    s.h.register_hook(lambda grad: grad * 2)
    s.h.retain_grad()
    s.h.register_hook(lambda grad: grad * 3)
    s.loss.backward()
    s.out(s.h.grad)


@act
def hooks_of_parameters(s):
    s.zero_grad()
    handles = [p.register_hook(lambda grad: grad * 0.5) for p in s.net[0].parameters()]
    yield
    s.loss.backward()
    for handle in handles:
        handle.remove()


@act
def hooks_after_accumulation(s):
    s.zero_grad()

    def update(p):
        with torch.no_grad():
            p.add_(p.grad, alpha=-0.05)
        p.grad = None

    yield
    handles = [p.register_post_accumulate_grad_hook(update) for p in s.net[4].parameters()]
    s.loss.backward()
    s.log([p.grad is None for p in s.net.parameters()])
    for handle in handles:
        handle.remove()


@act
def hook_over_several_gradients(s):
    s.zero_grad()
    yield
    handle = torch.autograd.graph.register_multi_grad_hook(
        [s.h, s.logits, s.net[4].bias], lambda grads: s.log([None if g is None else tuple(g.shape) for g in grads])
    )
    s.loss.backward()
    handle.remove()


@act
def hooks_of_modules_around_backward(s):
    s.zero_grad()
    before = s.net[2].register_full_backward_pre_hook(lambda m, grads: (grads[0] * 2,))
    after = s.net[0].register_full_backward_hook(lambda m, grads, outs: s.log(grads[0] is None, outs[0].shape))
    yield
    s.loss.backward()
    before.remove()
    after.remove()


@act
def hook_that_starts_another_backward(s):
    s.zero_grad()
    yield
    bias = s.net[4].bias

    def differentiate(grad):
        with torch.enable_grad():
            s.out(torch.autograd.grad((grad.detach().sum() * bias).sum(), bias))

    s.h.register_hook(differentiate)
    s.loss.backward()


@act
def hook_that_raises(s):
    s.zero_grad()

    def fail(grad):
        raise LookupError(f"hook in turn {s.i}")

    yield
    s.g.register_hook(fail)
    s.loss.backward()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "when", "numerics"), cases(ACTS))
def test_act(name, when, numerics):
    play(ACTS[name], when, numerics)
