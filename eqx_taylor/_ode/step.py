"""One step of the Taylor method: the polynomial of the step, and the series at its
end."""

import functools as ft
from typing import NamedTuple

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array

from .._core.custom_types import Args, PyTree, RealScalarLike, Y
from .._core.jax import joint_axes, vary
from .._core.polynomial import evaluate, evaluate_compensated
from .check import check_carried
from .error_estimate import (
    BY_RUNGE_KUTTA,
    defect,
    OF_SERIES,
    probe_points,
    WITHOUT_SLOPE,
)
from .ode_jet import increment, solution_series, unit_near, usable
from .runge_kutta import runge_kutta_step


class TaylorState(eqx.Module):
    """The state of `TaylorSolver` at the start of a step.

    **Fields:**

    - `coefficients`: the coefficients of the solution's series. Each leaf has a leading
        axis over orders.
    - `t0`: the time at which the series is.
    - `unit`: the unit of time of the coefficients. It is a power of two near the length
        of the previous step, so that the coefficients neither overflow nor underflow,
        and scaling causes no rounding. It is zero if there is no series yet.
    - `steps`: the number of steps taken; `None` without `warn_if_stiff`.
    - `rest`: with `compensated`, the part of the state below its last digit; otherwise
        `None`.
    """

    coefficients: PyTree[Array]
    t0: RealScalarLike
    unit: Array
    steps: Array | None
    rest: PyTree[Array] | None


class Step(NamedTuple):
    """A step that was made.

    **Fields:**

    - `series`, `unit`: the polynomial of the step, as stacked coefficients, and their
        unit of time.
    - `errors`: the error that was found at points inside the step.
    - `kind`: the kind of the step.
    - `y1`, `rest`, `slope`: the state at its end, the part of it below its last digit,
        and the slope there, times the unit of the next series.
    - `next_series`, `next_unit`: the series at the end of the step.
    """

    series: PyTree[Array]
    unit: Array
    errors: PyTree[Array]
    kind: Array
    y1: Y
    rest: PyTree[Array] | None
    slope: Y
    next_series: PyTree[Array]
    next_unit: Array


def make_step(
    terms: diffrax.AbstractTerm,
    t0: Array,
    t1: Array,
    y0: Y,
    args: Args,
    state: TaylorState,
    made_jump: Array,
    order: int,
    probes: int,
    unroll: bool | None,
) -> Step:
    """Makes a step from the series in the solver's state. If that series belongs to
    another point, or to before a jump, or if there is none yet, it is computed first.

    The program contains one series, in a loop: with one at the start of the step and
    one at its end, it would take twice as long to compile. The loop has two passes. The
    first makes a step of length zero, at whose end is the missing series; usually no
    series is missing, and the pass does nothing. The second pass makes the step.
    """
    unit = unit_near(t1 - t0)
    of_series = jnp.asarray(OF_SERIES, unit.dtype)
    # The lanes of a `vmap` share one predicate. With a predicate for each lane, all
    # lanes would compute the series, and discard it, at every step.
    is_missing = _is_missing(t0, y0, state, made_jump, order)
    any_missing = eqxi.unvmap_any(is_missing)

    # Inside a `shard_map` all branches must have the same type, but the initial values
    # may be the same on all devices. The type of the slope includes that of the arrays
    # that the field closes over.
    inputs = eqx.filter((t0, t1, y0, args, state, is_missing), eqx.is_array)
    control = terms.contr(t0, t1)
    slope = jax.eval_shape(lambda: increment(terms, t0, y0, args, control))
    avals = [*map(jax.typeof, jtu.tree_leaves(inputs)), *jtu.tree_leaves(slope)]
    vary_all = ft.partial(jtu.tree_map, ft.partial(vary, axes=joint_axes(avals)))

    # Reverse mode computes the step again. Otherwise it would store all intermediate
    # values of both passes, and take twice as long to trace and to compile.
    @ft.partial(jax.checkpoint, prevent_cse=False)
    def advance(made: Step, is_first: Array) -> Step:
        series, old_unit = made.next_series, made.next_unit
        rest = state.rest
        errors, foreign = _look_inside(
            terms, t0, t1, args, series, old_unit, rest, probes
        )
        by_series = vary_all((series, errors, of_series))
        series, errors, kind = _replaced(
            terms, t0, t1, old_unit, args, foreign & ~is_first, by_series
        )
        s = (t1 - t0) / _or_one(old_unit)
        end = t1, *evaluate_state(series, s, rest)
        t, y1, rest = _where(is_first, (t0, y0, rest), end)
        new = solution_series(terms, t, unit, y1, args, order, "TaylorSolver", unroll)
        # With probes, coefficients that are not finite are detected inside the step.
        next_series = new.stacked() if probes > 0 else usable(new.stacked())
        old = made.next_series, made.next_unit
        is_new = is_missing | ~is_first
        next_series, next_unit = _where(is_new, (next_series, unit), old)
        outs = series, old_unit, errors, kind, y1, rest, new.slope
        return Step(*outs, next_series, next_unit)

    def one_pass(made, is_first):
        made = jax.lax.cond(
            any_missing | ~is_first,
            lambda: vary_all(advance(made, is_first)),
            lambda: made,
        )
        return made, None

    series = state.coefficients, state.unit
    no_error = jtu.tree_map(lambda y: jnp.zeros_like(jnp.abs(y)), y0)
    nothing = Step(*series, no_error, of_series, y0, state.rest, y0, *series)
    made, _ = jax.lax.scan(one_pass, vary_all(nothing), jnp.array([True, False]))
    return made


