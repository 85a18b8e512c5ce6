"""Random small programs, eagerly and under Terra.

A program is data: a list of statements (see `fuzz_language`), run by a small interpreter on a list of live tensors, so
that a failure shrinks to a few lines and prints as something that can be pasted into `REGRESSIONS` below.
Many examples with TERRA_CONFORMANCE=1, or as many as TERRA_FUZZ_EXAMPLES says.
"""

import pytest
from fuzz_language import Machine, programs
from hypothesis import given, note
from util import check

REGRESSIONS = {
    "write_through_a_view_after_its_base_was_read": [
        ("unary", "tanh", 0), ("view", "row", 4), ("unary", "exp", 4), ("inplace", "add_", 5, 1), ("use", 4),
    ],
    "branch_by_turn_with_a_read_inside": [
        ("binary", "mul", 0, 1), ("if", ("turn", 2), [("log", 4), ("scalar", "add", 4, ("turn", 1))], [("drop", 3)]),
        ("unary", "sigmoid", 4), ("use", 5),
    ],
    "value_fused_away_survives_in_a_later_turn": [
        ("replace", "tanh", 0), ("sometimes", "use", 0, 7), ("replace", "exp", 0), ("replace", "sin", 0), ("use", 0),
    ],
    "optimizer_between_two_backwards": [
        ("binary", "matmul", 0, 2), ("backward", 4), ("optimizer",), ("binary", "mul", 2, 2),
        ("backward", 5), ("use", 4),
    ],
    "slice_that_cannot_be": [("chain", ["var", "sin", "sin"], 1), ("view", "row", 1), ("view", "turn_slice", 1)],
    "exception_after_a_write": [
        ("inplace", "mul_", 1, 0), ("raise", ("turn", 3)), ("inplace", "add_", 1, 0), ("random", "dropout", 1),
        ("use", 4),
    ],
}  # fmt: skip


def run(statements, numerics, optimizer="sgd", turns=9):
    def program(t):
        machine = Machine(statements, optimizer, numerics, t)
        t.watch(state=machine.kept, parameters=machine.parameters, optimizer=machine.optimizer)
        step = t.function(machine.step)
        for i in t.loop(turns):
            with t.catches():
                t.out(step(i))

    check(program, numerics, coexecutes=False)


@pytest.mark.parametrize("name", REGRESSIONS)
def test_regression(name, numerics):
    run(REGRESSIONS[name], numerics)


@given(program=programs(exact=True))
def test_exact(program):
    statements, optimizer = program
    note(f"run({statements!r}, 'exact', {optimizer!r})")
    run(statements, "exact", optimizer)


@given(program=programs(exact=False))
def test_fast(program):
    statements, optimizer = program
    note(f"run({statements!r}, 'fast', {optimizer!r})")
    run(statements, "fast", optimizer)
