"""All events of a dense solution, in order."""

from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, Int

from .._core.check import check_integer
from .._core.custom_types import Args, PyTree
from .event_conditions import (
    check_is_event,
    condition_series,
    Conditions,
    evaluate_polynomials,
    polynomials_of_step,
    read_real_conditions,
)
from .event_steps import series_differ, SHORTEST, size_of_parts
from .interpolated import Interpolated, interpolated, NODES
from .interpolation import TaylorInterpolation
from .roots import departure, first_crossing, NOISE, noise_of, normalised, restricted
from .small_loop import in_small_loop


_BISECTIONS = 60


class Events(eqx.Module):
    """The events that [`eqx_taylor.find_events`][] finds, or those of a solution by
    [`eqx_taylor.hybrid_solve`][]. Arrays have a leading axis of length `max_events`;
    entries after the last event are padding.

    **Fields:**

    - `ts`: the times; infinity after the last event.
    - `ys`: the states at these times, a PyTree of the structure of the state.
    - `index`: the condition that is zero, as its position in `jax.tree.leaves` of the
        conditions; -1 after the last event.
    - `event_mask`: the same information as a PyTree of the structure of the conditions.
        It has a boolean for each condition, whether it is the one that is zero.
    - `upwards`: whether the condition grows, in the direction of the solve.
    - `num_events`: the number of events that were found.
    - `has_more`: whether there are more than `max_events` events. If so, these are the
        first ones.

    !!! example

        ```pycon
        >>> import diffrax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import find_events, TaylorController, TaylorSolver
        >>> solution = diffrax.diffeqsolve(
        ...     diffrax.ODETerm(lambda t, y, args: 1.0 + 0.0 * y),  # y = t
        ...     solver=TaylorSolver(order=4),
        ...     t0=0.0,
        ...     t1=5.0,
        ...     dt0=None,
        ...     y0=jnp.array(0.0),
        ...     stepsize_controller=TaylorController(rtol=1e-6, atol=1e-6),
        ...     saveat=diffrax.SaveAt(dense=True),
        ... )
        >>> conditions = dict(
        ...     falls=lambda t, y, args, **kwargs: 3.0 - y,
        ...     grows=lambda t, y, args, **kwargs: y - 1.0,
        ... )
        >>> events = find_events(solution, diffrax.Event(conditions), max_events=3)
        >>> print(events.ts, events.ys[:2], events.index, events.upwards)
        [ 1.  3. inf] [1. 3.] [ 1  0 -1] [ True False False]
        >>> print(events.event_mask["grows"], events.num_events, events.has_more)
        [ True False False] 2 False
        ```
    """

    ts: Float[Array, " max_events"]
    ys: PyTree[Array]
    index: Int[Array, " max_events"]
    event_mask: PyTree[Bool[Array, " max_events"]]
    upwards: Bool[Array, " max_events"]
    num_events: Int[Array, ""]
    has_more: Bool[Array, ""]


