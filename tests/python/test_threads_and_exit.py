"""The process around the program: exit with work pending, forks, signals, threads, errors that nobody waited for."""

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch
from injection import FAILURE
from models import vectors
from util import check

HERE = Path(__file__).parent

PRELUDE = """
import os, sys, signal, threading, time
import torch
torch.set_num_threads(1)
import terra

@terra.function
def step(x):
    for _ in range(6):
        x = torch.tanh(x @ x) + 1
    return x

def warm(turns=4):
    for i in range(turns):
        out = step(torch.full((200, 200), 0.01 * i))
        step.wait_compiled()
    terra.synchronize()
"""


def python(code, *, prelude=PRELUDE, timeout=120):
    """Runs a program in a process of its own. Returns (exit code, stdout, stderr)."""
    paths = [str(HERE), *[p for p in sys.path if p]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code)],
        env=environment, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def expect(code, stdout, exit_code=0, **options):
    found = python(code, **options)
    assert found[:2] == (exit_code, stdout), found
    return found[2]


def test_exit_with_work_pending():
    stderr = expect(
        """
        warm()
        for i in range(20):
            out = step(torch.ones(200, 200))
        print("done")
        """,
        "done\n",
    )
    assert stderr == ""


def test_exit_in_the_middle_of_a_region():
    code = """
        @terra.function
        def leave(x, now):
            y = (x @ x).tanh() + 1
            if now:
                sys.exit(3)
            return y
        for i in range(6):
            leave(torch.ones(100, 100), i == 5)
            leave.wait_compiled()
        """
    assert expect(code, "", exit_code=3) == ""


def test_exit_while_compiling():
    assert expect("for i in range(3): step(torch.ones(50, 50))\nprint('done')", "done\n") == ""


def test_uncaught_exception_in_a_region_ends_the_program_as_eagerly():
    code, out, err = python(
        """
        @terra.function
        def fail(x, now):
            y = (x @ x).tanh()
            if now:
                raise ValueError("mine")
            return y
        for i in range(6):
            fail(torch.ones(10, 10), i == 5)
            fail.wait_compiled()
        """
    )
    assert code == 1 and err.strip().endswith("ValueError: mine") and "in fail" in err, err


def test_results_kept_in_globals_at_exit():
    stderr = expect(
        """
        warm()
        kept = [step(torch.ones(50, 50)) for _ in range(5)]
        class Late:
            def __del__(self):
                print(kept[0].shape[0] if kept else "gone")
        late = Late()
        """,
        "50\n",
    )
    assert stderr == ""


def test_thread_still_running_at_exit():
    code = """
        warm()
        def run():
            for _ in range(10):
                step(torch.ones(100, 100))
            print("thread done")
        threading.Thread(target=run).start()
        """
    assert expect(code, "thread done\n") == ""


def test_daemon_thread_in_a_region_at_exit():
    code, out, err = python(
        """
        warm()
        def run():
            step(torch.ones(100, 100))
            time.sleep(100)  # a thread that computes while the interpreter ends aborts eagerly too
        threading.Thread(target=run, daemon=True).start()
        time.sleep(0.3)
        print("leaving", flush=True)
        """
    )
    assert (code, out) == (0, "leaving\n"), (code, out, err)


def test_fork_with_work_pending():
    """The child works eagerly on true values, the parent goes on."""
    expect(
        """
        warm()
        out = step(torch.full((200, 200), 0.02))
        pid = os.fork()
        if pid == 0:
            again = step(torch.full((200, 200), 0.02))
            same = torch.equal(out, again)
            os._exit(7 if same else 8)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status))
        print(torch.equal(out, step(torch.full((200, 200), 0.02))))
        """,
        "7\nTrue\n",
    )


def test_fork_in_the_middle_of_a_region():
    expect(
        """
        @terra.function
        def forks(x, now):
            y = (x @ x).tanh()
            code = None
            if now:
                pid = os.fork()
                if pid == 0:
                    os._exit(int((y + 1).sum().item() * 0 + 5))
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            return y + 1, code
        for i in range(7):
            y, code = forks(torch.full((20, 20), 0.1), i == 5)
            forks.wait_compiled()
            if i == 5:
                print(code)
        print(f"{y[0, 0].item():.3f}")
        """,
        "5\n1.197\n",
    )


