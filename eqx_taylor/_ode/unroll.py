"""The choice between two programs for the series of a solution: one that contains all
orders, one after the other, and one with a loop over orders."""

import functools as ft
import warnings
from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array

from .._core.jax import close, evaluate, is_literal, live_equations, trace
from .._core.order import TooEarly, Unrollable
from .._core.primitives import callee, CALLS
from .._core.protocols import Jaxpr
from .._core.rolled import OrderLoop, rolled
from .._core.rule import RULES, target_key
from .._core.series import mask, unknown
from .._core.terms import scale
from .._core.walk import Walk
from .check import check_unroll


# The number of equations above which `unroll=None` chooses a loop. XLA's CPU compiler
# takes 1 to 2 ms of CPU time for each equation of an unrolled program (a tanh MLP
# 8-24-24-8 at order 12: 614 equations, 0.95 s; the outer Solar System: 857, 1.1 s), so
# about half a minute for this number. A loop compiles in a second or two.
#
# The number is high because a loop takes longer to run: solves at order 12 take 1.2 to
# 1.3 times as long (`benchmarks/first_result.py`).
_LARGEST_UNROLLED = 20_000

# The largest number of passes that are computed before the loop.
_PASSES_BEFORE = 3

# The kinds of rules for which a coefficient takes one operation, and no products.
_LINEAR = ("linear", "piecewise linear", "zero")


def is_unrolled(caller: str, unroll: bool | None, jaxpr: Jaxpr, order: int) -> bool:
    if check_unroll(caller, unroll) is None:
        every = [True] * len(jaxpr.jaxpr.invars)
        return _count(jaxpr, every, order)[0] <= _LARGEST_UNROLLED
    return bool(unroll)


def _count(jaxpr: Jaxpr, moving: Sequence[bool], order: int) -> tuple[int, list[bool]]:
    """Estimates the number of equations of an unrolled jet. Also returns which outputs
    depend on the inputs that are `moving`."""
    moves = dict(zip(jaxpr.jaxpr.invars, moving))
    total = 0
    for eqn in live_equations(jaxpr):
        flags = [not is_literal(x) and moves.get(x, False) for x in eqn.invars]
        moves.update(dict.fromkeys(eqn.outvars, any(flags)))
        if not any(flags):
            continue
        name = eqn.primitive.name
        if name in CALLS and CALLS[name].is_read_in_place:
            count, outs = _count(close(callee(eqn)), flags, order)
            total += count
            moves.update(zip(eqn.outvars, outs))
            continue
        rule = RULES.get(target_key(eqn)) or RULES.get(name)
        is_linear = rule is not None and (
            rule.kind in _LINEAR or rule.factors is not None and sum(flags) == 1
        )
        # Half of `order**2` products, and as many additions.
        total += order if is_linear else order**2
    outs = [not is_literal(x) and moves.get(x, False) for x in jaxpr.jaxpr.outvars]
    return total, outs


def lift(k: Any, term: Any) -> Any:
    """Converts a coefficient of the slope to the next one of the solution:
    y' = f  =>  y_{k+1} = f_k / (k + 1)."""
    return scale(term, 1 / (k + 1))


def expand_in_loop(
    caller: str,
    unroll: bool | None,
    jaxpr: Jaxpr,
    order: int,
    arrays: Sequence[Array],
) -> list[Array] | None:
    """Computes the stacked terms of each leaf of a solution by a loop over orders.
    `arrays` are those that `_in_loop` takes. If there is no such loop, it returns
    `None`, with a warning if the user asked for the loop."""
    start = 1
    while True:
        fun = ft.partial(_in_loop, order, start, jaxpr)
        try:
            # The program is traced separately, so that a failed attempt leaves nothing.
            return evaluate(trace(fun, *map(jax.typeof, arrays)), arrays)
        except TooEarly as e:
            error = e
            start = max(e.passes, start + 1)
            if start <= _PASSES_BEFORE:
                continue
        except Unrollable as e:
            error = e
        if unroll is not None:
            primitive = error.primitive
            what = "the field" if primitive is None else f"the rule of `{primitive}`"
            warnings.warn(
                f"{caller}: `unroll=False` has no effect, as {what} cannot be written "
                f"as a loop over orders: {error}.",
                stacklevel=3,
            )
        return None


def _in_loop(
    order: int, start: int, jaxpr: Jaxpr, dt: Array, *arrays: Array
) -> list[Array]:
    """Computes a jet by a loop over orders, except for the first passes. `arrays` are
    `t, *leaves` at the point, and also ahead of it if the field has decisions."""
    variables = jaxpr.jaxpr.invars
    point, ahead = arrays[: len(variables)], arrays[len(variables) :]
    loop = OrderLoop(order, start)
    walk = Walk(order, loop=loop)
    # Time counts as unknown, so that functions of it are computed in the loop, too.
    time = unknown(variables[0].aval, mask(1), [point[0], dt])
    state = [
        unknown(var.aval, mask(order), [leaf])
        for var, leaf in zip(variables[1:], point[1:])
    ]
    loop.contain(state, [time])
    for series, value in zip([time, *state], ahead):
        series.look_ahead(lambda value=value: value)
    slopes = walk.interpret(jaxpr, [time, *state])
    return rolled(walk, loop, state, slopes, lift)
