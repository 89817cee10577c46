"""Hybrid systems: solves that continue after each event, with a changed state."""

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
    - `events`: the events, with the states before the updates; see
        [`eqx_taylor.Events`][].
    - `ys_after`: the states after the updates, in the form of `events.ys`.
    - `num_steps`: the number of steps, accepted and rejected.
    - `result`: the same as for `diffrax.Solution`.

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
    """A condition that is set to a `side` of zero, -1 or 1, at the `start` of a solve,
    where rounding errors may hide its sign. With 0 it is unchanged."""

    condition: Callable[..., Any]
    start: Array
    side: Array

    def __call__(self, t, y, args, **kwargs):
        value = self.condition(t, y, args, **kwargs)
        # Diffrax and the solver use only the sign of this value.
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

    The equation is solved up to the first event, as by `diffrax.diffeqsolve`. Then
    `update` changes the state, and the solve continues from there, until `t1`. Just
    after an event its condition is zero up to rounding errors. It counts as being on
    the side to which it goes, so that the same root is not found again. Without
    `update` the state does not change: this finds all events of a solution, without
    storing the solution.

    It is a loop of static length, `max_events + 1`. It can be used under `jax.jit` and
    `jax.vmap`, and differentiated in reverse mode, or in forward mode with
    `adjoint=diffrax.ForwardMode()`. Derivatives include that the time of an event
    depends on the state, and the state after it on the time: their jump at an event
    (the saltation matrix) follows from the implicit function theorem.

    To switch between several vector fields, add a leaf with slope zero to the state,
    and set it in `update`.

    **Arguments:**

    - `vector_field`: a `diffrax.ODETerm`, or a function `f(t, y, args)`.
    - `solver`, `t0`, `t1`, `dt0`, `y0`, `args`, `stepsize_controller`, `adjoint`: as
        for `diffrax.diffeqsolve`. The solver must be an [`eqx_taylor.TaylorSolver`][],
        and the controller an [`eqx_taylor.TaylorController`][]. (The event is passed to
        the solver.)
    - `event`: a `diffrax.Event`. Its conditions, which must be real, and its directions
        are used; its root finder is not. Conditions are functions of `t`, `y` and
        `args`; the further keywords that Diffrax passes belong to the solve between two
        events.
    - `update`: a function `update(t, y, args, event_mask)` that returns the state after
        an event. `event_mask` has the structure of the conditions, with a boolean for
        each, whether the event is its own.
    - `max_events`: the largest number of events, at least 1. If there is one more, the
        solve ends there. This is an error, or, with `throw=False`, `events.has_more` is
        true.
    - `max_steps`: the largest number of steps between two events.
    - `throw`: whether to raise an error if the solve fails, or if there are more than
        `max_events` events.

    All arguments from `event` on are keyword only.

    **Returns:**

    An [`eqx_taylor.HybridSolution`][].

    **Raises:**

    `TypeError` or `ValueError`, while tracing, if the solver or the controller is
    another one, if `event` is not a `diffrax.Event`, if a condition does not return a
    real scalar, if `update` does not return the structure, shapes and dtypes of the
    state, or if `max_events` is not an integer of at least 1. When it runs,
    `RuntimeError` if a time is NaN or both are infinite. If `throw` is true, also the
    error of `diffrax.diffeqsolve` if the solve fails, and `RuntimeError` if there are
    more than `max_events` events.

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
        """Returns the values of the conditions, their slopes along the solution, and
        the slope of the solution."""
        unit = jnp.ones_like(unit_of(t, y))
        control = terms.contr(jnp.zeros_like(unit), unit)
        slope = increment(terms, t, y, args, control)
        tangents = jnp.ones_like(t), slope
        return *jax.jvp(conditions.values, (t, y), tangents), slope

    def to_root(start, t, y, flags):
        """Goes back to the event, by one step of Newton's method, which gives the
        derivatives of the implicit function theorem. The step is along the slope, as
        its length is a few roundings."""
        values, before, slope = slopes(t, y)
        before = jax.lax.stop_gradient(before)
        usable = flags & jnp.isfinite(before) & (before != 0)
        step = jnp.where(usable, values / jnp.where(usable, before, 1), 0)
        dt = -jnp.sum(step).astype(t.dtype)
        # Not to before the start, as the step may be long if the slope is near zero.
        room = jax.lax.stop_gradient(jnp.abs(t - start))
        dt = dt + jax.lax.stop_gradient(jnp.clip(dt, -room, room) - dt)
        y = jtu.tree_map(lambda y, f: y + f * dt.astype(y.dtype), y, slope)
        return t + dt, y, before

    def sides_after(t, y, crossed, behind, old):
        """Returns the side of zero on which each condition is, which rounding errors
        may hide. `crossed` is the new side of conditions that have just changed their
        sign, and 0 for the others, which stay on their old side."""
        t, y = jax.lax.stop_gradient((t, y))
        values, slope, field = jax.lax.stop_gradient(slopes(t, y))
        # The second derivative decides for a condition that starts from zero at rest,
        # such as the height of a body that is dropped.
        tangents = jnp.ones_like(t), field
        _, bend = jax.jvp(lambda t, y: slopes(t, y)[1], (t, y), tangents)
        bend = jax.lax.stop_gradient(bend)
        slope = slope * sign.astype(slope.dtype)
        size = _size(conditions.values, t, y)
        at_zero = _in_roundings(values) <= size + _moved(t, slope)
        # The update may have changed the direction, as for a ball that bounces.
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
        # The step ends a few roundings after the event, so no root finder is needed.
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
        # If a direction is given, the condition may have crossed zero in the other
        # direction since the last event.
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
    # The last state is that at the first event beyond `max_events`, before an update.
    y = jtu.tree_map(lambda all_ys, y: jnp.where(has_ended, y, all_ys[-1]), outs[1], y)
    # To Diffrax, a solve whose end is NaN has ended.
    y = eqx.error_if(y, jnp.isnan(t1 - t0), _NOT_A_TIME)
    if throw:
        failed = ~(diffrax.is_okay(result))
        y = result.error_if(y, failed)
        y = eqx.error_if(y, ~has_ended, _TOO_MANY.format(max_events))
    return HybridSolution(t, y, events, after, jnp.sum(steps), result)


