"""Checks of the arguments of jets, and of the operators that are computed from them."""

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from .._core.check import describe, dtype_kind, is_none
from .._core.custom_types import PyTree
from .._core.terms import Term


# -- the series of a jet


def check_primals(
    caller: str, fun: Any, primals: Any, series: Any, kwargs: dict[str, Any]
) -> None:
    if not callable(fun):
        raise TypeError(f"{caller}: `fun` must be callable; got {describe(fun)}.")
    for name, value in [("primals", primals), ("series", series)]:
        if not isinstance(value, tuple | list) or hasattr(value, "_fields"):
            raise TypeError(
                f"{caller}: `{name}` must be a tuple with one entry for each argument "
                f"of `fun`; got {describe(value)}. For one argument write "
                f"`({name[:1]},)`."
            )
    if len(primals) != len(series):
        raise ValueError(
            f"{caller}: `primals` and `series` must have one entry each for every "
            f"argument of `fun`; got {len(primals)} primals and {len(series)} series."
        )
    try:
        signature = inspect.signature(fun)
    except (TypeError, ValueError):
        return  # Some built-in functions have none.
    try:
        signature.bind(*primals, **kwargs)
    except TypeError as e:
        count = f"{len(primals)} primal" + ("" if len(primals) == 1 else "s")
        keywords = f" and the keywords {', '.join(kwargs)}" if kwargs else ""
        raise TypeError(
            f"{caller}: `fun` cannot be called with {count}{keywords}: {e}."
        ) from e


def check_keywords(fun: Callable, kwargs: dict[str, Any]) -> None:
    """Raises for a misspelt `factorial_scaled`, which would be passed on to `fun`."""
    try:
        own = inspect.signature(fun).parameters
    except (TypeError, ValueError):
        own = {}
    for name in kwargs:
        if name not in own and difflib.get_close_matches(
            name, ["factorial_scaled"], cutoff=0.8
        ):
            raise TypeError(
                f"filter_jet: unknown keyword `{name}`. Did you mean "
                "`factorial_scaled`?"
            )


def common_order(caller: str, lengths: dict[str, int]) -> int:
    if len(lengths) == 0:
        raise ValueError(
            f"{caller}: at least one entry of `series` must be a sequence of terms: "
            "its length is the order. If all arguments are constant, pass `[None] * "
            "order`."
        )
    if len(set(lengths.values())) > 1:
        given = ", ".join(f"{n} for {name}" for name, n in lengths.items())
        raise ValueError(
            f"{caller}: all series must have the same number of terms, the order of "
            f"the jet; got {given}. Pad the shorter ones with zeros"
            + (" or `None`." if caller != "jet" else ".")
        )
    [order] = set(lengths.values())
    if order < 1:
        raise ValueError(
            f"{caller}: a series must have at least one term (order 1); got an empty "
            "one. For the value alone, call `fun`."
        )
    return order


def term_leaves(
    caller: str, primals: Sequence[PyTree], terms: Sequence[PyTree], k: int
):
    """Returns the leaves of the terms of order `k`, one for each leaf of the
    primals."""
    found = []
    for i, (primal, term) in enumerate(zip(primals, terms)):
        leaves, treedef = jtu.tree_flatten(primal, is_leaf=is_none)
        if term is None:
            found.extend([None] * len(leaves))
            continue
        try:
            found.extend(treedef.flatten_up_to(term))
        except ValueError as e:
            raise ValueError(
                f"{caller}: the term of order {k} in series[{i}] must have the "
                f"structure of primals[{i}], with None for leaves that are constant.\n"
                f"primals[{i}]: {eqx.tree_pformat(primal)}\n"
                f"series[{i}][{k - 1}]: {eqx.tree_pformat(term)}"
            ) from e
    return found


def as_primal(caller: str, name: str, primal: Any) -> Array:
    if not eqx.is_array_like(primal):
        raise TypeError(
            f"{caller}: {name} is {describe(primal)}, which cannot be differentiated, "
            "but its series is not None. Pass None as its series."
        )
    return jnp.asarray(primal)


def as_term(caller: str, name: str, k: int, primal: Array, term: Any) -> Term:
    if term is None or _is_float0(term):
        return None
    if not eqx.is_array_like(term):
        raise TypeError(
            f"{caller}: the term of order {k} of {name} must be an array"
            + (" or None" if caller != "jet" else "")
            + f"; got {describe(term)}."
        )
    if not jnp.issubdtype(primal.dtype, jnp.inexact):
        if _is_concrete_zero(term):
            return None
        raise TypeError(
            f"{caller}: {name} has dtype {primal.dtype}, which cannot be "
            f"differentiated, but its term of order {k} is not "
            + ("known to be " if isinstance(term, Tracer) else "")
            + "zero. Pass "
            + ("None as its series" if caller != "jet" else "zeros")
            + ", or convert the primal to a floating-point dtype."
        )
    if jnp.shape(term) != primal.shape:
        raise ValueError(
            f"{caller}: the term of order {k} of {name} has shape {jnp.shape(term)}, "
            f"but the primal has shape {primal.shape}. They must be equal."
        )
    dtype = jnp.result_type(term)
    if dtype_kind(dtype) > dtype_kind(primal.dtype) or (
        not isinstance(term, bool | int | float | complex)
        and jnp.issubdtype(dtype, jnp.inexact)
        and jnp.finfo(dtype).nmant > jnp.finfo(primal.dtype).nmant
    ):
        raise TypeError(
            f"{caller}: the term of order {k} of {name} has dtype {dtype}, which does "
            f"not fit into the primal's dtype {primal.dtype}. Convert one of them."
        )
    if not isinstance(term, jax.Array) and _is_concrete_zero(term):
        return None  # A zero that is known while tracing costs nothing.
    return jnp.asarray(term, dtype=primal.dtype)


def _is_float0(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == jax.dtypes.float0


def _is_concrete_zero(x: Any) -> bool:
    return not isinstance(x, Tracer) and not np.any(np.asarray(x))


# -- the function and the point of an operator


def check_function(caller: str, fun: Any, /, *args: Any, **kwargs: Any) -> None:
    if not callable(fun):
        raise TypeError(f"{caller}: `fun` must be callable; got {describe(fun)}.")
    try:
        inspect.signature(fun).bind(*args, **kwargs)
    except TypeError as e:
        raise TypeError(
            f"{caller}: `fun` cannot be called with these arguments: {e}. Pass its "
            f"further arguments after those of `{caller}`, or by keyword."
        ) from e
    except ValueError:
        pass  # Some built-in functions have no signature.


def check_floating(caller: str, name: str, array: Array) -> None:
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        raise TypeError(
            f"{caller}: {name} has dtype {array.dtype}, which cannot be "
            "differentiated. Convert it to floating point, or close over it if it is "
            "not to be differentiated."
        )
