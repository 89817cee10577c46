"""The conditions of events: checks of their results, and their series along a step."""

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
from .small_loop import in_small_loop


class Conditions(NamedTuple):
    """The real conditions of an event.

    **Fields:**

    - `functions`: functions from time and state to a scalar.
    - `dtype`: the common dtype of the values.
    """

    functions: list[Callable[[RealScalarLike, PyTree[Array]], Any]]
    dtype: Any

    @property
    def number(self) -> int:
        return len(self.functions)

    def each(self, t: RealScalarLike, y: PyTree[Array]) -> list[Array]:
        """Returns the values of the conditions, as scalars."""
        return [jnp.asarray(f(t, y)).astype(self.dtype) for f in self.functions]

    def apart(self) -> "list[Conditions]":
        """Returns each of the conditions by itself."""
        return [Conditions([f], self.dtype) for f in self.functions]

    def values(self, t: RealScalarLike, y: PyTree[Array]) -> Array:
        """Returns the vector of the values of the conditions."""
        return jnp.stack(self.each(t, y))


def read_conditions(
    caller: str,
    cond_fn: PyTree[Callable[..., Any]],
    t: RealScalarLike,
    y: PyTree[Array],
    args: Args,
    kwargs: dict[str, Any],
) -> Conditions:
    """Finds the real conditions, and checks the results of all conditions."""
    named = jtu.tree_leaves_with_path(cond_fn, is_leaf=callable)
    dtypes, functions = [], []
    for path, function in named:
        name = f"`cond_fn{jtu.keystr(path)}`"
        if not callable(function):
            raise TypeError(
                f"{caller}: a condition must be a function `f(t, y, args, **kwargs)`; "
                f"got {describe(function)} for {name}."
            )

        def of_point(t, y, function=function):
            return function(t, y, args, **kwargs)

        dtype = _dtype_of(caller, name, of_point, t, y)
        if dtype != jnp.bool_:
            functions.append(of_point)
            dtypes.append(dtype)
    widest = max(dtypes, key=lambda d: jnp.finfo(d).nmant, default=None)

    return Conditions(functions, widest)


def check_is_event(caller: str, event: Any) -> None:
    if not isinstance(event, diffrax.Event):
        raise TypeError(
            f"{caller}: `event` must be a `diffrax.Event`; got {describe(event)}. "
            "Write `diffrax.Event(cond_fn)`."
        )


def read_real_conditions(
    caller: str, event: diffrax.Event, t: RealScalarLike, y: PyTree[Array], args: Args
) -> Conditions:
    """Finds the conditions of an event, and raises if one of them is not real."""
    conditions = read_conditions(caller, event.cond_fn, t, y, args, {})
    if conditions.number < len(jtu.tree_leaves(event.cond_fn, is_leaf=callable)):
        raise TypeError(
            f"{caller}: a boolean condition has no point where it is zero. Write real "
            "conditions: `t - 1.0` instead of `t > 1.0`."
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
            "called as `f(t, y, args, **kwargs)`, with a time and a state like those "
            "of the vector field, and must return a real or boolean scalar."
        ) from e
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise TypeError(
            f"{caller}: the condition {name} must return a scalar, and returns "
            f"{out!r}. Write a PyTree of conditions, not one condition that returns a "
            "PyTree."
        )
    if out.shape != ():
        raise ValueError(
            f"{caller}: the condition {name} must return a scalar, and returns an "
            f"array of shape {out.shape}. Write a list of conditions, one for each "
            "entry."
        )
    is_real = jnp.issubdtype(out.dtype, jnp.floating)
    if not is_real and out.dtype != jnp.bool_:
        raise TypeError(
            f"{caller}: the condition {name} must return a real or boolean scalar, and "
            f"returns one of dtype {out.dtype}. For a complex condition, which has no "
            "sign, take the real or imaginary part, or write `jnp.abs(z) - 1.0`."
        )
    return out.dtype


def polynomials_of_step(
    series: PyTree[Array], unit: Array, h: RealScalarLike
) -> PyTree[Array]:
    """Returns the coefficients of a step's polynomial for the length of the step as the
    unit of time."""
    leaves, treedef = jtu.tree_flatten(series)
    s = jnp.asarray(h) / unit
    length = max(map(len, leaves), default=1)

    def powers() -> list[Array]:
        # One multiplication each: `pow` would take longer than everything else in a
        # small step.
        found = [jnp.ones_like(s)]
        for _ in range(1, length):
            found.append(found[-1] * s)
        return [jnp.stack(found)]

    # As the result of a loop, the powers are stored. Otherwise XLA would compute them
    # again for each coefficient that uses them.
    [factors] = in_small_loop(powers)

    def of_leaf(c):
        scales = factors.astype(jnp.finfo(c.dtype).dtype).astype(c.dtype)
        # Term by term, so that terms on which no condition depends are removed.
        return jnp.stack([term * scale for term, scale in zip(c, scales)])

    return jtu.tree_unflatten(treedef, map(of_leaf, leaves))


def condition_series(
    caller: str,
    conditions: Conditions,
    t0: Array,
    h: Array,
    polynomials: PyTree[Array],
) -> list[list[Array]]:
    """Computes the series of each condition along a step, whose length is the unit of
    time. Each is a list of scalars, which are not differentiated."""
    leaves, treedef = jtu.tree_flatten(polynomials)
    order = max((len(c) - 1 for c in leaves), default=1)
    own = [t0, *(c[0] for c in leaves)]

    def values(t, *leaves):
        return conditions.each(t, jtu.tree_unflatten(treedef, leaves))

    try:
        jaxpr = trace_on_devices("a condition", values, own, own)
    except UNTRACEABLE as e:
        raise untraceable(caller, "a condition", e) from e
    # Diffrax calls the conditions, too, and performs their effects, such as prints.
    walk = Walk(order, effects=False)
    curves = [[t0, h.astype(t0.dtype)], *map(list, leaves)]
    inputs = [given(var.aval, terms) for var, terms in zip(jaxpr.jaxpr.invars, curves)]
    if walk.decisions(jaxpr):
        # Decisions are made just after the start, as in the series of the solution.
        for series, terms in zip(inputs, curves):
            part = math.sqrt(float(jnp.finfo(terms[0].dtype).eps))
            series.look_ahead(lambda x=evaluate(terms, part): x)
    found = walk.interpret(jaxpr, inputs)
    return [
        [jax.lax.stop_gradient(series.dense(k)) for k in range(order + 1)]
        for series in found
    ]


def evaluate_polynomials(polynomials: PyTree[Array], x: RealScalarLike) -> PyTree:
    return jtu.tree_map(lambda c: evaluate(list(c), x), polynomials)
