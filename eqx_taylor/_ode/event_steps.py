"""Steps that end just after the first event within them.

Diffrax evaluates the conditions of an event only at the ends of steps. The solver knows
the solution, and so the conditions, throughout the step. This file computes the length
of time after which a step has to end, so that one condition, and no other, has changed
its sign.
"""

import functools as ft
import math
from collections.abc import Callable
from typing import Any

import diffrax
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._core.polynomial import evaluate
from .error_estimate import probe_points
from .event_conditions import (
    condition_series,
    Conditions,
    evaluate_polynomials,
    polynomials_of_step,
)
from .quiet_steps import POINTS, stay_away_from_zero
from .roots import first_crossing, is_far_from_zero, NOISE, noise_of, normalised
from .small_loop import in_small_loop


# A condition counts as different from its series if they differ by more than this many
# times the last two terms of the series, as for the vector field; or by more than half
# of the digits of all terms, as the roots may then be elsewhere, and in another order.
_FOREIGN_TERMS = 5
# The number of points at which a condition that differs from its series is evaluated.
# Chosen: sampling is all that can be done with a function of which nothing is known.
_SAMPLES = 16
_BISECTIONS = 60
# A step that was cut is cut again to between these parts of it: chosen. At its very
# start, a condition that starts from zero would cut it again and again.
_NEAR_START, _FAR = 1e-3, 0.9
# The number of changes of the state by which rounding errors are estimated: chosen.
_CHANGES = 8
# The largest number of entries of a state for which one loop evaluates all conditions:
# the whole solve is one piece of machine code then. For larger states each condition
# has a loop of its own, as XLA takes four times as long to compile a loop that is twice
# as large. Chosen, between the Lorenz system (3 entries; ten conditions in one loop
# compile in 10 s and add 55 to 80 % to a step, in separate loops in 31 s and add 250 %)
# and the outer Solar System (36 entries; three conditions in one loop compile in 34 s,
# in separate loops in 17 s).
_SMALL_STATE = 8


def length_to_first_event(
    conditions: Conditions,
    t0: Array,
    t1: Array,
    series: PyTree[Array],
    unit: Array,
    y1: PyTree[Array],
) -> Array:
    """Computes the length of time from `t0` after which a step has to end, so that only
    the first sign change of a condition is before its end. Returns 0 if there is no
    sign change within the step, or only at its end."""
    h = t1 - t0
    x, is_within = first_event(conditions, t0, h, series, unit, y1)
    # The step ends a few roundings of the time after the event.
    eps = float(jnp.finfo(h.dtype).eps)
    roundings = 4 * eps * jnp.maximum(jnp.abs(t0), jnp.abs(t1))
    length = jnp.where(is_within, x.astype(h.dtype) * h, h) + roundings
    cut = jnp.where(is_within & (length < h), length, 0)
    return eqxi.nondifferentiable(jax.lax.stop_gradient(cut))


def end_at_event(t0: Array, cut: Array | None, state: Any, decided: tuple) -> tuple:
    """Rejects a step that a controller would accept, if it has to end earlier, just
    after an event. It is made again with that length, and is cut again only for an
    event far before its end: where the step has to end depends on rounding errors,
    which may differ in the second attempt.

    `state` is the controller's at the start of the step. `decided` is whether to accept
    the step, the times of the next one, the controller's next state, and the result.
    """
    zero = jnp.zeros_like(state.is_cut)
    keep_step, next_t0, next_t1, new, result = decided
    if cut is None:
        return *decided[:3], new._replace(is_cut=zero), result
    # The series of a shorter step may show an event that was not seen before.
    is_inside = (_NEAR_START * state.dt < cut) & (cut < _FAR * state.dt)
    is_asked = (state.is_cut == 0) | is_inside
    is_cut = keep_step & (cut > 0) & is_asked
    if_cut = state._replace(dt=cut.astype(zero.dtype), is_cut=zero + 1)
    times, new = jtu.tree_map(
        lambda a, b: jnp.where(is_cut, a, b),
        ((t0, t0 + cut), if_cut),
        ((next_t0, next_t1), new._replace(is_cut=zero)),
    )
    ok = diffrax.RESULTS.successful
    result = diffrax.RESULTS.where(is_cut, ok, result)
    return keep_step & ~is_cut, *times, new, result