_NOT_A_TIME = (
    "hybrid_solve: `t0` and `t1` must not be NaN, and must not both be infinite. Pass "
    "a finite `t0`."
)


_TOO_MANY = (
    "hybrid_solve: there are more events than `max_events`={}. The solve ended at the "
    "first of the others. Raise `max_events`, or pass `throw=False` and check "
    "`events.has_more`."
)


def _in_roundings(values: Array) -> Array:
    """Returns absolute values in units of 1000 roundings. (A value near underflow is
    not multiplied by one.)"""
    return jnp.abs(values) / (1e3 * float(jnp.finfo(values.dtype).eps))


def _moved(t: Array, slope: Array) -> Array:
    """Returns the change of a condition, in the same units, over the error that the
    time of an event may have."""
    ratio = float(jnp.finfo(t.dtype).eps) / float(jnp.finfo(slope.dtype).eps)
    return jnp.abs(slope) * (ratio * (1 + jnp.abs(t))).astype(slope.dtype)


def _size(values: Callable[..., Array], t: Array, y: Y) -> Array:
    """Returns the sizes of the terms of each condition: of its derivatives times their
    arguments."""
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
            f"{describe(solver)}. Make one with `eqx_taylor.taylor_method`."
        )
    check_is_event("hybrid_solve", event)
    if update is not None and not callable(update):
        raise TypeError(
            "hybrid_solve: `update` must be a function `update(t, y, args, event_mask)`"
            f"; got {describe(update)}."
        )


def _checked(update: Any, y0: Y) -> Callable[..., Y]:
    """Wraps `update`, so that it is checked to return a state like `y0`."""
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
                    f"y{jtu.keystr(path)} is {describe(old)}, and the new one is "
                    f"{describe(new)}."
                )
            return new

        return jtu.tree_map_with_path(leaf, out, y)

    return call
