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
    r"""Taylor coefficients of the solution of an ODE at a point.

    For $\mathrm{d}y/\mathrm{d}t = f(t, y, args)$ through $(t_0, y_0)$: the numbers
    $y^{(k)}(t_0)/k!$ for $k = 0, \ldots, K$, so that

    $$y(t_0 + h) = \sum_{k=0}^K \frac{y^{(k)}(t_0)}{k!} h^k + O(h^{K+1}).$$

    The vector field is read once, and each coefficient of everything in it is computed
    once: $O(K^2)$ multiplications in all. (Except for a `lax.while_loop` in the field,
    which is run again for each order.) Its dependence on $t$ is differentiated too.

    **Arguments:**

    - `vector_field`: a function `f(t, y, args)`, as for `diffrax.ODETerm`; or a
        `diffrax.ODETerm`, or a `diffrax.MultiTerm` of them.
    - `t0`: the time at which to expand; a scalar, in the units of the vector field's
        own time.
    - `y0`: the state at that time; any PyTree of floating-point or complex arrays, of
        any shapes.
    - `args`: passed to the vector field.
    - `order`: the highest order $K$, at least 1. Keyword only.
    - `unroll`: whether the program has the operations of all orders one after the
        other, as it has with `True`; or a loop over orders, with `False`. Then its size
        does not depend on the order, and it takes less time to compile. It takes
        longer to run, the more the smaller the arrays are; and so do its derivatives.
        A field with a primitive whose recurrence cannot
        be in a loop (`lax.scan`, `lax.cond`, a linear solve, an exponent that is an
        array) is unrolled in any case, with a warning that names the primitive. `None`
        unrolls all programs up to a size whose compilation takes half a minute.
        Coefficients are the same up to rounding. Keyword only.
    - `factorial_scaled`: whether to return the derivatives $y^{(k)}(t_0)$, as
        [`eqx_taylor.filter_jet`][] does by default, in the place of coefficients.
        Keyword only.

    **Returns:**

    A PyTree of the structure of `y0`. Each leaf has a leading axis of length
    `order + 1`: the coefficients, normalised by the factorial, `y0` first. Coefficient
    $k$ has the units of the state over those of time to the power $k$. With
    `factorial_scaled=True` they are derivatives, and not normalised.

    **Raises:**

    `ValueError` or `TypeError`, while tracing, for an order below 1 or not an integer,
    for a state with leaves that are not floating-point or complex, for a vector field
    whose output does not have the structure of the state, and for a
    `diffrax.ControlTerm`, which can be converted by its method `to_ode`; `TypeError`
    for an `unroll` that is not `True`, `False` or `None`, and for a `factorial_scaled`
    that is not `True` or `False`.

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
        # Of what has underflowed, zero is the better derivative than NaN.
        factors = factors.reshape(order + 1, *[1] * (c.ndim - 1))
        return jnp.where(c == 0, c, c * factors)

    return jtu.tree_map(derivatives, found)


class SolutionSeries(NamedTuple):
    """The series of a solution: for each leaf of the state a list of terms; or an array
    of them, stacked along its first axis."""

    treedef: Any
    terms: Sequence[list[Array] | Array]
    # The field at the point, for each leaf: what is not made of the side ahead.
    slopes: list[Array]

    @property
    def slope(self) -> PyTree[Array]:
        """The field's value at the point, times the unit. It is the first coefficient,
        unless the field jumps there."""
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
    """Replaces by zeros, for each entry of the state, the stacked coefficients from the
    first order on, of those above 1, at which it is not finite.

    There are fields that have a slope at a point, but no higher derivatives or infinite
    ones: `sqrt(t)` at 0. The lower orders are right there, and so are all orders of
    entries that do not depend on it. Without a slope there is no solution to go on
    with.
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
    """Returns a unit of time near `length`, which is not negative: a power of two,
    which costs no rounding. It is 1 for zero and for infinity."""
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

    With the length of a step for a unit the coefficients are of the size of `y`;
    `y^(k)` itself overflows soon.
    """
    field = read_field(term, t0, unit, y0, args, caller)
    return series_of(field, order, caller, unroll)


class Field(NamedTuple):
    """A vector field that was read at a point.

    **Fields:**

    - `jaxpr`: the field times the unit of time, as a function of `t, *leaves`.
    - `point`: where it was read, `[t, *leaves]`.
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
        # Inside a `shard_map` the state differs between devices where the slope does.
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
    """Computes the series of the solution through the point where a field was read."""
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
    """Computes the terms of each leaf of the solution through a point, which is `t,
    *leaves`. Decisions in the field are made for the point `ahead`."""
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


# -- the point by which a field decides


def _slopes(jaxpr: Jaxpr, point: Sequence[Array], dt: Array) -> list[Array]:
    """Evaluates the field at a point. Prints in it are left to the series."""
    walk = Walk(1, stop=0, effects=False)
    time_var, *state_vars = jaxpr.jaxpr.invars
    time = given(time_var.aval, [point[0], dt])
    state = [unknown(v.aval, mask(1), [x]) for v, x in zip(state_vars, point[1:])]
    return [series.dense(0) for series in walk.interpret(jaxpr, [time, *state])]


# Decisions are made a part `sqrt(eps)` of the unit, which is near the length of a step,
# ahead. A kink that is nearer is taken for passed: this changes the solution by the
# jump of the slope times the square of the distance, a rounding error. But not less
# than a few roundings of the time and of what moves: times that are sums of steps have
# as many. (2 are too few where two of these are compared; 8 make no difference.)
_ROUNDINGS = 4


def _point_ahead(
    jaxpr: Jaxpr,
    point: Sequence[Array],
    dt: Array,
    slopes: Sequence[Array],
    may_be_singular: bool,
) -> list[Array]:
    """Returns a point where the solution is a little later: none on it, but one on the
    same side of what it crosses here. What does not move stays exactly where it is.

    A component whose slope is zero goes where its second derivative says. Where
    decisions ahead lead to what is not finite at the point, as in `where(x == 0, 1,
    sin(x) / x)`, decisions are made at the point itself: by `where` programs avoid what
    is singular.
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
        # Order 3, since a norm at rest has a slope of zero, and an infinite one next.
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
    """Returns `x + step`, but at least a few roundings of `x` away, in each part of a
    complex number; `x` where the step is zero or not finite."""
    if jnp.iscomplexobj(x):
        step = step.astype(x.dtype)
        return jax.lax.complex(_moved(x.real, step.real), _moved(x.imag, step.imag))
    least = _ROUNDINGS * float(jnp.finfo(x.dtype).eps) * jnp.abs(x)
    step = step.astype(x.dtype)
    step = jnp.where(jnp.isfinite(step), step, 0)
    return x + jnp.sign(step) * jnp.maximum(jnp.abs(step), least)