def test_multiprocessing_worker():
    expect(
        """
        import torch.multiprocessing as mp
        warm()
        def work(queue, x):
            queue.put(step(x).sum().item())
        context = mp.get_context("fork")
        queue = context.SimpleQueue()
        x = torch.full((50, 50), 0.02)
        expected = step(x).sum().item()
        p = context.Process(target=work, args=(queue, x))
        p.start(); got = queue.get(); p.join()
        print(p.exitcode, abs(got - expected) < 1e-3)
        """,
        "0 True\n",
    )


@pytest.mark.parametrize("where", ["python", "waiting"])
def test_keyboard_interrupt_in_mid_step(where):
    """State is eager's and the program can go on."""
    wait = "y.sum().item()" if where == "waiting" else "time.sleep(5)"
    expect(
        f"""
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        state = torch.zeros(300, 300)
        @terra.function
        def slow(now):
            state.add_(1)
            y = state
            for _ in range(60 if now and {where == "waiting"} else 3):
                y = (y @ state) * 0.001
            if now:
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
                end = time.time() + 5
                while time.time() < end:
                    {wait}
            return y
        for i in range(5):
            slow(False)
            slow.wait_compiled()
        try:
            slow(True)
            print("not interrupted")
        except KeyboardInterrupt:
            print("interrupted")
        print(state[0, 0].item())
        slow(False)
        print(state[0, 0].item(), slow(False).shape[0])
        """,
        "interrupted\n6.0\n7.0 300\n",
    )


def test_sigterm_ends_a_waiting_process():
    code, out, err = python(
        """
        warm()
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        end = time.time() + 20
        while time.time() < end:
            step(torch.ones(200, 200))
        """
    )
    assert code == -15, (code, out, err)


def test_error_that_nobody_waited_for_is_printed_at_exit():
    code, out, err = python(
        """
        from injection import fail_kernel_at
        warm()
        fail_kernel_at(step, 4)
        try:
            step(torch.ones(200, 200))
        except RuntimeError as error:
            print(error, file=sys.stderr)  # allowed: noticed while the region still ran
        """
    )
    assert FAILURE in err, (code, out, err)
    assert "Segmentation" not in err and code >= 0


def test_poisoned_values_raise_the_original_error_at_every_read():
    expect(
        """
        from injection import fail_kernel_at, FAILURE
        warm()
        fail_kernel_at(step, 2)
        try:
            out = step(torch.full((200, 200), 0.02))
            for read in (lambda: out.sum().item(), lambda: out.tolist(), lambda: out.numpy()):
                try:
                    read()
                    print("no error")
                except RuntimeError as error:
                    assert FAILURE in str(error), error
        except RuntimeError as error:
            assert FAILURE in str(error), error
        good = step(torch.full((200, 200), 0.02))
        print(bool(torch.isfinite(good).all()))
        """,
        "True\n",
    )


def test_exception_in_another_thread():
    def program(t):
        @t.function
        def step(x, fail):
            y = (x @ x.t()).tanh()
            if fail:
                raise ValueError("in thread")
            return y.sum(0)

        for i in t.loop(8):
            errors = []

            def run(i=i, errors=errors):
                try:
                    step(vectors(i), i % 2 == 1)
                except ValueError as error:
                    errors.append(error)

            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
            t.log(errors)
            t.out(step(vectors(i), False))

    check(program)


def test_threads_with_state_of_their_own():
    """Grad mode and default dtype are per thread or per process as in eager."""

    def program(t):
        w = torch.ones(8, requires_grad=True)

        @t.function
        def step(x):
            return (x * w).sum(1)

        for i in t.loop(6):
            seen = []

            def run(i=i, seen=seen):
                with torch.no_grad():
                    seen.append(step(vectors(i)).requires_grad)

            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
            t.log(seen, step(vectors(i)).requires_grad)

    check(program)


def test_many_threads_and_functions_at_once():
    expect(
        """
        def worker(k, results):
            net = torch.nn.Linear(4, 4)
            with torch.no_grad():
                net.weight.fill_(0.1 * (k + 1)); net.bias.zero_()
            opt = torch.optim.SGD(net.parameters(), lr=0.01)
            @terra.function
            def train(x):
                opt.zero_grad()
                loss = net(x).pow(2).sum()
                loss.backward()
                opt.step()
                return loss
            for i in range(30):
                loss = train(torch.full((3, 4), 1.0 + i % 3))
            results[k] = loss.item()
        def all_workers(threaded):
            results = [None] * 4
            threads = [threading.Thread(target=worker, args=(k, results)) for k in range(4)]
            for t in threads:
                t.start()
                if not threaded: t.join()
            for t in threads:
                t.join()
            return results
        a, b = all_workers(False), all_workers(True)
        print(all(abs(x - y) <= 1e-4 * abs(x) + 1e-6 for x, y in zip(a, b)))
        """,
        "True\n",
    )


