"""`nn.Module.__call__` and `__getattr__` served by C++ mean exactly what PyTorch's own mean.

A case runs once with PyTorch's own code and once served, and returns or raises; both must agree. `serves` says whether
C++ had to answer at least once, so that a case cannot pass because nothing was served.
"""

import copy
import functools
import io
import pickle
import sys
import threading
import types

import pytest
import torch
from module_calls import check
from snapshot import freeze
from terra import _C, _module
from torch import nn
from torch.nn.utils import parametrize


@pytest.fixture(autouse=True)
def as_installed():
    yield
    _module.serve("regions")


class Add(nn.Module):
    def __init__(self, value=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value))
        self.register_buffer("scale", torch.tensor(2.0))
        self.child = nn.Identity()
        self.plain = "plain"

    def forward(self, x, *, times=1):
        return self.child(x) + self.weight * self.scale * times


X = torch.ones(2)

# --- calls -----------------------------------------------------------------------------------------------------------


def test_plain_calls_are_served_with_their_arguments():
    check(lambda: Add()(X), calls=2, lookups=3)
    check(lambda: Add()(X, times=3), calls=2)
    check(lambda: Add()(*[X], **{"times": 2}), calls=2)
    check(lambda: nn.Module.__call__(Add(), X), calls=True)
    check(lambda: Add()(), calls=1)
    check(lambda: Add()(X, 2, oops=1), calls=1)
    check(lambda: nn.Module()(X), calls=1)


def test_keyword_dictionary_of_the_caller_stays_its_own():
    class Greedy(nn.Module):
        def forward(self, **kwargs):
            return kwargs

    def case():
        mine = {"a": 1}
        theirs = Greedy()(**mine)
        theirs["b"] = 2
        return mine

    check(case, calls=True)


def hooked(register):
    """A model of two layers with hooks that `register(model, log)` adds; returns everything seen."""

    def case():
        log = []
        model = nn.Sequential(Add(1.0), Add(2.0))
        handles = register(model, log)
        x = torch.ones(2, requires_grad=True)
        out = model(x)
        out.sum().backward()
        for handle in handles:
            handle.remove()
        log += [out, x.grad, [p.grad for p in model.parameters()], model(X)]
        return log

    return case


def note(log, *values):
    log.append([v if isinstance(v, (int, str)) else freeze(v) for v in values])


HOOKS = {
    "forward_pre": lambda m, log: [m[0].register_forward_pre_hook(lambda _, a: note(log, "pre", a))],
    "forward_pre_changes": lambda m, log: [m[0].register_forward_pre_hook(lambda _, a: a[0] * 3)],
    "forward_pre_bad": lambda m, log: [m[0].register_forward_pre_hook(lambda _, a, k: 3, with_kwargs=True)],
    "forward_pre_kwargs": lambda m, log: [
        m[1].register_forward_pre_hook(lambda _, a, k: (a, {"times": 5}), with_kwargs=True)
    ],
    "forward": lambda m, log: [m[0].register_forward_hook(lambda _, a, r: note(log, "forward", a, r))],
    "forward_changes": lambda m, log: [m[0].register_forward_hook(lambda _, a, r: r * 2)],
    "forward_kwargs": lambda m, log: [
        m[0].register_forward_hook(lambda _, a, k, r: note(log, "kwargs", k), with_kwargs=True)
    ],
    "forward_always": lambda m, log: [
        m[0].register_forward_hook(lambda _, a, r: note(log, "always", a), always_call=True)
    ],
    "backward": lambda m, log: [m[0].register_full_backward_hook(lambda _, i, o: note(log, "backward", i, o))],
    "backward_changes": lambda m, log: [m[1].register_full_backward_hook(lambda _, i, o: (i[0] * 7,))],
    "backward_pre": lambda m, log: [m[0].register_full_backward_pre_hook(lambda _, o: (o[0] * 5,))],
    "backward_old": lambda m, log: [m[1].register_backward_hook(lambda _, i, o: note(log, "old", len(i), len(o)))],
    "outer": lambda m, log: [m.register_forward_hook(lambda _, a, r: r + 1)],
    "removed": lambda m, log: [m[0].register_forward_hook(lambda _, a, r: r + 1).remove()] and [],
    "two": lambda m, log: [
        m[0].register_forward_hook(lambda _, a, r: r + 1),
        m[0].register_forward_hook(lambda _, a, r: r * 2, prepend=True),
    ],
}
GLOBAL = nn.modules.module
GLOBAL_HOOKS = {
    "forward_pre": lambda m, log: [GLOBAL.register_module_forward_pre_hook(lambda n, a: note(log, type(n).__name__))],
    "forward": lambda m, log: [GLOBAL.register_module_forward_hook(lambda n, a, r: r + 1)],
    "forward_always": lambda m, log: [
        GLOBAL.register_module_forward_hook(lambda n, a, r: note(log, type(n).__name__), always_call=True)
    ],
    "backward": lambda m, log: [
        GLOBAL.register_module_full_backward_hook(lambda n, i, o: note(log, type(n).__name__, len(i)))
    ],
    "backward_pre": lambda m, log: [GLOBAL.register_module_full_backward_pre_hook(lambda n, o: (o[0] * 2,))],
    "backward_old": lambda m, log: [
        GLOBAL.register_module_backward_hook(lambda n, i, o: note(log, type(n).__name__, len(o)))
    ],
}