@jax.named_scope("events")
def first_event(
    conditions: Conditions,
    t0: Array,
    h: Array,
    series: PyTree[Array],
    unit: Array,
    y1: PyTree[Array],
) -> tuple[Array, Array]:
    """Finds the first part of a step after which one condition has certainly changed
    its sign, and whether there is one."""
    t0, h, series, unit, y1 = jax.lax.stop_gradient((t0, h, series, unit, y1))

    def values(x):
        y = evaluate_polynomials(polynomials_of_step(series, unit, h), x)
        there = conditions.values(t0 + x.astype(h.dtype) * h, y)
        return jax.lax.stop_gradient(there)

    def look(group, is_certain):
        """Returns the series of conditions, their values at the start, and whether they
        differ from their series. With `is_certain`, a difference that comes from the
        terms which the series of the state leaves out does not count."""
        curves = polynomials_of_step(series, unit, h)
        rows = condition_series("TaylorSolver", group, t0, h, curves)
        inside = probe_points(1)

        def each(t, y):
            return list(map(jax.lax.stop_gradient, group.each(t, y)))

        at_start = each(t0, jtu.tree_map(lambda c: c[0], series))
        points = [1.0, *inside]
        there = [each(t0 + h, y1)]
        there += [each(t0 + p * h, evaluate_polynomials(curves, p)) for p in inside]
        left_out = [0.0] * len(rows)
        if is_certain:
            shorter = jtu.tree_map(lambda c: c[: max(len(c) - 2, 1)], curves)
            by_shorter = each(t0 + h, evaluate_polynomials(shorter, 1.0))
            left_out = [jnp.abs(a - b) for a, b in zip(there[0], by_shorter)]
        foreign = [
            _differs(row, points, values, left)
            for row, left, *values in zip(rows, left_out, *there)
        ]
        return rows, at_start, foreign

    def stacked(group) -> list[Array]:
        rows, at_start, foreign = look(group, True)
        rows = jnp.stack(list(map(jnp.stack, rows)))
        return [rows, jnp.stack(at_start), jnp.stack(foreign)]

    def find() -> list[Array]:
        found = [in_small_loop(ft.partial(stacked, group)) for group in groups]
        rows, at_start, foreign = map(jnp.concatenate, zip(*found))
        size = _size(conditions, t0 + h, y1)
        return in_small_loop(
            lambda: _first_change(rows, foreign, at_start, size, values)
        )

    def quiet_by_series() -> list[Array]:
        """Returns whether every condition is its series, which stays away from zero."""
        quiet = jnp.array(True)
        for row, start, differs in zip(*look(conditions, False)):
            same_sign = jnp.sign(start) * row[0] > 0
            quiet = quiet & ~differs & same_sign & is_far_from_zero(row)
        return [quiet]

    def quiet_by_values() -> list[Array]:
        """Returns whether the values of every condition stay away from zero."""

        def at(x):
            y = evaluate_polynomials(series, x * h / unit)
            return conditions.values(t0 + x * h, y)

        inside = jax.vmap(at)(jnp.asarray(POINTS, h.dtype))
        start = conditions.values(t0, jtu.tree_map(lambda c: c[0], series))
        end = conditions.values(t0 + h, y1)
        at_points = jax.lax.stop_gradient((start, inside, end))
        return [jnp.all(stay_away_from_zero(*at_points))]

    # Most steps are quiet. In the others `find` evaluates the conditions again: results
    # that were passed to it would be written to memory in each step, which takes longer
    # than everything else here.
    is_small = sum(y.size for y in jtu.tree_leaves(y1)) <= _SMALL_STATE
    groups = [conditions] if is_small else conditions.apart()
    [quiet] = in_small_loop(quiet_by_series if is_small else quiet_by_values)
    x, is_within = jax.lax.cond(
        eqxi.unvmap_any(~quiet),
        find,
        lambda: [jnp.ones((), conditions.dtype), jnp.zeros_like(quiet)],
    )
    return x, is_within


def _size(conditions: Conditions, t: Array, y: PyTree[Array]) -> Array:
    """Estimates the size of what the value of each condition is computed from: of a
    difference, the size of its parts. The value has the rounding errors of these.

    Changes of time and state are compared with those of the value. No derivative is
    taken, as some conditions have none.
    """

    def at(number):
        def changed(x):
            real = jnp.finfo(x.dtype).dtype
            indices = jnp.arange(1, x.size + 1).reshape(x.shape).astype(real)
            part = math.sqrt(float(jnp.finfo(real).eps))
            return x * (1 + part * jnp.cos(number.astype(real) * indices)).astype(
                x.dtype
            )

        return conditions.values(*jtu.tree_map(changed, (t, y)))

    values = jax.vmap(at)(jnp.arange(_CHANGES))
    part = math.sqrt(float(jnp.finfo(values.dtype).eps))
    size = jnp.max(jnp.abs(values[1:] - values[:1]), axis=0) / part
    size = jax.lax.stop_gradient(size)
    return jnp.where(jnp.isfinite(size), size, 0)


