"""`terra.function`: decorate a training step, a module or a whole training loop."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import operator
import os
import sys
from collections.abc import Callable
from typing import Any

from terra import _C

_NUMERICS = ("fast", "exact")
_MODES = ("auto", "record")


class TerraFunction:
    """A function whose tensor work is recognised and computed by a graph beside it.

    Calling it runs every line of the wrapped function, as always. Results, gradients, random numbers and exceptions are
    eager's. Attributes of the wrapped function or module are reachable through this object.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        numerics: str,
        precise_errors: bool,
        mode: str,
        never_slower: bool,
        compile_budget_seconds: float = 60.0,
    ) -> None:
        self._fn = fn
        options = {
            "numerics": numerics,
            "precise_errors": precise_errors,
            "mode": mode,
            "never_slower": never_slower,
        }
        self._options = {**options, "compile_budget_seconds": compile_budget_seconds}
        self._session = _C.Session(**options)
        _C.set_compile_budget(self._session, compile_budget_seconds)
        self._bound: dict[int, TerraFunction] = {}
        functools.update_wrapper(self, fn, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._session.call(self._fn, *args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Methods decorated in a class body: one graph for all instances."""
        if instance is None:
            return self
        return functools.partial(self.__call__, instance)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_fn":
            raise AttributeError(name)
        return getattr(self._fn, name)

    def __reduce__(self) -> Any:
        """What is found by its name, as functions are, stays so; anything else is wrapped anew."""
        name = getattr(self, "__qualname__", "")
        with contextlib.suppress(AttributeError, KeyError):
            if operator.attrgetter(name)(sys.modules[self.__module__]) is self:
                return name
        return _wrap, (self._fn, self._options)

    def __copy__(self) -> TerraFunction:
        return self if inspect.isfunction(self._fn) else TerraFunction(self._fn, **self._options)

    def __deepcopy__(self, memo: dict[int, Any]) -> TerraFunction:
        if inspect.isfunction(self._fn):
            return self
        return TerraFunction(copy.deepcopy(self._fn, memo), **self._options)

    def __repr__(self) -> str:
        return f"<terra.function of {self._fn!r}>"

    def stats(self) -> dict[str, Any]:
        """Counts and times so far.

        regions_recorded, regions_coexecuted, regions_diverged, regions_failed: calls of the function; regions_eager:
        calls without the graph, for comparison or because the function is given_back (to eager); verdicts: comparisons
        made; graph_call_seconds, eager_call_seconds: what a call cost either way in the last one; events, gates:
        recognised or recorded op calls; side_runs: reads of values that Python computed itself instead of waiting for
        the graph; skeleton_seconds: Python's own time inside regions; wait_seconds: time in which
        Python waited for the graph; graph_seconds: time in which the GraphRunner worked (of the whole process);
        pieces, pieces_stepped: parts of backwards with hooks that were recognised as a whole, or run node by node;
        compile_seconds: processor time of background compilation; kernels_compiled: compiled kernels that its segments
        use; kernels_from_disk: different kernels that the cache on disk had; kernels_left: those not compiled because
        the budget was spent.
        """
        result = self._session.stats()
        cost = _C.compile_cost(self._session)
        result.update({name: cost[name] for name in ("kernels_from_disk", "kernels_left")})
        result["graph_seconds"] = _C.graph_seconds()
        return result

    def wait_compiled(self) -> None:
        """Block until no compilation of this function is pending."""
        self._session.wait_compiled()


def _wrap(fn: Callable[..., Any], options: dict[str, Any]) -> TerraFunction:
    return TerraFunction(fn, **options)


def function(
    fn: Callable[..., Any] | None = None,
    *,
    numerics: str = "fast",
    precise_errors: bool = False,
    mode: str = "auto",
    never_slower: bool | None = None,
    compile_budget_seconds: float = 60.0,
) -> Any:
    """Decorate a callable: a training step, a whole training loop, a module, a bound method.

    Args:
        fn: the callable. Without it, returns a decorator with the given options.
        numerics: "fast" compiles fused kernels, with differences from eager in the last bits; "exact" runs PyTorch's
            own kernels only, bit for bit as eager.
        precise_errors: operations that can fail on data (an index out of range) run at once, so that their errors
            appear exactly where eager raises them.
        mode: "auto", or "record" to only record and never co-execute (for measuring).
        never_slower: now and then some calls are run eagerly and timed; a function whose graph clearly loses against
            that runs eagerly from then on, until a later comparison says otherwise. `stats()` and `terra.explain` tell.
            False: always the graph. The default is True, unless the environment has TERRA_NEVER_SLOWER=0.
        compile_budget_seconds: processor time that may be spent on compiling, in the background. What is not compiled
            by then stays with PyTorch's kernels; `terra.explain` says how much that is.

    Raises:
        TypeError: `fn` is not callable.
        ValueError: an option has an unknown value.
    """
    if numerics not in _NUMERICS:
        raise ValueError(
            f"terra.function: numerics is {numerics!r}; it must be one of {', '.join(map(repr, _NUMERICS))}"
        )
    if mode not in _MODES:
        raise ValueError(f"terra.function: mode is {mode!r}; it must be one of {', '.join(map(repr, _MODES))}")
    if not compile_budget_seconds >= 0:
        raise ValueError(
            f"terra.function: compile_budget_seconds is {compile_budget_seconds!r}; it must not be negative"
        )
    options = {
        "numerics": numerics,
        "precise_errors": precise_errors,
        "mode": mode,
        "never_slower": os.environ.get("TERRA_NEVER_SLOWER") != "0" if never_slower is None else never_slower,
        "compile_budget_seconds": compile_budget_seconds,
    }
    if fn is None:
        return functools.partial(function, **options)
    if not callable(fn):
        raise TypeError(
            f"terra.function needs a callable (a function, a method or a module), got {type(fn).__name__}: {fn!r}"
        )
    return TerraFunction(fn, **options)