@pytest.mark.parametrize("name", HOOKS)
def test_hooks_of_a_module_run(name):
    check(hooked(HOOKS[name]), calls=True)


@pytest.mark.parametrize("name", GLOBAL_HOOKS)
def test_hooks_of_all_modules_run(name):
    run = hooked(GLOBAL_HOOKS[name])

    def case():
        GLOBAL._global_is_full_backward_hook = None  # PyTorch wants one kind a process
        return run()

    check(case, calls=True)  # after their removal


def test_always_called_hooks_run_when_forward_raises():
    def case():
        log, model = [], Add()
        model.register_forward_hook(lambda _, a, r: note(log, "ran", r is None), always_call=True)
        with pytest.raises(TypeError):
            model(X, nonsense=1)
        return log

    check(case)


def test_hooks_added_while_a_call_runs_act_from_the_next_call():
    def case():
        model, log = Add(), []
        model.child.forward = lambda x: (model.register_forward_hook(lambda *_: log.append("hook")), x)[1]
        model(X), model(X)
        return log

    check(case, calls=True)


class OwnCall(Add):
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs) * 10


class OwnCallImpl(Add):
    def _call_impl(self, *args, **kwargs):
        return super()._call_impl(*args, **kwargs) * 100


class StaticForward(nn.Module):
    @staticmethod
    def forward(x):
        return x + 1


class ClassForward(nn.Module):
    @classmethod
    def forward(cls, x):
        return [cls.__name__, x]


class PartialForward(nn.Module):
    def compute(self, factor, x):
        return x * factor

    forward = functools.partialmethod(compute, 3)


class PropertyForward(nn.Module):
    @property
    def forward(self):
        self.reads = getattr(self, "reads", 0) + 1
        return lambda x: x + self.reads


class CallableForward(nn.Module):
    class Body:
        def __call__(self, x):
            return x * 4

    forward = Body()


class HooksOnClass(Add):
    _forward_hooks = property(lambda self: {0: lambda m, a, r: r + 1000}, lambda self, value: None)


class OwnGetattribute(Add):
    def __getattribute__(self, name):
        if name == "forward":
            return lambda x: x + 50
        return super().__getattribute__(name)


class OwnDict(Add):
    hidden = nn.Parameter(torch.tensor(9.0))

    @property
    def __dict__(self):
        return {**super().__getattribute__("__dict__"), "_parameters": {"weight": self.hidden}}


class CompiledCall(Add):
    _compiled_call_impl = staticmethod(lambda x: x * 77)


@pytest.mark.parametrize(
    "kind", [OwnCall, OwnCallImpl, StaticForward, ClassForward, PartialForward, PropertyForward, CallableForward,
             HooksOnClass, OwnGetattribute, OwnDict, CompiledCall], ids=lambda kind: kind.__name__,
)  # fmt: skip
def test_overriding_in_a_class(kind):
    def case():
        module = kind()
        return [module(X), module(X), vars(module).get("reads")]

    check(case)


def override(**attributes):
    def case():
        module = Add()
        for name, value in attributes.items():
            object.__setattr__(module, name, value)
        return [module(X)]

    return case


def test_overriding_in_an_instance():
    check(override(forward=lambda x: x * 5), calls=1)
    check(override(forward=functools.partial(torch.mul, torch.tensor(6.0))), calls=1)
    check(override(forward=Add(4.0)), calls=3)
    check(override(forward=None), calls=1)
    check(override(_call_impl=lambda x: x * 8), calls=0)
    check(override(_compiled_call_impl=lambda x: x * 9), calls=0)
    check(override(__call__=lambda x: x * 9), calls=2)  # Python looks at the class only
    check(override(_forward_hooks=None), calls=True)
    check(override(_forward_hooks={}), calls=2)
    check(override(_forward_hooks=types.MappingProxyType({1: lambda m, a, r: r + 1})))