def find_events(
    solution: diffrax.Solution,
    event: diffrax.Event,
    args: Args = None,
    *,
    max_events: int,
) -> Events:
    r"""Finds all events of a solution, in the order in which they occur.

    A dense solution by [`eqx_taylor.TaylorSolver`][] is a polynomial on each step. One
    more Taylor expansion for each step gives the polynomial of a condition. Its
    coefficients in Bernstein's basis locate all of its sign changes, however many there
    are in a step. This needs no further evaluation of the vector field, and no root
    finder.

    The events are those in $(t_0, t_1]$: a condition that is zero at the start has no
    event there. A condition that touches zero and turns back has no event, and neither
    has one that crosses zero by less than rounding errors. So if two roots are closer
    to each other than $10^{-7}$ of a step, both may be missed.

    If a condition differs from its Taylor series, as after a kink (`abs`,
    `jnp.where`), the step is divided, down to 1/64 of its length.

    Times and states can be differentiated, in both modes, with respect to everything on
    which the solution and the conditions depend.

    **Arguments:**

    - `solution`: a solution by `diffrax.diffeqsolve` with `TaylorSolver` and
        `SaveAt(dense=True)`.
    - `event`: a `diffrax.Event`. Its conditions `f(t, y, args, **kwargs)`, which must
        be real, and its directions are used; its root finder is not. Conditions are
        called with `t`, `y` and `args` alone.
    - `args`: passed to the conditions.
    - `max_events`: the largest number of events to return, at least 1. Keyword only.

    **Returns:**

    An [`eqx_taylor.Events`][].

    **Raises:**

    `TypeError` or `ValueError`, while tracing, if the solution is not dense or not by
    `TaylorSolver`, if `event` is not a `diffrax.Event`, if a condition raises or does
    not return a real scalar, or if `max_events` is not an integer of at least 1.

    !!! example

        ```pycon
        >>> import diffrax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import find_events, TaylorController, TaylorSolver
        >>> solution = diffrax.diffeqsolve(
        ...     diffrax.ODETerm(lambda t, y, args: (y[1], -y[0])),
        ...     solver=TaylorSolver(order=8),
        ...     t0=0.0,
        ...     t1=8.0,
        ...     dt0=None,
        ...     y0=(jnp.array(0.0), jnp.array(1.0)),
        ...     stepsize_controller=TaylorController(rtol=1e-6, atol=1e-6),
        ...     saveat=diffrax.SaveAt(dense=True),
        ... )
        >>> # The sine is zero at 0, where the solve starts, at pi and at 2 pi.
        >>> event = diffrax.Event(lambda t, y, args, **kwargs: y[0])
        >>> events = find_events(solution, event, max_events=4)
        >>> print(events.num_events, events.ts.round(3), events.upwards)
        2 [3.142 6.283   inf   inf] [False  True False False]
        ```
    """
    max_events = check_integer("find_events", "max_events", max_events, least=1)
    interpolation = _check_solution(solution)
    check_is_event("find_events", event)
    t0 = jnp.asarray(interpolation.t0)
    y0 = jtu.tree_map(lambda c: c[0, 0], interpolation.infos["coefficients"])
    conditions = read_real_conditions("find_events", event, t0, y0, args)
    structure = jtu.tree_structure(event.cond_fn, is_leaf=callable)
    found = _search(interpolation, conditions, wanted_directions(event), max_events)
    ts, ys = _differentiable(interpolation, conditions, found)
    exists = found.index >= 0
    mask = [found.index == i for i in range(conditions.number)]
    return Events(
        jnp.where(exists, ts, jnp.inf),
        ys,
        found.index,
        jtu.tree_unflatten(structure, mask),
        found.upwards,
        jnp.minimum(found.count, max_events),
        found.count > max_events,
    )


def wanted_directions(event: diffrax.Event) -> Array:
    """Returns, for each condition, 1 if its events are upwards, -1 if they are
    downwards, and 0 for both."""
    directions = jtu.tree_leaves(event.direction, is_leaf=lambda x: x is None)
    return jnp.array([0 if d is None else 2 * int(d) - 1 for d in directions])


def _check_solution(solution: Any) -> Any:
    interpolation = getattr(solution, "interpolation", None)
    if interpolation is None:
        raise ValueError(
            "find_events: `solution` must be dense: solve with "
            "`saveat=diffrax.SaveAt(dense=True)`."
        )
    kind = getattr(interpolation, "interpolation_cls", None)
    if kind is not TaylorInterpolation:
        raise TypeError(
            "find_events: the solution must be by `eqx_taylor.TaylorSolver`, whose "
            f"dense output is a Taylor polynomial; its interpolation is {kind!r}."
        )
    return interpolation


class _Found(NamedTuple):
    """The events found so far, and the state of the search. It is in a step, in the
    part `[left, left + width]` of it, and for each condition after `start` in that
    part, where the condition is on this `side` of zero."""

    ts: Array
    index: Array
    upwards: Array
    count: Array
    step: Array
    left: Array
    width: Array
    start: Array
    side: Array


