"""Steps that end just after the first event within them.

Diffrax evaluates the conditions of an event only at the ends of steps. The solver knows
the solution, and so the conditions, throughout the step. This file computes the length
of time after which a step has to end, so that one condition, and no other, has changed
its sign.
"""

import functools as ft
import math
from collections.abc import Callable
from typing import Any, NamedTuple

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
from .interpolated import interpolated, POINTS
from .quiet_steps import REST, stay_away_from_zero
from .roots import first_crossing, is_far_from_zero, NOISE, noise_of, normalised
from .small_loop import in_small_loop


# A condition is its series if they differ by less than this many times the rounding
# errors of the series: chosen, as the values of the condition have some of their own.
_SAME = 4
# For the exclusion of roots, a condition may differ from its series by this many times
# the last two terms of the series, as for the vector field. A larger difference has
# another reason, as a kink, and may be larger still elsewhere in the step.
_FOREIGN_TERMS = 5
# The shortest part of a step in which a condition that is no polynomial, as after a
# kink, is evaluated. If there are two sign changes in such a part, neither is found.
# Chosen; each kink costs one pass for each halving.
SHORTEST = 1 / 64
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

    def look(group):
        """Returns the series of conditions, their values at the start, and how much
        they differ from their series."""
        curves = polynomials_of_step(series, unit, h)
        rows = condition_series("TaylorSolver", group, t0, h, curves)
        inside = probe_points(1)

        def each(t, y):
            return list(map(jax.lax.stop_gradient, group.each(t, y)))

        at_start = each(t0, jtu.tree_map(lambda c: c[0], series))
        points = [1.0, *inside]
        there = [each(t0 + h, y1)]
        there += [each(t0 + p * h, evaluate_polynomials(curves, p)) for p in inside]
        apart = [_difference(row, points, values) for row, *values in zip(rows, *there)]
        return rows, at_start, apart

    def stacked(group) -> list[Array]:
        rows, at_start, apart = look(group)
        rows = jnp.stack(list(map(jnp.stack, rows)))
        return [rows, jnp.stack(at_start), jnp.stack(apart)]

    def find() -> list[Array]:
        found = [in_small_loop(ft.partial(stacked, group)) for group in groups]
        rows, at_start, apart = map(jnp.concatenate, zip(*found))
        size = size_of_parts(conditions, t0 + h, y1)
        return in_small_loop(lambda: _first_change(rows, apart, at_start, size, values))

    def quiet_by_series() -> list[Array]:
        """Returns whether every condition stays away from zero as far as its series
        does, of which it may have terms beyond the last ones."""
        quiet = jnp.array(True)
        for row, start, apart in zip(*look(conditions)):
            same_sign = jnp.sign(start) * row[0] > 0
            last = ft.reduce(jnp.maximum, map(jnp.abs, row[-2:]))
            is_smooth = apart <= _FOREIGN_TERMS * last + _rounding_of(row)
            is_far = is_far_from_zero(row, REST * apart)
            quiet = quiet & is_smooth & same_sign & is_far
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


def size_of_parts(conditions: Conditions, t: Array, y: PyTree[Array]) -> Array:
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
    apart: Array,
    at_start: Array,
    size: Array,
    values: Callable[[Array], Array],
) -> list[Array]:
    """Finds the first part of a step after which one of the conditions has changed its
    sign, and whether there is one. It uses their series; or polynomials that
    interpolate them, for those that are `apart` from their series by more than rounding
    errors. `at_start` has their values at the start, and `size` the size of what they
    are computed from."""
    foreign = ~(apart <= _rounding_of(list(rows.T)))
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
    sides = jnp.where(is_known, jnp.sign(at_start), 0)
    behind = _leave(rows, sides, ~foreign, noise)
    by_parts = jax.lax.cond(
        eqxi.unvmap_any(jnp.any(foreign)),
        lambda: _by_parts(foreign, sides, values, least, behind),
        lambda: jnp.full_like(behind, jnp.inf),
    )
    # The length of a step is the unit of time of the next series. If it were as short
    # as rounding errors, coefficients would underflow. (The bound is 2e-8 at order 20.)
    order = rows.shape[1] - 1
    least = float(jnp.finfo(rows.dtype).tiny) ** (1 / (2 * order))
    x = jnp.maximum(jnp.minimum(behind, by_parts), least)
    is_within = x <= 1
    return [jnp.where(is_within, x, 1), is_within]