def test_redefining_a_class_takes_effect_at_once():
    def case():
        class Changing(Add):
            pass

        class Sub(Changing):
            pass

        module, results = Sub(), []
        for changed in (None, lambda self, x: x + 1, lambda self, x: x + 2):
            if changed:
                Changing.forward = changed
            results.append(module(X))
        Sub._call_impl = lambda self, x: "mine"
        results.append(module(X))
        del Sub._call_impl
        Changing.__call__ = lambda self, x: "call"
        results.append(module(X))
        del Changing.__call__
        Sub.__bases__ = (Add,)
        results.append(module(X))
        return results

    check(case, calls=True)


def test_replacing_module_methods_for_all_classes():
    def case():
        log, model = [], nn.Sequential(Add(), Add())
        call, lookup = nn.Module.__call__, nn.Module.__getattr__
        weight = model[0].weight

        def logging_call(self, *args, **kwargs):
            log.append(type(self).__name__)
            return call(self, *args, **kwargs)

        def logging_lookup(self, name):
            log.append(name)
            return lookup(self, name)

        nn.Module.__call__, nn.Module.__getattr__ = logging_call, logging_lookup
        try:
            log += [model(X), model[0].weight is weight]
        finally:
            nn.Module.__call__, nn.Module.__getattr__ = call, lookup
        return [*log, model(X)]

    check(case, calls=True, lookups=True)


def test_replacing_the_code_of_call_impl_takes_effect():
    def case():
        own = nn.Module._call_impl.__code__

        def other(self, *args, **kwargs):
            return "other"

        nn.Module._call_impl.__code__ = other.__code__
        try:
            return Add()(X)
        finally:
            nn.Module._call_impl.__code__ = own

    check(case, calls=0)


def test_modules_without_init():
    class NoInit(nn.Module):
        def __init__(self):
            pass

        def forward(self, x):
            return x

    check(lambda: NoInit()(X))
    check(lambda: NoInit().weight)
    check(lambda: nn.Module.__new__(Add)(X))


def test_endless_recursion_raises():
    class Deep(nn.Module):
        def forward(self, x):
            return self(x)

    def through_attributes():
        module = Add()
        object.__setattr__(module, "forward", module)
        return module(X)

    _module.serve("always")
    for case in (lambda: Deep()(X), through_attributes):
        with pytest.raises(RecursionError):
            case()


# --- attributes ------------------------------------------------------------------------------------------------------


class Masked(Add):
    @property
    def broken(self):
        return self.missing_inside

    @property
    def weight_property(self):
        return self.weight

    @property
    def scale(self):  # raises, and then the buffer of this name is found
        raise AttributeError("hidden by the buffer")

    @scale.setter
    def scale(self, value):
        raise AssertionError

    @property
    def other_error(self):
        raise KeyError("other")


