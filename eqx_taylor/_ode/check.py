"""Checks of the arguments of ODE jets, the solver and its step size controller."""

from collections.abc import Callable, Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.core import Tracer
from jaxtyping import Array

from .._core.check import check_integer, check_scalar, describe
from .._core.custom_types import PyTree, Y


def check_order(caller: str, order: Any) -> int:
    return check_integer(caller, "order", order, least=1)


def check_state(caller: str, y0: Y) -> PyTree[Array]:
    def check(path, leaf):
        if not eqx.is_array_like(leaf):
            raise TypeError(
                f"{caller}: the state must be a PyTree of arrays; y0{jtu.keystr(path)} "
                f"is {leaf!r}."
            )
        leaf = jnp.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"{caller}: the state must be floating-point or complex, but "
                f"y0{jtu.keystr(path)} has dtype {leaf.dtype}. Convert it, or pass it "
                "through `args`."
            )
        return leaf

    return jtu.tree_map_with_path(check, y0)


def check_term(caller: str, term: Any) -> None:
    if isinstance(term, diffrax.ControlTerm):
        raise ValueError(
            f"{caller}: a `ControlTerm` is not a function of time that can be expanded "
            "in a Taylor series. If its control is differentiable, convert it to an "
            "`ODETerm` by `term.to_ode()`."
        )
    if isinstance(term, diffrax.MultiTerm):
        for part in term.terms:
            check_term(caller, part)
    elif isinstance(getattr(term, "term", None), diffrax.AbstractTerm):
        check_term(caller, term.term)  # `term` is a Diffrax wrapper of a term.


def check_tolerances(caller: str, rtol: Any, atol: Any) -> None:
    """Checks tolerances, unless they are traced."""
    for name, value in [("rtol", rtol), ("atol", atol)]:
        check_scalar(caller, name, value)
        if not isinstance(value, Tracer) and not (0 <= value < float("inf")):
            raise ValueError(
                f"{caller}: `{name}` must be finite, and not negative; got {value}."
            )
    if not isinstance(rtol, Tracer) and not isinstance(atol, Tracer):
        if rtol == 0 and atol == 0:
            raise ValueError(
                f"{caller}: one of `rtol` and `atol` must be above zero; got 0 for "
                "both, for which no step is short enough."
            )


def check_step_limits(
    caller: str, dtmin: Any, dtmax: Any, safety: Any, factormax: Any
) -> None:
    """Checks the bounds of the lengths of steps, unless they are traced."""

    def fails(condition: Callable[..., Any], *values: Any) -> bool:
        known = all(not isinstance(x, Tracer) and x is not None for x in values)
        return known and not condition(*values)

    if fails(lambda x: x >= 0, dtmin):
        raise ValueError(f"{caller}: `dtmin` must not be negative; got {dtmin}.")
    if fails(lambda x: x > 0, dtmax):
        raise ValueError(f"{caller}: `dtmax` must be positive; got {dtmax}.")
    if fails(lambda low, high: low <= high, dtmin, dtmax):
        raise ValueError(
            f"{caller}: `dtmin` must not exceed `dtmax`; got dtmin={dtmin}, "
            f"dtmax={dtmax}."
        )
    if fails(lambda x: 0 < x <= 1, safety):
        raise ValueError(f"{caller}: `safety` must be in (0, 1]; got {safety}.")
    if fails(lambda x: x > 1, factormax):
        raise ValueError(
            f"{caller}: `factormax` must be above 1, or steps never grow; got "
            f"{factormax}."
        )


def check_carried(order: int, shapes: Sequence[tuple[int, ...]]) -> None:
    """Raises if the series in a solver state does not have the order of the solver: the
    state may be that of another solver."""
    for shape in shapes:
        if shape[0] != order + 1:
            raise ValueError(
                f"TaylorSolver: `solver_state` holds a series of order {shape[0] - 1}, "
                f"and this solver is of order {order}. Resume with a solver of the "
                "same order, or leave out `solver_state`, which costs nothing."
            )


def check_unroll(name: str, unroll: Any) -> bool | None:
    if unroll is not None and not isinstance(unroll, bool):
        raise TypeError(
            f"{name}: `unroll` must be True, False or None; got {describe(unroll)}."
        )
    return unroll
