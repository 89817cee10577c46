"""What users may pass, and what they are told if it is something else.

All checks happen while tracing, before the first operation. `caller` is the public
function whose name the message begins with.
"""

import difflib
import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

from .custom_types import Y
from .jax import as_type
from .terms import Term


# What JAX raises for Python control flow, and for NumPy, on a traced value.
UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def untraceable(caller: str, what: str, error: Exception) -> TypeError:
    return TypeError(
        f"{caller}: the Python code of {what} depends on the value of an array that "
        "is traced, because it moves or because of `jit` or `vmap`. The function "
        "is read once, as by `jax.jit`: use `jnp.where`, `jax.lax.cond` or "
        "`jax.lax.while_loop` in the place of `if` and `while`, `jax.numpy` for "
        f"`numpy`, and Python numbers for what does not move.\n{error}"
    )


# -- the series of a jet


def is_none(x: Any) -> bool:
    return x is None


def describe(x: Any) -> str:
    if eqx.is_array_like(x) and not isinstance(x, bool | int | float | complex):
        return f"an array of shape {jnp.shape(x)} and dtype {jnp.result_type(x)}"
    return f"{x!r} (a {type(x).__name__})"


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
    """A keyword that is not ours goes to `fun`, which may well swallow it."""
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
            "its length is the order. To have nothing move, pass `[None] * order`."
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
    """The leaves of the terms of order `k`, one for each leaf of the primals."""
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
                f"structure of primals[{i}], with None for leaves that do not move.\n"
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
    if _kind(dtype) > _kind(primal.dtype) or (
        not isinstance(term, bool | int | float | complex)
        and jnp.issubdtype(dtype, jnp.inexact)
        and jnp.finfo(dtype).nmant > jnp.finfo(primal.dtype).nmant
    ):
        raise TypeError(
            f"{caller}: the term of order {k} of {name} has dtype {dtype}, which does "
            f"not fit into the primal's dtype {primal.dtype}. Convert one of them."
        )
    if not isinstance(term, jax.Array) and _is_concrete_zero(term):
        return None  # A zero that was written as such: nothing need be computed.
    term = jnp.asarray(term, dtype=primal.dtype)
    return as_type(jax.typeof(primal), term)