def _search(
    interpolation: Any, conditions: Conditions, wanted: Array, max_events: int
) -> _Found:
    """Finds all events, without derivatives."""
    arrays, static = eqx.partition(interpolation, eqx.is_array)
    interpolation = eqx.combine(jax.lax.stop_gradient(arrays), static)
    times, infos = interpolation.ts, interpolation.infos
    direction = jnp.asarray(interpolation.direction, times.dtype)
    # For every kind of solution, the times of the ends of steps are in `ts`.
    number = interpolation.ts_size - 1

    def cond(found):
        return (found.step < number) & (found.count <= max_events)

    def body(found):
        step, left, width = found.step, found.left, found.width
        t0, t1 = times[step], times[step + 1]
        info = jtu.tree_map(lambda x: x[step], infos)
        whole = polynomials_of_step(info["coefficients"], info["unit"], t1 - t0)
        curves = jtu.tree_map(lambda c: _part_of(c, left, width), whole)
        start_time = direction * (t0 + left * (t1 - t0))
        h = direction * (t1 - t0) * width

        def series_of(one):
            [terms] = condition_series("find_events", one, start_time, h, curves)
            return [jnp.stack(terms)]

        # Each condition has a loop of its own, as large loops take long to compile.
        rows = [
            in_small_loop(lambda one=one: series_of(one))[0]
            for one in conditions.apart()
        ]
        rows, factors = normalised(jnp.stack(rows))

        def values(x):
            y = evaluate_polynomials(curves, x)
            t = start_time + x.astype(h.dtype) * h
            return jax.lax.stop_gradient(conditions.values(t, y) * factors)

        one = jnp.ones((), rows.dtype)
        at_end = values(one)
        differ = series_differ(rows, values, at_end)

        length = max(rows.shape[1], NODES)
        by_series = Interpolated(_padded(rows, length), noise_of(rows), ~differ)

        def by_nodes():
            y1 = evaluate_polynomials(curves, one)
            size = size_of_parts(conditions, start_time + h, y1) * factors
            least = NOISE * float(jnp.finfo(size.dtype).eps) * size
            new, noise, is_resolved = interpolated(values, least)
            new = jnp.where(differ[:, None], _padded(new, length), by_series.rows)
            noise = jnp.where(differ, noise, by_series.noise)
            return Interpolated(new, noise, is_resolved | ~differ)

        # The low orders of a series are exact, whatever it leaves out.
        leaving = departure(rows, by_series.noise)
        # Conditions that are not their series are interpolated.
        rows, noise, is_resolved = jax.lax.cond(
            eqxi.unvmap_any(jnp.any(differ)), by_nodes, lambda: by_series
        )
        side = found.side.astype(rows.dtype)
        side = jnp.where(side == 0, leaving, side)
        foreign = ~is_resolved
        halve = jnp.any(foreign) & (width > SHORTEST)
        looked_at = jnp.where(foreign, 0, side)
        start = found.start.astype(rows.dtype)
        root, behind = first_crossing(rows, looked_at, start, noise)
        # Accepts a root at the very end of the solution.
        ends = (step == number - 1) & (left + width >= 1)
        at_zero = jnp.abs(jnp.sum(rows, axis=1)) <= noise
        last = ends & at_zero & (side != 0) & (start < 1) & jnp.isinf(root) & ~foreign
        root, behind = (jnp.where(last, 1, x) for x in (root, behind))
        # For a condition that is no polynomial, the signs at both ends of the part are
        # compared.
        changed = foreign & (side * at_end < 0) & (start < 1)
        by_values = jax.lax.cond(
            jnp.any(changed), lambda: _bisect(values, side), lambda: root
        )
        root = jnp.where(changed, by_values, root)
        behind = jnp.where(changed, 1, behind)

        row = jnp.argmin(root)
        is_found = jnp.isfinite(root[row]) & ~halve
        upwards = side[row] < 0
        sign = jnp.where(upwards, 1, -1)
        is_event = is_found & ((wanted[row] == 0) | (wanted[row] == sign))
        x = jnp.where(is_found, root[row], 0).astype(times.dtype)
        t = t0 + (left + x * width) * (t1 - t0)
        # The event is not written if there is no room.
        place = jnp.where(is_event, found.count, max_events)
        ts = found.ts.at[place].set(t, mode="drop")
        index = found.index.at[place].set(row, mode="drop")
        all_upwards = found.upwards.at[place].set(upwards, mode="drop")

        passed = ~is_found & ~halve
        here = (jnp.arange(conditions.number) == row) & is_found
        start = jnp.where(here, behind, jnp.where(passed, 0, start))
        side = jnp.where(here, -side, side)
        end = left + width
        next_step = passed & (end >= 1)
        new_left = jnp.where(next_step, 0, jnp.where(passed, end, left))
        grown = jnp.where(next_step, 1, jnp.minimum(2 * width, 1 - end))
        width = jnp.where(halve, width / 2, jnp.where(passed, grown, width))
        return _Found(
            *(ts, index, all_upwards, found.count + is_event.astype(int)),
            *(step + next_step.astype(int), new_left, width),
            start.astype(found.start.dtype),
            side.astype(found.side.dtype),
        )

    number_of_conditions = conditions.number
    zeros = jnp.zeros(number_of_conditions, times.dtype)
    nothing = _Found(
        jnp.full(max_events, jnp.inf, times.dtype),
        jnp.full(max_events, -1),
        jnp.zeros(max_events, bool),
        jnp.array(0),
        jnp.array(0),
        jnp.zeros((), times.dtype),
        jnp.ones((), times.dtype),
        zeros,
        zeros,
    )
    return jax.lax.while_loop(cond, body, nothing)


