"""Taylor coefficients of the solution of an ODE."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, overload

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike

from .. import _rules as _rules
from .._core.check import (
    check_boolean,
    trace_on_devices,
    UNTRACEABLE,
    untraceable,
)
from .._core.custom_types import Args, PyTree, RealScalarLike, Y
from .._core.drivers import order_by_order
from .._core.jax import (
    all_varying,
    trace,
    vary,
    varying_axes,
    with_constants,
)
from .._core.protocols import Jaxpr
from .._core.series import given, mask, unknown
from .._core.units import power_of_two
from .._core.walk import Walk
from .check import check_order, check_state
from .custom_types import AbstractTerm
from .unroll import expand_in_loop, is_unrolled, lift
from .vector_field import as_ode_term, as_slope


@overload
def ode_jet(
    vector_field: Callable[[RealScalarLike, Any, Any], Any] | AbstractTerm,
    t0: RealScalarLike,
    y0: ArrayLike,
    args: Args = None,
    *,
    order: int,
    factorial_scaled: bool = False,
    unroll: bool | None = None,
) -> Array: ...


@overload
def ode_jet(
    vector_field: Callable[[RealScalarLike, Any, Any], Any] | AbstractTerm,
    t0: RealScalarLike,
    y0: Y,
    args: Args = None,
    *,
    order: int,
    factorial_scaled: bool = False,
    unroll: bool | None = None,
) -> PyTree[Array]: ...


def ode_jet(
    vector_field: Callable[[RealScalarLike, Y, Args], Y] | AbstractTerm,
    t0: RealScalarLike,
    y0: Y,
    args: Args = None,
    *,
    order: int,
    unroll: bool | None = None,
    factorial_scaled: bool = False,
) -> PyTree[Array]:
    r"""Computes the Taylor coefficients of the solution of an ODE at a point.

    For the solution of $\mathrm{d}y/\mathrm{d}t = f(t, y, args)$ through $(t_0, y_0)$,
    these are $y^{(k)}(t_0)/k!$ for $k = 0, \ldots, K$, so that

    $$y(t_0 + h) = \sum_{k=0}^K \frac{y^{(k)}(t_0)}{k!} h^k + O(h^{K+1}).$$

    The vector field is traced once, and each coefficient of each value in it is
    computed once, which takes $O(K^2)$ multiplications in all. (Only a
    `lax.while_loop` in the field runs again for each order.) The field's dependence on
    $t$ is differentiated, too.

    **Arguments:**

    - `vector_field`: a function `f(t, y, args)`, as for `diffrax.ODETerm`; or a
        `diffrax.ODETerm`, or a `diffrax.MultiTerm` of them.
    - `t0`: the time at which to expand, a scalar in the vector field's unit of time.
    - `y0`: the state at that time, a PyTree of floating-point or complex arrays of any
        shapes.
    - `args`: passed to the vector field.
    - `order`: the highest order $K$, at least 1. Keyword only.
    - `unroll`: whether the program contains the operations of all orders, one after the
        other (`True`), or a loop over orders (`False`). With a loop, the size of the
        program does not depend on the order, and it compiles faster. It and its
        derivatives run more slowly, above all if the arrays are small. Some primitives
        have recurrences that cannot be written as a loop (`lax.scan`, `lax.cond`, a
        linear solve, an exponent that is an array). A field with one of these is
        unrolled in any case; with `False`, a warning names the primitive. `None` (the
        default) unrolls programs up to a size that takes half a minute to compile. The
        coefficients are the same up to rounding. Keyword only.
    - `factorial_scaled`: whether to return the derivatives $y^{(k)}(t_0)$, as
        [`eqx_taylor.filter_jet`][] does by default, instead of the coefficients.
        Keyword only.

    **Returns:**

    A PyTree of the structure of `y0`. Each leaf has a leading axis of length
    `order + 1` over the coefficients, which are normalised by the factorial; the first
    is `y0`. Coefficient $k$ has the units of the state over those of time to the power
    $k$. With `factorial_scaled=True` they are derivatives, and not normalised.

    **Raises:**

    `ValueError` or `TypeError`, while tracing, if the order is not an integer of at
    least 1, if the state has leaves that are not floating-point or complex, if the
    output of the vector field does not have the structure of the state, or for a
    `diffrax.ControlTerm`, which its method `to_ode` converts. `TypeError` if `unroll`
    is not `True`, `False` or `None`, or `factorial_scaled` is not `True` or `False`.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import ode_jet
        >>> # y' = y through y(0) = 1: the coefficients of exp, 1 / k!.
        >>> print(ode_jet(lambda t, y, args: y, 0.0, jnp.array(1.0), order=4))
        [1.         1.         0.5        0.16666667 0.04166667]
        >>> # A pendulum: the state is a tuple, and so are the coefficients.
        >>> field = lambda t, y, args: (y[1], -args * jnp.sin(y[0]))
        >>> y0 = jnp.array(0.5), jnp.array(0.0)
        >>> angle, velocity = ode_jet(field, 0.0, y0, 9.81, order=8)
        >>> angle.shape, velocity.shape
        ((9,), (9,))
        ```

    **Reference:** [Jorba and Zou (2005)][jorba2005software].
    """
    order = check_order("ode_jet", order)
    y0 = check_state("ode_jet", y0)
    term = as_ode_term("ode_jet", vector_field)
    t0 = jnp.asarray(t0)
    if t0.shape != ():
        raise ValueError(f"ode_jet: `t0` must be a scalar; got shape {t0.shape}.")
    if not jnp.issubdtype(t0.dtype, jnp.inexact):
        t0 = t0.astype(jnp.result_type(float))
    unit = unit_of(t0, y0)
    found = solution_series(term, t0, unit, y0, args, order, unroll=unroll).stacked()
    if not check_boolean("ode_jet", "factorial_scaled", factorial_scaled):
        return found

    def derivatives(c):
        largest = float(jnp.finfo(c.dtype).max)
        factorials = [math.factorial(k) for k in range(order + 1)]
        factors = jnp.asarray(
            [math.inf if x > largest else float(x) for x in factorials], c.dtype
        )
        # For a coefficient that has underflowed, the derivative zero is better than
        # NaN, which 0 times infinity would be.
        factors = factors.reshape(order + 1, *[1] * (c.ndim - 1))
        return jnp.where(c == 0, c, c * factors)

    return jtu.tree_map(derivatives, found)


class SolutionSeries(NamedTuple):
    """The series of a solution. For each leaf of the state it has a list of terms, or
    an array of them, stacked along its first axis."""

    treedef: Any
    terms: Sequence[list[Array] | Array]
    # The values of the field at the point itself, for each leaf. The terms use the side
    # of a jump into which the solution goes.
    slopes: list[Array]

    @property
    def slope(self) -> PyTree[Array]:
        """The field's value at the point, times the unit. It equals the first
        coefficient, unless the field jumps there."""
        return jtu.tree_unflatten(self.treedef, self.slopes)

    def map(self, fun: Callable[..., Any], *trees: PyTree[Array]) -> PyTree[Array]:
        """Applies `fun` to the list of terms of each leaf of the state."""
        leaves = [self.treedef.flatten_up_to(tree) for tree in trees]
        outs = [fun(*args) for args in zip(self.terms, *leaves)]
        return jtu.tree_unflatten(self.treedef, outs)

    @jax.named_scope("ode_jet")
    def stacked(self) -> PyTree[Array]:
        """Stacks the coefficients: each leaf gets a leading axis over orders."""
        return self.map(lambda c: jnp.stack(c) if isinstance(c, list) else c)


def usable(coefficients: PyTree[Array]) -> PyTree[Array]:
    """Truncates stacked coefficients, for each entry of the state: from the first order
    above 1 at which a coefficient is not finite, replaces them by zeros.

    Some fields have a slope at a point, but no higher derivatives, or infinite ones:
    `sqrt(t)` at 0, for example. The lower orders are correct there, and so are all
    orders of entries that do not depend on these. Without a slope the solve cannot
    continue, so orders 0 and 1 are left as they are.
    """

    def of_leaf(c):
        finite = True
        terms = list(c[:2])
        for term in c[2:]:
            finite = jnp.isfinite(term) & finite
            terms.append(jnp.where(finite, term, 0))
        return jnp.stack(terms)

    return jtu.tree_map(of_leaf, coefficients)


def unit_near(length: RealScalarLike) -> Array:
    """Returns a unit of time near `length`, which must not be negative. It is a power
    of two, so that scaling by it causes no rounding, and 1 for zero and for
    infinity."""
    length = jax.lax.stop_gradient(jnp.asarray(length))
    return power_of_two(jnp.where((length > 0) & jnp.isfinite(length), length, 1))


def unit_of(t: Array, y: PyTree[Array]) -> Array:
    """Returns the number 1 in the dtype of times: the narrowest of the state's, since
    Diffrax converts to wider dtypes only."""
    dtypes = [jnp.finfo(leaf.dtype).dtype for leaf in jtu.tree_leaves(y)]
    return jnp.ones((), min(dtypes, key=lambda d: jnp.finfo(d).nmant, default=t.dtype))


def increment(
    term: AbstractTerm, t: RealScalarLike, y: Y, args: Args, control: Any
) -> Y:
    """Computes the slope at a point times `control`, a length of time."""
    return jtu.tree_map_with_path(as_slope, term.vf_prod(t, y, args, control), y)


def slope(term: AbstractTerm, t: RealScalarLike, y: PyTree[Array], args: Args) -> Y:
    """Computes the slope of the solution at a point."""
    unit = unit_of(jnp.asarray(t), y)
    return increment(term, t, y, args, term.contr(jnp.zeros_like(unit), unit))


@jax.named_scope("ode_jet")
def solution_series(
    term: AbstractTerm,
    t0: RealScalarLike,
    unit: RealScalarLike,
    y0: PyTree[Array],
    args: Args,
    order: int,
    caller: str = "ode_jet",
    unroll: bool | None = None,
) -> SolutionSeries:
    """Computes the series, up to `order`, of `s -> y(t0 + s unit)`.

    If the unit is the length of a step, the coefficients have about the size of `y`.
    The derivatives `y^(k)` themselves soon overflow.
    """
    field = read_field(term, t0, unit, y0, args, caller)
    return series_of(field, order, caller, unroll)


class Field(NamedTuple):
    """A vector field that was traced at a point.

    **Fields:**

    - `jaxpr`: the field times the unit of time, as a function of `t, *leaves`.
    - `point`: the point, `[t, *leaves]`.
    - `dt`: the unit of time.
    - `treedef`: the structure of the state.
    """

    jaxpr: Jaxpr
    point: list[Array]
    dt: Array
    treedef: Any


def read_field(
    term: AbstractTerm,
    t0: RealScalarLike,
    unit: RealScalarLike,
    y0: PyTree[Array],
    args: Args,
    caller: str,
) -> Field:
    pair = all_varying([jnp.asarray(t0), jnp.asarray(unit)])
    t0, unit = jnp.asarray(pair[0]), jnp.asarray(pair[1])
    control = term.contr(jnp.zeros_like(unit), unit)
    leaves, treedef = jtu.tree_flatten(y0)

    def field(t, *leaves):
        y = jtu.tree_unflatten(treedef, leaves)
        return jtu.tree_leaves(increment(term, t, y, args, control))

    try:
        own = [t0, *leaves]
        jaxpr = trace(field, *own)
        # Inside a `shard_map`, the state must vary over the same axes as the slope.
        while any(
            varying_axes(slope) - varying_axes(jax.typeof(leaf))
            for slope, leaf in zip(jaxpr.out_avals, leaves)
        ):
            leaves = [*map(vary, leaves, map(varying_axes, jaxpr.out_avals))]
            jaxpr = trace_on_devices("the vector field", field, own, [t0, *leaves])
    except UNTRACEABLE as e:
        raise untraceable(caller, "the vector field", e) from e
    return Field(jaxpr, [t0, *leaves], unit.astype(t0.dtype), treedef)


def series_of(
    field: Field, order: int, caller: str, unroll: bool | None
) -> SolutionSeries:
    """Computes the series of the solution through the point of a traced field."""
    jaxpr, point, dt, treedef = field
    walk = Walk(order)
    found = walk.decisions(jaxpr)
    slopes = ahead = None
    if found:
        slopes = _slopes(jaxpr, point, dt)
        ahead = _point_ahead(jaxpr, point, dt, slopes, may_be_singular=found.steps)
    terms = None
    if not is_unrolled(caller, unroll, jaxpr, order):
        arrays = [dt, *point, *(ahead or [])]
        terms = expand_in_loop(caller, unroll, jaxpr, order, arrays)
    if terms is None:
        terms = expand(walk, jaxpr, point, dt, ahead)
    return SolutionSeries(treedef, terms, slopes or [c[1] for c in terms])


def expand(
    walk: Walk,
    jaxpr: Jaxpr,
    point: Sequence[Array],
    dt: Array,
    ahead: Sequence[Array] | None = None,
) -> list[list[Array]]:
    """Computes the terms of each leaf of the solution through a point, `t, *leaves`.
    Decisions in the field, such as those of `where`, are made at the point `ahead`."""
    order = walk.order
    time_var, *state_vars = jaxpr.jaxpr.invars
    time = given(time_var.aval, [point[0], dt])
    state = [
        unknown(var.aval, mask(order), [leaf])
        for var, leaf in zip(state_vars, point[1:])
    ]
    if ahead is not None:
        for series, value in zip([time, *state], ahead):
            series.look_ahead(lambda value=value: value)
    slopes = walk.interpret(jaxpr, [time, *state])
    order_by_order(walk, state, slopes, [lift] * len(state))
    return [[y.dense(k) for k in range(order + 1)] for y in state]


# -- the point at which a field makes its decisions


def _slopes(jaxpr: Jaxpr, point: Sequence[Array], dt: Array) -> list[Array]:
    """Evaluates the field at a point. The series performs its effects, such as
    prints."""
    walk = Walk(1, stop=0, effects=False)
    time_var, *state_vars = jaxpr.jaxpr.invars
    time = given(time_var.aval, [point[0], dt])
    state = [unknown(v.aval, mask(1), [x]) for v, x in zip(state_vars, point[1:])]
    return [series.dense(0) for series in walk.interpret(jaxpr, [time, *state])]


# Decisions are made at a point ahead, at a distance of `sqrt(eps)` units of time; the
# unit is near the length of a step. A kink that is nearer counts as passed. This
# changes the solution by the jump of the slope times the square of the distance, a
# rounding error. The distance is at least this many roundings of the time and of the
# state, as a time that is a sum of steps has such an error. (2 are too few if two such
# times are compared; 8 make no difference.)
_ROUNDINGS = 4


def _point_ahead(
    jaxpr: Jaxpr,
    point: Sequence[Array],
    dt: Array,
    slopes: Sequence[Array],
    may_be_singular: bool,
) -> list[Array]:
    """Returns a point slightly ahead of the solution. It need not be on the solution,
    but is on the same side of each kink or jump that the solution crosses here. Entries
    that are constant stay exactly the same.

    An entry whose slope is zero goes in the direction of its second derivative. If
    decisions ahead give values that are not finite at the point, as in `where(x == 0,
    1, sin(x) / x)`, decisions are made at the point itself: programs use `where` to
    avoid singularities.
    """
    stop = jax.lax.stop_gradient
    consts = [
        stop(x) if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else x
        for x in jaxpr.consts
    ]
    jaxpr = with_constants(jaxpr, consts)
    point, slopes, dt = stop(list(point)), stop(list(slopes)), stop(dt)
    dtypes = [jnp.finfo(x.dtype) for x in point]
    part = math.sqrt(max(float(kind.eps) for kind in dtypes))
    time, *state = point
    time = _moved(time, part * dt)
    first = [_moved(y, part * slope) for y, slope in zip(state, slopes)]
    at_rest = [jnp.any(slope == 0) for slope in slopes]

    def look_further():
        # Order 3, since a norm at rest has a slope of zero, and then infinite terms.
        terms = expand(Walk(3, effects=False), jaxpr, point, dt, [time, *first])
        finite = [jnp.all(jnp.isfinite(x)) for y in terms for x in y[1:]]
        second = [
            jnp.where(slope == 0, _moved(y, part**2 * y_terms[2]), y_ahead)
            for slope, y, y_ahead, y_terms in zip(slopes, state, first, terms)
        ]
        return second, jnp.all(jnp.stack(finite))

    if not at_rest:
        return [time]
    if not may_be_singular:
        is_needed = eqxi.unvmap_any(jnp.any(jnp.stack(at_rest)))
        ahead = jax.lax.cond(is_needed, lambda: look_further()[0], lambda: first)
        return [time, *ahead]
    ahead, is_finite = look_further()
    return [jnp.where(is_finite, a, x) for a, x in zip([time, *ahead], point)]


def _moved(x: Array, step: Array) -> Array:
    """Returns `x + step`, at a distance of at least a few roundings of `x`, in the real
    and the imaginary part. Returns `x` if the step is zero or not finite."""
    if jnp.iscomplexobj(x):
        step = step.astype(x.dtype)
        return jax.lax.complex(_moved(x.real, step.real), _moved(x.imag, step.imag))
    least = _ROUNDINGS * float(jnp.finfo(x.dtype).eps) * jnp.abs(x)
    step = step.astype(x.dtype)
    step = jnp.where(jnp.isfinite(step), step, 0)
    return x + jnp.sign(step) * jnp.maximum(jnp.abs(step), least)