def _kind(dtype: Any) -> int:
    """Booleans and integers, real, complex."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return 2
    return 1 if jnp.issubdtype(dtype, jnp.floating) else 0


def _is_float0(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == jax.dtypes.float0


def _is_concrete_zero(x: Any) -> bool:
    return not isinstance(x, Tracer) and not np.any(np.asarray(x))


def check_scalar(caller: str, name: str, value: Any) -> None:
    if not eqx.is_array_like(value) or jnp.shape(value) != ():
        raise TypeError(f"{caller}: `{name}` must be a number; got {describe(value)}.")
    if jnp.iscomplexobj(value):
        raise TypeError(f"{caller}: `{name}` must be real; got {describe(value)}.")


def check_boolean(caller: str, name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(
            f"{caller}: `{name}` must be True or False; got {describe(value)}."
        )
    return bool(value)


def check_key(caller: str, key: Any) -> None:
    """One key of `jax.random`, of either kind."""
    if eqx.is_array(key):
        dtype, shape = key.dtype, key.shape
        if jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ():
            return
        if dtype == jnp.uint32 and len(shape) == 1:
            return
    raise TypeError(f"{caller}: `key` must be a `jax.random.key`; got {describe(key)}.")


# -- the arguments of an ODE jet, and of the solver


def check_order(caller: str, order: Any) -> int:
    return check_integer(caller, "order", order, least=1)


def check_integer(caller: str, name: str, value: Any, least: int) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{caller}: `{name}` must be an integer known before tracing; got "
            f"{value!r}."
        ) from None
    if number < least:
        raise ValueError(f"{caller}: `{name}` must be at least {least}; got {number}.")
    return number


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


class CheckedVectorField(eqx.Module):
    """A vector field that checks what it returns."""

    caller: str = eqx.field(static=True)
    vector_field: Callable[..., Any]

    def __call__(self, t, y, args):
        out = self.vector_field(t, y, args)
        if jtu.tree_structure(out) != jtu.tree_structure(y):
            raise ValueError(
                f"{self.caller}: `vector_field` must return a PyTree of the structure "
                f"of `y0`.\ny0: {eqx.tree_pformat(y)}\n"
                f"returned: {eqx.tree_pformat(out)}"
            )
        for (path, leaf), slope in zip(
            jtu.tree_leaves_with_path(y), jtu.tree_leaves(out)
        ):
            try:
                fits = jnp.broadcast_shapes(jnp.shape(slope), leaf.shape) == leaf.shape
            except ValueError:
                fits = False
            if not fits:
                raise ValueError(
                    f"{self.caller}: `vector_field` returned shape {jnp.shape(slope)} "
                    f"for y0{jtu.keystr(path)}, which has shape {leaf.shape}."
                )
        return out


def as_ode_term(caller: str, vector_field: Any) -> diffrax.AbstractTerm:
    """A term, of which it is checked what it returns, for a function or a term."""
    if type(vector_field) is diffrax.ODETerm:
        vector_field = vector_field.vector_field
    if isinstance(vector_field, diffrax.AbstractTerm):
        check_term(caller, vector_field)
        return vector_field
    if not callable(vector_field):
        raise TypeError(
            f"{caller}: `vector_field` must be a function `f(t, y, args)` or a "
            f"`diffrax.ODETerm`; got {vector_field!r}."
        )
    try:
        inspect.signature(vector_field).bind(None, None, None)
    except TypeError as e:
        raise TypeError(
            f"{caller}: `vector_field` must be a function `f(t, y, args)`; {e}."
        ) from e
    except ValueError:
        pass  # Some built-in functions have no signature.
    return diffrax.ODETerm(CheckedVectorField(caller, vector_field))


def as_slope(path: Any, slope: Any, leaf: Array) -> Array:
    """What the vector field returned for one leaf, in the dtype of that leaf."""
    slope = jnp.asarray(slope)
    if _kind(slope.dtype) > _kind(leaf.dtype):
        raise TypeError(
            f"The vector field is complex for y0{jtu.keystr(path)}, which has dtype "
            f"{leaf.dtype}: its solution is not real. Make the state complex."
        )
    return slope.astype(leaf.dtype)


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
        check_term(caller, term.term)  # One of Diffrax's wrappers of a term.


def check_tolerances(caller: str, rtol: Any, atol: Any) -> None:
    """Of the step size control. What is traced is taken as it is."""
    for name, value in [("rtol", rtol), ("atol", atol)]:
        check_scalar(caller, name, value)
        if not isinstance(value, Tracer) and not (0 <= value < float("inf")):
            raise ValueError(
                f"{caller}: `{name}` must not be negative, and finite; got {value}."
            )
    if not isinstance(rtol, Tracer) and not isinstance(atol, Tracer):
        if rtol == 0 and atol == 0:
            raise ValueError(
                f"{caller}: one of `rtol` and `atol` must be above zero: no step is "
                "short enough for both to be 0."
            )


def check_step_limits(
    caller: str, dtmin: Any, dtmax: Any, safety: Any, factormax: Any
) -> None:
    """Of the step size control. What is traced is taken as it is."""

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
    """Of the series in a solver state, which may be that of another solver."""
    for shape in shapes:
        if shape[0] != order + 1:
            raise ValueError(
                f"TaylorSolver: `solver_state` holds a series of order {shape[0] - 1}, "
                f"and this solver is of order {order}. Resume with a solver of the "
                "same order, or leave `solver_state` out, which costs nothing."
            )


def escaped(name: str) -> ValueError:
    """Of a value that JAX says has escaped from the function that was traced."""
    return ValueError(
        f"The derivative of `{name}` (a `jax.custom_jvp`) closes over a value that is "
        "computed within the function that is differentiated, around it. Pass this "
        "value as an argument: a rule may close over constants, and over arguments of "
        "transformations that are outside of the jet."
    )