def _part_of(c: Array, left: Array, width: Array) -> Array:
    """Returns the polynomial on a part of the step, whose length is the unit."""
    dtype = jnp.finfo(c.dtype).dtype
    left, width = (x.astype(dtype).astype(c.dtype) for x in (left, width))
    return jnp.moveaxis(restricted(jnp.moveaxis(c, 0, -1), left, width), -1, 0)


def _padded(rows: Array, length: int) -> Array:
    """Adds coefficients of zero to polynomials."""
    return jnp.pad(rows, ((0, 0), (0, length - rows.shape[1])))


def _bisect(values: Any, side: Array) -> Array:
    """Finds for each condition a change of sign in [0, 1]."""
    points = jax.vmap(values)

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        there = jnp.diagonal(points(middle)) * side <= 0
        return jnp.where(there, low, middle), jnp.where(there, middle, high)

    ends = jnp.zeros_like(side), jnp.ones_like(side)
    return jax.lax.fori_loop(0, _BISECTIONS, halve, ends)[1]


def _differentiable(
    interpolation: Any, conditions: Conditions, found: _Found
) -> tuple[Array, PyTree[Array]]:
    """Returns times and states of the events that were found, with their derivatives.
    These come from one step of Newton's method, by the implicit function theorem."""
    direction = jnp.asarray(interpolation.direction, found.ts.dtype)
    ends = jax.lax.stop_gradient((interpolation.t0, interpolation.t1))
    low, high = jnp.minimum(*ends), jnp.maximum(*ends)

    def of_event(t, index):
        exists = index >= 0
        t = jax.lax.stop_gradient(jnp.where(exists, t * direction, ends[0]))

        def value(t):
            return conditions.values(t, interpolation.evaluate(t))[index]

        value_there, slope = jax.jvp(value, (t,), (jnp.ones_like(t),))
        slope = jax.lax.stop_gradient(slope)
        usable = exists & jnp.isfinite(slope) & (slope != 0)
        step = value_there.astype(t.dtype) / jnp.where(usable, slope, 1).astype(t.dtype)
        step = jnp.where(usable, step, 0)
        # The root is known up to rounding errors. If the slope is near zero, it would
        # amplify these in the value, so the step is bounded. Its derivative is kept.
        room = 1e-6 * (high - low)
        bounded = jnp.clip(
            t - step, jnp.maximum(low, t - room), jnp.minimum(high, t + room)
        )
        t = (t - step) + jax.lax.stop_gradient(bounded - (t - step))
        return t, interpolation.evaluate(t)

    return jax.vmap(of_event)(found.ts, found.index)
