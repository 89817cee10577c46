"""Hybrid systems: solves that go on from each event, with another state."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, Int

from .._core.check import check_integer, check_scalar, describe
from .._core.custom_types import Args, PyTree, RealScalarLike, Y
from .check import check_state
from .event_conditions import check_is_event, read_real_conditions
from .find_events import Events, wanted_directions
from .ode_jet import increment, unit_of
from .solver import TaylorSolver
from .vector_field import as_ode_term


class HybridSolution(eqx.Module):
    """A solution by [`eqx_taylor.hybrid_solve`][].

    **Fields:**

    - `t1`, `y1`: the time and state at which the solve ended.
    - `events`: the events, with the states before they were changed; see
        [`eqx_taylor.Events`][].
    - `ys_after`: the states after they were changed, as `events.ys`.
    - `num_steps`: the number of steps, of which some were rejected.
    - `result`: as for `diffrax.Solution`.

    !!! example

        ```pycon
        >>> import diffrax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import hybrid_solve, TaylorController, TaylorSolver
        >>> # y' = 1, and y is reset at 2.
        >>> solution = hybrid_solve(
        ...     diffrax.ODETerm(lambda t, y, args: 1.0 + 0.0 * y),
        ...     TaylorSolver(order=4),
        ...     t0=0.0,
        ...     t1=5.0,
        ...     dt0=None,
        ...     y0=jnp.array(0.0),
        ...     event=diffrax.Event(lambda t, y, args, **kwargs: y - 2.0),
        ...     update=lambda t, y, args, event_mask: jnp.zeros_like(y),
        ...     max_events=3,
        ...     stepsize_controller=TaylorController(rtol=1e-6, atol=1e-6),
        ... )
        >>> print(solution.events.ts.round(4), solution.y1.round(4))
        [ 2.  4. inf] 1.0
        >>> print(solution.events.ys[:2].round(4), solution.ys_after[:2])
        [2. 2.] [0. 0.]
        ```
    """

    t1: Float[Array, ""]
    y1: PyTree[Array]
    events: Events
    ys_after: PyTree[Array]
    num_steps: Int[Array, ""]
    result: diffrax.RESULTS


class _OnSide(eqx.Module):
    """A condition that is said to be on a `side` at the `start` of a solve, -1 or 1, as
    rounding errors may hide it; with 0 it is what it is."""

    condition: Callable[..., Any]
    start: Array
    side: Array

    def __call__(self, t, y, args, **kwargs):
        value = self.condition(t, y, args, **kwargs)
        # Nothing but the sign is looked at: here by Diffrax, there by the solver.
        large = jnp.asarray(float(jnp.finfo(value.dtype).max) ** 0.5, value.dtype)
        is_said = (t == self.start) & (self.side != 0)
        return jnp.where(is_said, self.side.astype(value.dtype) * large, value)


def hybrid_solve(
    vector_field: Any,
    solver: TaylorSolver,
    t0: RealScalarLike,
    t1: RealScalarLike,
    dt0: RealScalarLike | None,
    y0: Y,
    args: Args = None,
    *,
    event: Any,
    update: Callable[..., Y] | None = None,
    max_events: int,
    stepsize_controller: Any,
    adjoint: Any = None,
    max_steps: int | None = 4096,
    throw: bool = True,
) -> HybridSolution:
    r"""Solves an ODE whose state changes at events: a ball that bounces, a neuron that
    is reset, an engine that is switched on.

    The solve ends at the first event, as `diffrax.diffeqsolve` does; the state is
    changed by `update`; and the solve goes on from there, until `t1`. After an event
    its condition is zero up to rounding errors: it is taken to be on the side to which
    it goes, so that the same root is not found again. Without `update` nothing is
    changed: these are all events of a solution, without keeping the solution.

    It is a loop of static length, `max_events + 1`, that can be jitted and vmapped, and
    differentiated in reverse mode, or in forward mode with
    `adjoint=diffrax.ForwardMode()`. Derivatives know that the time of an event depends
    on the state, and the state after it on the time: their jump at an event (the
    saltation matrix) is that of the implicit function theorem.

    What switches is a part of the state: a leaf with a slope of zero, which `update`
    sets.

    **Arguments:**

    - `vector_field`: a `diffrax.ODETerm`, or a function `f(t, y, args)`.
    - `solver`, `t0`, `t1`, `dt0`, `y0`, `args`, `stepsize_controller`,
        `adjoint`: as for `diffrax.diffeqsolve`; with an [`eqx_taylor.TaylorSolver`][]
        and an [`eqx_taylor.TaylorController`][]. (The solver is told of the event.)
    - `event`: a `diffrax.Event`: its conditions, which must be real, and directions.
        Its root finder is not used. Conditions are functions of `t`, `y` and `args`:
        the keywords that Diffrax passes besides are those of the solve between two
        events.
    - `update`: a function `update(t, y, args, event_mask)` that returns the state after
        an event. `event_mask` has the structure of the conditions, and says by a
        boolean for each which one it is.
    - `max_events`: the number of events that there is room for; at least 1. If there is
        one more, the solve ends there: that is an error, or with `throw=False`
        `events.has_more` is true.
    - `max_steps`: the largest number of steps between two events.
    - `throw`: whether to raise an error if the solve fails, or if there are more events
        than there is room for.

    All from `event` on are keyword only.

    **Returns:**

    [`eqx_taylor.HybridSolution`][].

    **Raises:**

    `TypeError` or `ValueError`, while tracing, for a solver or a controller that are
    others, for an `event` that is no `diffrax.Event`, for conditions that are not real
    scalars, for an `update` that does not return the structure, shapes and dtypes of
    the state, and for a `max_events` that is not an integer or below 1. When it runs: a
    `RuntimeError` for times that are NaN; and if `throw` is true, the error of
    `diffrax.diffeqsolve` if the solve fails, and a `RuntimeError` if there are more
    events than `max_events`.

    !!! example

        ```pycon
        >>> import diffrax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import hybrid_solve, TaylorController, TaylorSolver
        >>> # A ball falls from 5 metres, and loses half of its velocity at each bounce.
        >>> def bounce(t, y, args, event_mask):
        ...     height, velocity = y
        ...     return jnp.zeros_like(height), -0.5 * velocity
        >>> solution = hybrid_solve(
        ...     diffrax.ODETerm(lambda t, y, args: (y[1], -10.0 + 0.0 * y[1])),
        ...     TaylorSolver(order=5),
        ...     t0=0.0,
        ...     t1=2.2,
        ...     dt0=None,
        ...     y0=(jnp.array(5.0), jnp.array(0.0)),
        ...     event=diffrax.Event(lambda t, y, args, **kwargs: y[0]),
        ...     update=bounce,
        ...     max_events=4,
        ...     stepsize_controller=TaylorController(rtol=1e-5, atol=1e-5),
        ... )
        >>> print(solution.events.num_events, solution.events.ts.round(4))
        2 [1. 2. inf inf]
        ```
    """
    max_events = check_integer("hybrid_solve", "max_events", max_events, least=1)
    _check_parts(solver, event, update)
    terms = as_ode_term("hybrid_solve", vector_field)
    for name, t in [("t0", t0), ("t1", t1)]:
        check_scalar("hybrid_solve", name, t)
    y0 = check_state("hybrid_solve", y0)
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(t0, t1, unit_of(jnp.asarray(0.0), y0).dtype)
    t0, t1 = jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)
    conditions = read_real_conditions("hybrid_solve", event, t0, y0, args)
    functions, structure = jtu.tree_flatten(event.cond_fn, is_leaf=callable)
    wanted = wanted_directions(event)
    update = _checked(update, y0)
    sign = jnp.where(t0 <= t1, 1, -1).astype(dtype)
    kwargs = {} if adjoint is None else dict(adjoint=adjoint)

    def slopes(t, y):
        """The values of the conditions, and their slopes along the solution."""
        unit = jnp.ones_like(unit_of(t, y))
        control = terms.contr(jnp.zeros_like(unit), unit)
        slope = increment(terms, t, y, args, control)
        tangents = jnp.ones_like(t), slope
        return *jax.jvp(conditions.values, (t, y), tangents), slope

    def to_root(start, t, y, flags):
        """Goes back to the event, by one step of Newton's method, which is the implicit
        function theorem; along the slope, as the way is a few roundings."""
        values, before, slope = slopes(t, y)
        before = jax.lax.stop_gradient(before)
        usable = flags & jnp.isfinite(before) & (before != 0)
        step = jnp.where(usable, values / jnp.where(usable, before, 1), 0)
        dt = -jnp.sum(step).astype(t.dtype)
        # Not to before the start: the way is longer where the slope is next to zero.
        room = jax.lax.stop_gradient(jnp.abs(t - start))
        dt = dt + jax.lax.stop_gradient(jnp.clip(dt, -room, room) - dt)
        y = jtu.tree_map(lambda y, f: y + f * dt.astype(y.dtype), y, slope)
        return t + dt, y, before

    def sides_after(t, y, crossed, behind, old):
        """The side of zero on which each condition is, which rounding errors may hide.
        `crossed` is the side to which those went that have just changed their sign, and
        0 for the others, which are where they were."""
        t, y = jax.lax.stop_gradient((t, y))
        values, slope, field = jax.lax.stop_gradient(slopes(t, y))
        # Of a condition that starts at zero, and at rest: a body that is let go.
        tangents = jnp.ones_like(t), field
        _, bend = jax.jvp(lambda t, y: slopes(t, y)[1], (t, y), tangents)
        bend = jax.lax.stop_gradient(bend)
        slope = slope * sign.astype(slope.dtype)
        size = _size(conditions.values, t, y)
        at_zero = _in_roundings(values) <= size + _moved(t, slope)
        # The new state may have turned the way around: that of a ball at a bounce.
        same_way = jnp.sign(slope) * jnp.sign(behind)
        there = jnp.where(same_way == 0, crossed, crossed * same_way)
        known = jnp.where(crossed != 0, there, old)
        known = jnp.where(known != 0, known, jnp.sign(slope))
        known = jnp.where(known != 0, known, jnp.sign(bend))
        return jnp.where(at_zero, known, jnp.sign(values))

    def segment(carry, _):
        start, y, sides, result, has_ended = carry
        watched = [
            _OnSide(f, jax.lax.stop_gradient(start * sign), sides[i])
            for i, f in enumerate(functions)
        ]
        # The step ends behind the event by a few roundings: no root finder is needed.
        conds = jtu.tree_unflatten(structure, watched)
        watched = diffrax.Event(conds, None, event.direction)
        solution = diffrax.diffeqsolve(
            terms,
            eqx.tree_at(lambda s: s.event, solver, watched, is_leaf=_is_none),
            start,
            jnp.where(has_ended, start, t1),
            dt0,
            y,
            args,
            event=watched,
            stepsize_controller=stepsize_controller,
            max_steps=max_steps,
            throw=False,
            **kwargs,
        )
        ended: Any = solution.ts, solution.ys
        t, y = jtu.tree_map(lambda x: x[0], ended)
        mask = solution.event_mask
        flags = jnp.stack(jtu.tree_leaves(mask)) & ~has_ended
        occurred = jnp.any(flags) & (solution.result == diffrax.RESULTS.event_occurred)
        result = diffrax.RESULTS.where(has_ended, result, solution.result)
        # Where a direction is given, the condition may have crossed zero the other way
        # since the last event.
        towards = jnp.where(wanted == 0, -sides, wanted.astype(sides.dtype))
        crossed = jnp.where(flags, towards, 0)
        t, y, before = to_root(start, t, y, flags)
        after = update(t, y, args, mask)
        after = jtu.tree_map(lambda a, b: jnp.where(occurred, a, b), after, y)
        behind = before * sign.astype(before.dtype)
        new_sides = sides_after(t, after, crossed, behind, sides)
        upwards = jnp.any(crossed > 0)
        index = jnp.where(occurred, jnp.argmax(flags), -1)
        out = t, y, after, index, upwards, solution.stats["num_steps"]
        return (t, after, new_sides, result, has_ended | ~occurred), out

    result = diffrax.RESULTS.where(
        jnp.array(True), diffrax.RESULTS.successful, diffrax.RESULTS.successful
    )
    unknown = jnp.zeros_like(conditions.values(t0, y0))
    sides = sides_after(t0, y0, unknown, unknown, unknown)
    start = t0, y0, sides, result, jnp.array(False)
    (t, y, _, result, has_ended), outs = jax.lax.scan(
        segment, start, None, length=max_events + 1
    )
    ts, ys, after, index, upwards, steps = outs
    first = jtu.tree_map(lambda x: x[:max_events], (ts, ys, after, index, upwards))
    ts, ys, after, index, upwards = first
    masks = [index == i for i in range(len(functions))]
    events = Events(
        jnp.where(index >= 0, ts, jnp.inf),
        ys,
        index,
        jtu.tree_unflatten(structure, masks),
        upwards,
        jnp.sum(index >= 0),
        ~has_ended,
    )
    # The last state is that at an event for which there was no room.
    y = jtu.tree_map(lambda all_ys, y: jnp.where(has_ended, y, all_ys[-1]), outs[1], y)
    # Diffrax takes it for an end that has been reached.
    y = eqx.error_if(y, jnp.isnan(t1 - t0), _NOT_A_TIME)
    if throw:
        failed = ~(diffrax.is_okay(result))
        y = result.error_if(y, failed)
        y = eqx.error_if(y, ~has_ended, _TOO_MANY.format(max_events))
    return HybridSolution(t, y, events, after, jnp.sum(steps), result)


_NOT_A_TIME = (
    "hybrid_solve: `t0` and `t1` must be numbers between which there is a length of "
    "time; got NaN, or two infinite ones."
)


_TOO_MANY = (
    "hybrid_solve: there are more events than `max_events`={}. The solve ended at the "
    "first for which there is no room. Raise `max_events`, or pass `throw=False` and "
    "look at `events.has_more`."
)


def _in_roundings(values: Array) -> Array:
    """Absolute values in units of so many roundings: what may be next to underflow is
    not multiplied by one."""
    return jnp.abs(values) / (1e3 * float(jnp.finfo(values.dtype).eps))


def _moved(t: Array, slope: Array) -> Array:
    """The change of a condition in so much time as an event may be wrong by, in the
    same units."""
    ratio = float(jnp.finfo(t.dtype).eps) / float(jnp.finfo(slope.dtype).eps)
    return jnp.abs(slope) * (ratio * (1 + jnp.abs(t))).astype(slope.dtype)


def _size(values: Callable[..., Array], t: Array, y: Y) -> Array:
    """The sizes of what conditions are made of: derivatives times their arguments."""
    by_t, by_y = jax.lax.stop_gradient(jax.jacrev(values, argnums=(0, 1))(t, y))
    total = jnp.abs(by_t) * jnp.abs(t).astype(by_t.dtype)
    for slope, leaf in zip(jtu.tree_leaves(by_y), jtu.tree_leaves(y)):
        product = jnp.abs(slope * leaf[None])
        total = total + jnp.sum(product.reshape(len(total), -1), axis=1)
    return total


def _is_none(x: Any) -> bool:
    return x is None


def _check_parts(solver: Any, event: Any, update: Any) -> None:
    if not isinstance(solver, TaylorSolver):
        raise TypeError(
            "hybrid_solve: `solver` must be an `eqx_taylor.TaylorSolver`; got "
            f"{describe(solver)}."
        )
    check_is_event("hybrid_solve", event)
    if update is not None and not callable(update):
        raise TypeError(
            "hybrid_solve: `update` must be a function `update(t, y, args, event_mask)`"
            f"; got {describe(update)}."
        )


def _checked(update: Any, y0: Y) -> Callable[..., Y]:
    """Makes a function of `update` that returns a state like `y0`."""
    if update is None:
        return lambda t, y, args, event_mask: y

    def call(t, y, args, event_mask):
        out = update(t, y, args, event_mask)
        if jtu.tree_structure(out) != jtu.tree_structure(y):
            raise ValueError(
                "hybrid_solve: `update` must return a state of the structure of `y0`, "
                f"{jtu.tree_structure(y)}; got {jtu.tree_structure(out)}."
            )

        def leaf(path, new, old):
            new = jnp.asarray(new)
            if new.shape != old.shape or new.dtype != old.dtype:
                raise ValueError(
                    "hybrid_solve: `update` must keep shapes and dtypes of the state; "
                    f"y{jtu.keystr(path)} is {describe(old)}, and became "
                    f"{describe(new)}."
                )
            return new

        return jtu.tree_map_with_path(leaf, out, y)

    return call