class Fallback(nn.Module):
    """Wraps another module, as many libraries do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)


class Counting(dict):
    def __contains__(self, key):
        return key == "made_up" or super().__contains__(key)

    def __getitem__(self, key):
        return "made up" if key == "made_up" else super().__getitem__(key)


def test_attributes():
    names = ("weight", "scale", "child", "plain", "training", "forward_hooks", "_parameters", "", "no such thing", "é")
    for name in names:
        check(lambda name=name: getattr(Add(), name))
        check(lambda name=name: hasattr(Add(), name))
        check(lambda name=name: getattr(Add(), name, "default"))
    check(lambda: Add().weight, lookups=1)
    check(lambda: getattr(nn.Linear(2, 2, bias=False), "bias"), lookups=True)  # noqa: B009
    check(lambda: nn.Module.__getattr__(Add(), "plain"))
    check(lambda: getattr(Add(), type("Text", (str,), {})("weight")))
    check(lambda: Add().__getattr__(3))
    check(lambda: nn.Module.__getattr__(Add()))
    check(lambda: nn.Module.__getattr__(types.SimpleNamespace(_buffers={"a": 1}), "a"))
    check(lambda: nn.Module.__getattr__(3, "a"))


@pytest.mark.parametrize("name", ["broken", "weight_property", "scale", "other_error", "missing_inside"])
def test_properties(name):
    def case():
        module = nn.Module.__new__(Masked)
        nn.Module.__init__(module)
        module.weight = nn.Parameter(torch.ones(1))
        module._buffers["scale"] = torch.ones(3)
        return getattr(module, name)

    check(case)


def test_text_of_missing_attributes():
    _module.serve("always")
    with pytest.raises(AttributeError, match="^'Add' object has no attribute 'wieght'$") as caught:
        Add().wieght  # noqa: B018
    assert caught.value.name == "wieght" and isinstance(caught.value.obj, Add)


def test_own_getattr_with_super():
    check(lambda: Fallback(Add()).weight)
    check(lambda: Fallback(Add()).inner.weight, lookups=True)
    check(lambda: Fallback(Fallback(Add())).plain)
    check(lambda: Fallback(Add()).nothing)


def test_dictionaries_of_other_types():
    def case(kind, name):
        module = Add()
        module.__dict__[kind] = Counting(module.__dict__[kind])
        return getattr(module, name)

    for kind in ("_parameters", "_buffers", "_modules"):
        for name in ("weight", "made_up", "child", "nothing"):
            check(lambda kind=kind, name=name: case(kind, name))


def test_one_name_in_several_places():
    def case():
        module, seen = Add(), []
        module._buffers["weight"] = module._modules["weight"] = torch.zeros(2)
        seen.append(module.weight)
        del module._parameters["weight"]
        seen.append(module.weight)
        del module._buffers
        seen.append(module.weight)
        module.__dict__["weight"] = "instance"
        seen.append(module.weight)
        type(module).weight = property(lambda self: "class")
        try:
            seen.append(module.weight)
        finally:
            del type(module).weight
        return seen

    check(case, lookups=True)


def test_getattr_and_getattribute_added_to_a_class_in_use():
    def case():
        class Late(Add):
            pass

        module = Late()
        seen = [module.weight, module.weight]
        Late.__getattr__ = lambda self, name: f"own {name}"
        seen += [module.weight, module.nothing]
        del Late.__getattr__
        seen += [module.weight]
        Late.__getattribute__ = lambda self, name: "all"
        seen += [module.weight, module.plain]
        del Late.__getattribute__
        return [*seen, module.weight, module.plain]

    check(case, lookups=True)


def test_lookups_of_classes_made_from_a_class_in_use():
    def case():
        first = Add()
        seen = [first.weight, first.weight]
        made = type("Made", (Add,), {"__getattr__": lambda self, name: f"made {name}"})
        return [*seen, made().weight, type("Plain", (Add,), {})().weight]

    check(case, lookups=True)


def test_pickling_and_copying():
    def case():
        module = nn.Sequential(Add(), nn.BatchNorm1d(2))
        module[0].register_forward_hook(forward_hook)
        again = pickle.loads(pickle.dumps(module))
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        x = torch.randn(3, 2)
        return [copy.deepcopy(module)(x), copy.copy(module)(x), again(x), loaded(x)]

    check(case, calls=True)


def forward_hook(module, args, result):
    return result + 1


def test_methods_look_as_they_did():
    _module.serve("always")
    assert nn.Module.__call__ is nn.Module._wrapped_call_impl is _module.torch.nn.Module.__dict__["__call__"]
    for method in (nn.Module.__call__, nn.Module.__getattr__, nn.Module._call_impl):
        assert type(method) is types.FunctionType
        assert method.__module__ == "torch.nn.modules.module"
        assert method.__code__.co_filename.endswith("module.py")
    assert type(Add().__call__) is types.MethodType


# --- threads, tracers, profilers -------------------------------------------------------------------------------------


def test_threads_calling_while_classes_change():
    _module.serve("always")

    class Shared(Add):
        pass

    module, failures, done = Shared(), [], threading.Event()

    def call():
        try:
            while not done.is_set():
                assert module(X).tolist() == [3.0, 3.0]
                assert module.weight is module._parameters["weight"]
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(300):
        Shared.counter = i
        Shared.forward = lambda self, x, i=i: Add.forward(self, x)
        module.register_forward_hook(lambda *_: None).remove()
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_settrace_and_profilers_see_every_frame():
    _module.serve("always")
    for install in (sys.settrace, sys.setprofile):
        names, module = [], Add()
        before = _C.module_call_counts()
        install(lambda frame, event, arg: names.append(frame.f_code.co_name))  # noqa: B023
        try:
            module(X)
        finally:
            install(None)
        assert {"_wrapped_call_impl", "_call_impl", "__getattr__", "forward"} <= set(names)
        assert _C.module_call_counts() == before


def test_module_hierarchy_of_the_torch_profiler():
    def modules():
        with torch.profiler.profile(with_stack=True, with_modules=True) as profile:
            Add()(X)
        return {event.name for event in profile.events() if event.name.startswith("nn.Module")}

    _module.serve("never")
    own = modules()
    _module.serve("always")
    assert own and modules() == own


def test_parametrizations():
    class Double(nn.Module):
        def forward(self, x):
            return x * 2

        def right_inverse(self, x):
            return x / 2

    def case():
        layer = nn.Linear(2, 2)
        parametrize.register_parametrization(layer, "weight", Double())
        normed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        with parametrize.cached():
            seen = [layer(X), layer.weight, normed(X), normed.weight]
        layer.weight = torch.ones(2, 2)
        seen.append(layer(X))
        parametrize.remove_parametrizations(layer, "weight")
        return [*seen, layer(X), layer.weight, nn.utils.spectral_norm(nn.Linear(2, 2))(X)]

    check(case, calls=True)