def _is_missing(
    t0: Array, y0: Y, state: TaylorState, made_jump: Array, order: int
) -> Array:
    """Returns whether the state lacks the series of the solution through a point."""
    series = jtu.tree_leaves(state.coefficients)
    check_carried(order, [c.shape for c in series])
    other = [jnp.any(c[0] != y) for c, y in zip(series, jtu.tree_leaves(y0))]
    moved = [state.unit == 0, t0 != state.t0, made_jump]
    return jnp.any(jnp.stack([*moved, *other]))


def evaluate_state(
    series: PyTree[Array], s: RealScalarLike, rest: PyTree[Array] | None
) -> tuple[Y, PyTree[Array] | None]:
    """Evaluates the state at `s`. If `rest` is given, also computes the part of the
    state below its last digit."""
    leaves, treedef = jtu.tree_flatten(series)
    if rest is None:
        y1 = [evaluate(list(c), s) for c in leaves]
        return jtu.tree_unflatten(treedef, y1), None
    rests = jtu.tree_leaves(rest)
    both = [evaluate_compensated(list(c), s, r) for c, r in zip(leaves, rests)]
    y1, rests = zip(*both) if both else ((), ())
    return jtu.tree_unflatten(treedef, y1), jtu.tree_unflatten(treedef, rests)


@jax.named_scope("defect")
def _look_inside(
    terms: diffrax.AbstractTerm,
    t0: Array,
    t1: Array,
    args: Args,
    series: PyTree[Array],
    unit: Array,
    rest: PyTree[Array] | None,
    probes: int,
) -> tuple[PyTree[Array], Array]:
    """Estimates the error of the step from points inside it. Also returns whether the
    series is not that of the solution at one of them."""
    h = t1 - t0
    s = h / _or_one(unit)
    control = terms.contr(t0, t1)
    leaves, treedef = jtu.tree_flatten(series)
    order = max((len(c) - 1 for c in leaves), default=1)
    foreign = jnp.array(False)
    errors = [jnp.zeros_like(jnp.abs(c[0])) for c in leaves]
    for part in probe_points(probes):
        y, _ = evaluate_state(series, part * s, rest)
        by_field = increment(terms, t0 + part * h, y, args, control)
        found = defect(by_field, y, series, s, part)
        foreign = foreign | found.is_foreign()
        errors = map(jnp.maximum, errors, found.errors(order))
    return jtu.tree_unflatten(treedef, list(errors)), foreign


def _replaced(
    terms: diffrax.AbstractTerm,
    t0: RealScalarLike,
    t1: RealScalarLike,
    unit: Array,
    args: Args,
    foreign: Array,
    made: tuple[PyTree[Array], PyTree[Array], Array],
) -> tuple[PyTree[Array], PyTree[Array], Array]:
    """Returns `made`: the series of a step in this unit of time, its errors, and its
    kind. If the series is `foreign` to the solution, it returns the polynomial of a
    Runge--Kutta method instead, with its estimate of the error."""

    # Reverse mode stores the arguments, and none of the stages.
    @jax.checkpoint
    def by_runge_kutta(made):
        series, _, of_series = made
        new = runge_kutta_step(terms, t0, t1, unit, series, args)
        has_slope = is_finite(jtu.tree_map(lambda c: c[1], series))
        kind = jnp.where(has_slope, BY_RUNGE_KUTTA, WITHOUT_SLOPE)
        return jtu.tree_map(
            lambda new, old: jnp.where(foreign, new, old),
            (*new, kind.astype(of_series.dtype)),
            made,
        )

    return jax.lax.cond(
        eqxi.unvmap_any(foreign), by_runge_kutta, lambda made: made, made
    )


def _or_one(unit: Array) -> Array:
    """Returns the unit, or 1 if there is none."""
    return jnp.where(unit == 0, 1, unit)


def _where(condition: Array, x: PyTree, y: PyTree) -> PyTree:
    return jtu.tree_map(lambda x, y: jnp.where(condition, x, y), x, y)


def is_finite(y: PyTree[Array]) -> Array:
    """Returns whether all entries are finite."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jtu.tree_leaves(y)]
    return ft.reduce(jnp.logical_and, finite, jnp.array(True))