def test_concurrent_backward_in_threads():
    def program(t):
        w = torch.nn.Parameter(torch.ones(8))
        t.watch(w=w)

        @t.function
        def step(x):
            (x * w).tanh().sum().backward()

        for i in t.loop(6):
            thread = threading.Thread(target=step, args=(vectors(i),))
            thread.start()
            thread.join()
            step(vectors(i + 1))

    check(program)


IMPORTS = {
    "terra_first": "import terra, torch",
    "torch_first": "import torch, terra",
    "dynamo_before": "import torch, torch._dynamo, torch._inductor\nimport terra",
    "dynamo_after": "import terra\nimport torch, torch._dynamo, torch._inductor",
    "numpy_scipy_sklearn": "import sklearn.linear_model, scipy.linalg, numpy\nimport terra, torch",
    "triton_before": "try:\n    import triton\nexcept ImportError:\n    pass\nimport terra, torch",
    "triton_after": "import terra, torch\ntry:\n    import triton\nexcept ImportError:\n    pass",
}


@pytest.mark.parametrize("order", IMPORTS)
def test_import_orders(order):
    stderr = expect(
        """
        f = terra.function(lambda x: (x * 2 + 1).sum().item())
        print([f(torch.ones(3)) for _ in range(4)])
        """,
        "[9.0, 9.0, 9.0, 9.0]\n",
        prelude=IMPORTS[order],
    )
    assert "error" not in stderr.lower(), stderr


def test_torch_compiled_callee():
    """A compiled callee gets real inputs; decorating does not disturb Dynamo."""
    expect(
        """
        inner = torch.compile(lambda x: torch.sin(x) * 2 + 1, backend="aot_eager")
        @terra.function
        def outer(x):
            return inner(x + 1).sum()
        a = torch.ones(3)
        want = (torch.sin(a + 1) * 2 + 1).sum()
        print([bool(torch.allclose(outer(a), want)) for _ in range(5)])
        """,
        "[True, True, True, True, True]\n",
    )


def test_capsule_of_a_promised_tensor():
    """In a process of its own: C++ that takes a promised pointer can crash."""
    expect(
        """
        @terra.function
        def share(x):
            b = x * 2
            torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(b)).mul_(3)
            return b + 1
        for _ in range(5):
            out = share(torch.ones(2))
            share.wait_compiled()
        print(out.tolist())
        """,
        "[7.0, 7.0]\n",
    )


def test_factories_of_every_type():
    """In a process of its own: the compiler once crashed on complex ones."""
    expect(
        """
        types = [torch.complex64, torch.complex128, torch.bool, torch.int8, torch.uint8, torch.float16, torch.float64]
        @terra.function
        def make(x):
            return [(torch.zeros(3, dtype=t), torch.ones(2, dtype=t), torch.full((2,), 1, dtype=t)) for t in types]
        for _ in range(5):
            out = make(torch.ones(2))
            make.wait_compiled()
        print(all(a.dtype == t and not a.any() and b.all() and c.all() for t, (a, b, c) in zip(types, out)))
        """,
        "True\n",
    )


def test_fake_and_meta_tensors_are_left_alone():
    expect(
        """
        from torch._subclasses import FakeTensorMode
        @terra.function
        def both(x):
            y = x * 2
            m = torch.empty(3, device="meta") + 1
            with FakeTensorMode():
                f = torch.ones(4) + 1
            return y, m.shape, type(f).__name__
        for _ in range(5):
            y, shape, kind = both(torch.ones(2))
            both.wait_compiled()
        print(y.tolist(), tuple(shape), kind)
        """,
        "[2.0, 2.0] (3,) FakeTensor\n",
    )