def _leave(rows: Array, sides: Array, looked_at: Array, noise: Array) -> Array:
    """Finds the first point at which one of the polynomials that are `looked_at` is
    certainly not on its side of zero any more; infinity if there is none. If the side
    is 0, it is where the polynomial is off zero."""
    upper = jnp.where(looked_at, jnp.where(sides == 0, 1, sides), 0)
    lower = jnp.where(looked_at & (sides == 0), -1, 0).astype(upper.dtype)
    twice = [jnp.concatenate([x, x]) for x in (rows, jnp.zeros_like(noise), noise)]
    crossing = first_crossing(twice[0], jnp.concatenate([upper, lower]), *twice[1:])
    return jnp.min(crossing.behind)


def series_differ(
    rows: Array, values: Callable[[Array], Array], at_end: Array
) -> Array:
    """Returns whether each condition differs from its series, at the end of the step or
    at a point inside. It does if it has a kink, if its series does not converge, or if
    this has terms beyond the last ones."""
    inside = probe_points(1)
    at_points = [at_end, *(values(jnp.asarray(p, rows.dtype)) for p in inside)]
    terms = list(rows.T)
    return ~(_difference(terms, [1.0, *inside], at_points) <= _rounding_of(terms))


def _difference(terms: list[Array], points: list[float], values: list[Array]) -> Array:
    """Returns the largest difference between a condition and its series. `values` are
    those of the condition at `points`, which are parts of the step."""
    differences = [
        jnp.abs(jax.lax.stop_gradient(value) - evaluate(terms, point))
        for point, value in zip(points, values)
    ]
    return ft.reduce(jnp.maximum, differences)


def _rounding_of(terms: list[Array]) -> Array:
    """Bounds the difference that rounding errors make between a condition and its
    series. They are relative to the terms, not to the value."""
    size = ft.reduce(jnp.add, map(jnp.abs, terms))
    return _SAME * NOISE * float(jnp.finfo(size.dtype).eps) * size


class _Parts(NamedTuple):
    """The part `[left, left + width]` of the step that is searched, and the point that
    was found, or infinity."""

    left: Array
    width: Array
    found: Array


def _by_parts(
    foreign: Array,
    sides: Array,
    values: Callable[[Array], Array],
    least: Array,
    bound: Array,
) -> Array:
    """Finds the first point at which one of the conditions that are `foreign` to their
    series is certainly not on its side of zero any more; infinity if there is none
    before the `bound`. A condition is interpolated in parts of the step that are halved
    where it is no polynomial. In the shortest ones its values at the ends are used.
    Values below `least` have no sign."""
    dtype = least.dtype

    def have_changed(x):
        value = values(x)
        sign = jnp.where(jnp.abs(value) <= least, 0, jnp.sign(value))
        # As in Diffrax, a sign that is NaN counts as a change.
        return (sign != sides) & (sign != 0)

    def is_open(parts):
        return jnp.isinf(parts.found) & (parts.left < jnp.minimum(bound, 1))

    def body(parts):
        left, width, _ = parts
        end = left + width
        rows, noise, is_resolved = interpolated(
            lambda x: values(left + x * width), least
        )
        rough = foreign & ~is_resolved
        halve = jnp.any(rough) & (width > SHORTEST)
        behind = left + width * _leave(rows, sides, foreign & is_resolved, noise)
        changed = rough & have_changed(end)

        def bisect():
            def halved(_, ends):
                low, high = ends
                middle = (low + high) / 2
                is_behind = jnp.any(changed & have_changed(middle))
                low = jnp.where(is_behind, low, middle)
                return low, jnp.where(is_behind, middle, high)

            return jax.lax.fori_loop(0, _BISECTIONS, halved, (left, end))[1]

        is_rough = jnp.any(changed) & ~halve
        by_signs = jax.lax.cond(
            eqxi.unvmap_any(is_rough), bisect, lambda: jnp.full_like(left, jnp.inf)
        )
        found = jnp.minimum(behind, jnp.where(is_rough, by_signs, jnp.inf))
        grown = jnp.minimum(2 * width, 1 - end)
        return _Parts(
            jnp.where(halve, left, end),
            jnp.where(halve, width / 2, grown),
            jnp.where(halve, jnp.inf, found),
        )

    zero, one = jnp.zeros((), dtype), jnp.ones((), dtype)
    start = _Parts(zero, one, one * jnp.inf)
    return jax.lax.while_loop(is_open, body, start).found
