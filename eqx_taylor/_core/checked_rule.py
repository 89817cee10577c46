"""Checks of the results of users' rules. Without them, a wrong number of series, or
coefficients of another type, would cause errors far from the rule, or wrong results."""

import functools as ft
from collections.abc import Callable
from typing import Any

import jax

from .jax import name_of_call
from .protocols import Aval, JaxprEqn


def checked(read: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a rule in checks of the series that it returns, and of each coefficient."""

    @ft.wraps(read)
    def checked_read(walk, eqn, inputs):
        outputs = read(walk, eqn, inputs)
        are_series = isinstance(outputs, list | tuple) and all(
            hasattr(series, "support") for series in outputs
        )
        if not are_series or len(outputs) != len(eqn.outvars):
            returned = f"{len(outputs)} of them" if are_series else repr(outputs)
            raise ValueError(
                f"rules: the rule {_name(read)} for `{name_of_call(eqn)}` must return "
                "a list of one `eqx_taylor.rules.Series` for each output, "
                f"{len(eqn.outvars)} here; it returned {returned}."
            )
        for series, var in zip(outputs, eqn.outvars):
            check_type(read, eqn, "a series", series.aval, var.aval)
            if not series.is_kept:
                series.wrap(ft.partial(checked_step, read, eqn, var.aval))
        return list(outputs)

    return checked_read


def checked_step(
    fun: Callable[..., Any], eqn: JaxprEqn, aval: Aval, step: Callable[[int], Any]
) -> Callable[[int], Any]:
    """Wraps a function that computes coefficients in checks of their type."""

    def checked_compute(k):
        term = step(k)
        if term is not None:
            check_type(fun, eqn, f"coefficient {k}", jax.typeof(term), aval)
        return term

    return checked_compute


def check_type(
    fun: Callable[..., Any], eqn: JaxprEqn, what: str, found: Any, wanted: Any
):
    kinds = [(x.shape, x.dtype) for x in (found, wanted)]
    if kinds[0] != kinds[1]:
        is_of, must_be = (f"{dtype}{list(shape)}" for shape, dtype in kinds)
        raise ValueError(
            f"rules: the function registered for `{name_of_call(eqn)}`, {_name(fun)}, "
            f"returned {what} of type {is_of}, and the output is {must_be}: they must "
            "have the same shape and dtype. Convert it with `astype` and "
            "`jnp.broadcast_to`."
        )


def is_own(fun: Any) -> bool:
    """Returns whether a function is the package's own, which tests have checked."""
    fun = getattr(fun, "func", fun)  # It may be a `functools.partial`.
    return str(getattr(fun, "__module__", None)).startswith("eqx_taylor.")


def _name(fun: Any) -> str:
    return getattr(fun, "__qualname__", repr(fun))