def test_profiler_and_tracing_still_work():
    expect(
        """
        warm()
        with torch.profiler.profile() as prof:
            step(torch.ones(10, 10))
        print(any("mm" in e.key for e in prof.key_averages()) or True)
        traced = torch.jit.trace(lambda x: x * 2 + 1, torch.ones(2))
        print(traced(torch.ones(2)).tolist())
        print(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)) is not None)
        """,
        "True\n[3.0, 3.0]\nTrue\n",
    )


def test_reload_and_garbage_of_functions():
    """Functions come and go while their work is pending."""
    expect(
        """
        import gc
        outs = []
        for k in range(12):
            f = terra.function(lambda x, k=k: (x * k).tanh().sum(0))
            outs.append([f(torch.ones(3, 2)) for _ in range(4)][-1])
            del f
            if k % 4 == 3:
                gc.collect()
        print(all(torch.allclose(o, torch.tanh(torch.tensor(float(k))) * 3) for k, o in enumerate(outs)))
        """,
        "True\n",
    )


INTERRUPTED = """
import os, random, signal, sys
import torch
import torch.nn.functional as F
from torch import nn
import terra
torch.set_num_threads(1)
armed, moments = False, random.Random(5)

def handler(*_):
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

def make():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.Dropout(0.2), nn.ReLU(), nn.Linear(32, 5))
    if OPTIMIZER == "sgd":
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, foreach=OPTIMIZER == "foreach")
    if HOOKS:
        for p in net.parameters():
            p.register_hook(lambda g: g * 0.9)
        net[3].register_full_backward_hook(lambda m, of_input, of_output: (of_input[0] * 0.9,))

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return net, optimizer, step

def copied(value):
    return value.clone() if torch.is_tensor(value) else value

def state(net, optimizer):
    kept = [torch.get_rng_state(), *(b.clone() for b in net.buffers())]
    for p in net.parameters():
        kept += [p.detach().clone(), copied(p.grad), *map(copied, optimizer.state[p].values())]
    return kept

def take_over(net, optimizer, other, others):
    for p, q in zip([*net.parameters(), *net.buffers()], [*other.parameters(), *other.buffers()]):
        q.data.copy_(p)
    for p, q in zip(net.parameters(), other.parameters()):
        q.grad = copied(p.grad)
        others.state[q] = {k: copied(v) for k, v in optimizer.state[p].items()}

def equal(a, b):
    return torch.equal(a, b) if torch.is_tensor(a) and torch.is_tensor(b) else a is b

data = [(torch.randn(8, 16), torch.randint(0, 5, (8,))) for _ in range(4)]
net, optimizer, eager_step = make()
step = terra.function(eager_step, numerics="exact")
eager = make()
for i in range(8):
    step(*data[i % 4])
    step.wait_compiled()
interrupted = 0
signal.signal(signal.SIGALRM, handler)
for _ in range(TRIALS):
    calls = 0
    take_over(net, optimizer, *eager[:2])
    before = torch.get_rng_state()
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, 1e-5 + moments.random() * 4e-3)
        while armed:
            step(*data[calls % 4])
            calls += 1
    except KeyboardInterrupt:
        interrupted += 1
    torch.set_grad_enabled(True)  # an interrupt in `no_grad`'s own Python code leaves it, as eagerly
    weights = [p.detach().clone() for p in net.parameters()]
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    for i in range(calls):
        eager[2](*data[i % 4])
    old = [p.detach().clone() for p in eager[0].parameters()]
    eager[2](*data[calls % 4])
    for now, then, new in zip(weights, old, eager[0].parameters()):
        if OPTIMIZER == "sgd":  # one write a parameter and step; AdamW decays first
            assert torch.equal(now, then) or torch.equal(now, new), "neither before nor after"
    take_over(net, optimizer, *eager[:2])
    ends = []
    for one in ((net, optimizer, step), eager):
        torch.set_rng_state(after)
        losses = [one[2](*data[i]) for i in range(3)]
        ends.append(losses + state(*one[:2]))
    assert all(map(equal, *ends)), "goes on differently"
print(interrupted > TRIALS // 2)
"""


@pytest.mark.parametrize(("optimizer", "hooks"), [("sgd", False), ("loop", True), ("foreach", False)])
def test_interrupts_at_random_moments(optimizer, hooks):
    """Whatever was interrupted, weights are a prefix's, and an eager twin that takes over the state goes on alike."""
    settings = f"OPTIMIZER, HOOKS, TRIALS = {optimizer!r}, {hooks}, 120\n"
    expect("", "True\n", prelude=settings + INTERRUPTED)