def _first_change(
    rows: Array,
    foreign: Array,
    at_start: Array,
    size: Array,
    values: Callable[[Array], Array],
) -> list[Array]:
    """Finds the first part of a step after which one of the conditions has changed its
    sign, and whether there is one. It uses their series; or their values, for those
    that are `foreign` to their series. `at_start` has their values at the start, and
    `size` the size of what they are computed from."""
    rows, factors = normalised(rows)
    # Diffrax has to see the change, by values that have rounding errors.
    least = NOISE * float(jnp.finfo(rows.dtype).eps) * size
    of_series = noise_of(rows)
    noise = of_series + least * factors
    # At the start, Diffrax uses the values of the conditions, not their series.
    said = jnp.abs(at_start * factors)
    is_known = (jnp.abs(rows[:, 0]) > of_series / 2) | (said > of_series / 2)
    # A condition that starts from zero goes to one side or the other, and Diffrax may
    # see it on either side at the start. So the step ends once it is off zero.
    side = jnp.where(is_known, jnp.sign(at_start), 1)
    other = jnp.where(is_known, 0, -1)
    sides = [jnp.where(foreign, 0, x) for x in (side, other)]
    twice = [jnp.concatenate([x, x]) for x in (rows, jnp.zeros_like(noise), noise)]
    crossing = first_crossing(twice[0], jnp.concatenate(sides), *twice[1:])
    behind = jnp.min(crossing.behind)
    by_samples = jax.lax.cond(
        eqxi.unvmap_any(jnp.any(foreign)),
        lambda: _by_samples(foreign, values, least, rows.dtype),
        lambda: jnp.full_like(behind, jnp.inf),
    )
    # The length of a step is the unit of time of the next series. If it were as short
    # as rounding errors, coefficients would underflow. (The bound is 2e-8 at order 20.)
    order = rows.shape[1] - 1
    least = float(jnp.finfo(rows.dtype).tiny) ** (1 / (2 * order))
    x = jnp.maximum(jnp.minimum(behind, by_samples), least)
    is_within = x <= 1
    return [jnp.where(is_within, x, 1), is_within]


def is_foreign(rows: Array, values: Callable[[Array], Array], at_end: Array) -> Array:
    """Returns whether each condition differs from its series, at the end of the step or
    at a point inside. It does if it has a kink, or if its series does not converge."""
    inside = probe_points(1)
    at_points = [at_end, *(values(jnp.asarray(p, rows.dtype)) for p in inside)]
    return _differs(list(rows.T), [1.0, *inside], at_points)


def _differs(
    terms: list[Array],
    points: list[float],
    values: list[Array],
    left_out: Array | float = 0.0,
) -> Array:
    """Returns whether a condition differs from its series. `values` are those of the
    condition at `points`, which are parts of the step. The last terms of the state
    change it by `left_out`, which may be more than its own last terms: these cancel in
    `y @ y`."""
    sizes = list(map(jnp.abs, terms))
    size = ft.reduce(jnp.add, sizes)
    last = jnp.maximum(*sizes[-2:]) if len(sizes) > 2 else sizes[-1]
    last = jnp.maximum(last, left_out)
    eps = float(jnp.finfo(size.dtype).eps)
    most = jnp.minimum(_FOREIGN_TERMS * last, math.sqrt(eps) * size)
    # The rounding errors of the condition are relative to its terms, not to its value.
    most = most + 16 * NOISE * eps * size
    foreign = jnp.zeros(size.shape, bool)
    for point, value in zip(points, values):
        difference = jax.lax.stop_gradient(value) - evaluate(terms, point)
        foreign = foreign | ~(jnp.abs(difference) <= most)
    return foreign


def _by_samples(
    foreign: Array, values: Callable[[Array], Array], noise: Array, dtype: Any
) -> Array:
    """Finds the first sign change of the conditions that are `foreign` to their series,
    from their values at a number of points of the step; infinity if there is none.
    Values below the `noise` have no sign."""

    def signs(x):
        value = values(x)
        return jnp.where(jnp.abs(value) <= noise, 0, jnp.sign(value))

    def has_changed(before, sign):
        # As in Diffrax, a sign that is NaN counts as a change.
        return jnp.any((sign != before) & (sign != 0) & foreign)

    points = jnp.arange(_SAMPLES + 1).astype(dtype) / _SAMPLES
    known = [jnp.sign(values(points[0]))]
    changed = []
    for sign in jax.vmap(signs)(points[1:]):
        changed.append(has_changed(known[-1], sign))
        known.append(jnp.where(sign == 0, known[-1], sign))
    any_changed = jnp.stack(changed)
    cell = jnp.argmax(any_changed)
    before = jnp.stack(known)[cell]

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        is_behind = has_changed(before, signs(middle))
        low = jnp.where(is_behind, low, middle)
        return low, jnp.where(is_behind, middle, high)

    ends = points[cell], points[cell + 1]
    _, high = jax.lax.fori_loop(0, _BISECTIONS, halve, ends)
    return jnp.where(jnp.any(any_changed), high, jnp.inf)
