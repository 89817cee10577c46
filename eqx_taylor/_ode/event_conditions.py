"""The conditions of events: what they may return, and their series along a step."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._core.check import describe, trace_on_devices, UNTRACEABLE, untraceable
from .._core.custom_types import Args, RealScalarLike
from .._core.polynomial import evaluate
from .._core.series import given
from .._core.walk import Walk


class Conditions(NamedTuple):
    """The real conditions of an event.

    **Fields:**

    - `values`: a function from time and state to the vector of their values.
    - `number`: how many they are.
    - `indices`: which ones of all conditions they are, in the order of the PyTree.
    """

    values: Callable[[RealScalarLike, PyTree[Array]], Array]
    number: int
    indices: list[int]


def read_conditions(
    caller: str,
    cond_fn: PyTree[Callable[..., Any]],
    t: RealScalarLike,
    y: PyTree[Array],
    args: Args,
    kwargs: dict[str, Any],
) -> Conditions:
    """Finds the real ones of the conditions, and checks what all of them return."""
    named = jtu.tree_leaves_with_path(cond_fn, is_leaf=callable)
    dtypes, functions, indices = [], [], []
    for i, (path, function) in enumerate(named):
        name = f"`cond_fn{jtu.keystr(path)}`"
        if not callable(function):
            raise TypeError(
                f"{caller}: a condition must be a function `f(t, y, args, **kwargs)`; "
                f"{name} is {describe(function)}."
            )

        def of_point(t, y, function=function):
            return function(t, y, args, **kwargs)

        dtype = _dtype_of(caller, name, of_point, t, y)
        if dtype != jnp.bool_:
            functions.append(of_point)
            dtypes.append(dtype)
            indices.append(i)
    widest = max(dtypes, key=lambda d: jnp.finfo(d).nmant, default=None)

    def values(t, y):
        found = [jnp.asarray(f(t, y)).astype(widest) for f in functions]
        return jnp.stack(found)

    return Conditions(values, len(functions), indices)


def check_is_event(caller: str, event: Any) -> None:
    if not isinstance(event, diffrax.Event):
        raise TypeError(
            f"{caller}: `event` must be a `diffrax.Event`; got {describe(event)}. "
            "Write `diffrax.Event(cond_fn)`."
        )


def read_real_conditions(
    caller: str, event: diffrax.Event, t: RealScalarLike, y: PyTree[Array], args: Args
) -> Conditions:
    """Finds the conditions of an event, where all of them have to be real."""
    conditions = read_conditions(caller, event.cond_fn, t, y, args, {})
    if conditions.number < len(jtu.tree_leaves(event.cond_fn, is_leaf=callable)):
        raise TypeError(
            f"{caller}: a boolean condition has no place where it is zero. Give real "
            "conditions: `t - 1.0` for `t > 1.0`."
        )
    return conditions


def _dtype_of(caller: str, name: str, function: Any, t: Any, y: Any) -> Any:
    try:
        out = jax.eval_shape(function, t, y)
    except UNTRACEABLE as e:
        raise untraceable(caller, f"the condition {name}", e) from e
    except Exception as e:
        raise ValueError(
            f"{caller}: the condition {name} raised {type(e).__name__}: {e} It is "
            "called as `f(t, y, args, **kwargs)`, with a time and a state as the "
            "vector field is, and has to return a real or boolean scalar."
        ) from e
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise TypeError(
            f"{caller}: the condition {name} must return a scalar, and returns "
            f"{out!r}. Give a PyTree of conditions in the place of one condition that "
            "returns a PyTree."
        )
    if out.shape != ():
        raise ValueError(
            f"{caller}: the condition {name} must return a scalar, and returns an "
            f"array of shape {out.shape}. Give a list of conditions, one for each "
            "entry."
        )
    is_real = jnp.issubdtype(out.dtype, jnp.floating)
    if not is_real and out.dtype != jnp.bool_:
        raise TypeError(
            f"{caller}: the condition {name} must return a real or boolean scalar, and "
            f"returns one of dtype {out.dtype}. A complex condition has no sign: take "
            "its real or imaginary part, or its absolute value less a number."
        )
    return out.dtype


def polynomials_of_step(
    series: PyTree[Array], unit: Array, h: RealScalarLike
) -> PyTree[Array]:
    """Returns the coefficients of a step's polynomial for the length of the step as the
    unit of time."""
    s = jnp.asarray(h) / unit

    def of_leaf(c):
        factor = s.astype(jnp.finfo(c.dtype).dtype).astype(c.dtype)
        # One multiplication each: powers of numbers that are no integers take longer
        # than all else in a small step.
        powers = [jnp.ones_like(factor)]
        for _ in range(1, len(c)):
            powers.append(powers[-1] * factor)
        return jnp.stack([term * power for term, power in zip(c, powers)])

    return jtu.tree_map(of_leaf, series)


def condition_series(
    caller: str,
    conditions: Conditions,
    t0: Array,
    h: Array,
    polynomials: PyTree[Array],
) -> Array:
    """Computes the series of the conditions along a step, whose length is the unit of
    time: an array of `number` rows."""
    leaves, treedef = jtu.tree_flatten(polynomials)
    order = max((len(c) - 1 for c in leaves), default=1)
    own = [t0, *(c[0] for c in leaves)]

    def values(t, *leaves):
        return [conditions.values(t, jtu.tree_unflatten(treedef, leaves))]

    try:
        jaxpr = trace_on_devices("a condition", values, own, own)
    except UNTRACEABLE as e:
        raise untraceable(caller, "a condition", e) from e
    # Prints in a condition are left to Diffrax, which calls it as well.
    walk = Walk(order, effects=False)
    curves = [[t0, h.astype(t0.dtype)], *map(list, leaves)]
    inputs = [given(var.aval, terms) for var, terms in zip(jaxpr.jaxpr.invars, curves)]
    if walk.decisions(jaxpr):
        # Behind the start, as the solution's series decides as well.
        for series, terms in zip(inputs, curves):
            part = math.sqrt(float(jnp.finfo(terms[0].dtype).eps))
            series.look_ahead(lambda x=evaluate(terms, part): x)
    [found] = walk.interpret(jaxpr, inputs)
    return jnp.stack([found.dense(k) for k in range(order + 1)], axis=1)


def evaluate_polynomials(polynomials: PyTree[Array], x: RealScalarLike) -> PyTree:
    return jtu.tree_map(lambda c: evaluate(list(c), x), polynomials)
