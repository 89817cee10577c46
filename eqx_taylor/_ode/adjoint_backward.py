"""The reverse pass of `ReplayAdjoint`: steps are recomputed, the last one first."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._core.custom_types import Y
from .adjoint_record import Record
from .adjoint_step import Pass, Step


class Carry(NamedTuple):
    """The state of the reverse pass after a step. A name with `bar` is a cotangent.

    **Fields:**

    - `i`: the number of the step.
    - `t`, `y`: time and state at its end.
    - `t_bar`, `y_bar`, `carried_bar`: the cotangents of these, and of what the solver
        carries.
    - `indices`: for each `diffrax.SubSaveAt`, the numbers of its times and of its saved
        rows before the end of the step.
    - `functions_bar`, `times_bar`: the cotangents of the inputs on which all steps
        depend, summed so far.
    """

    i: Array
    t: Array
    y: Y
    t_bar: Array
    y_bar: PyTree[Array]
    carried_bar: PyTree[Array]
    indices: list[tuple[Array, Array]]
    functions_bar: Any
    times_bar: Any


def backward(
    residuals: Any,
    out_bar: Any,
    perturbed: Any,
    inputs: Any,
    steps: Any,
    every: int,
) -> Any:
    """Computes the cotangents of the `inputs` of `replayed_loop`."""
    last, record = residuals
    moving = [
        eqx.filter(eqx.filter(tree, eqx.is_inexact_array), moves)
        for tree, moves in zip(inputs, perturbed)
    ]
    init_moving, functions_moving, times_moving, _ = moving
    time_moves = jtu.tree_leaves((init_moving.tprev, times_moving)) != []
    t_bar = filled(out_bar.tprev, last.tprev)
    # If there is no step, the last one counts as a step of length zero.
    none = last.num_accepted_steps == 0
    for bar in (out_bar.event_tprev, out_bar.event_tnext):
        t_bar = t_bar if bar is None else t_bar + jnp.where(none, bar, 0)
    back = _Backward(inputs, functions_moving, times_moving, time_moves, out_bar, last)
    carried = steps.carried(last)
    carry = Carry(
        last.num_accepted_steps - 1,
        last.tprev,
        last.y,
        t_bar,
        _constant(filled(out_bar.y, last.y), out_bar, steps.constant),
        None if carried is None else filled(out_bar.solver_state, carried),
        [(s.saveat_ts_index, s.save_index) for s in save_states(last.save_state)],
        _zeros(functions_moving),
        _zeros(times_moving),
    )

    done = _over_all_passes(back, carry, record, steps, every)
    nothing = jtu.tree_map(lambda _: None, eqx.filter(inputs, eqx.is_inexact_array))
    init_bar = dataclasses.replace(
        nothing.init_state,
        y=done.y_bar,
        tprev=done.t_bar,
        # The cotangents of what was saved before the first step. The solve overwrites
        # the other rows.
        save_state=out_bar.save_state,
        dense_ts=out_bar.dense_ts,
    )
    if carried is not None:
        init_bar = dataclasses.replace(init_bar, solver_state=done.carried_bar)
    return type(inputs)(init_bar, done.functions_bar, done.times_bar, nothing.run)


def _over_all_passes(
    back: "_Backward", carry: Carry, record: Record, steps: Any, every: int
) -> Carry:
    """Goes back from the last pass to the first. Before it goes back from one kept
    state to the one before, it recomputes the states between them in forward order."""
    ways = len(back.functions.ways)

    def is_taken(q):
        """Returns whether the step of a pass was accepted, and was made in this way."""
        accepted, note = jtu.tree_map(
            lambda rows: rows[q // ways],
            (record.passes.accepted, record.passes.step.note),
        )
        return accepted & (steps.way(note) == q % ways)

    def last_taken(q):
        """Returns the last pass up to this one, together with a way, that is taken in
        any lane of a `vmap`; or a number below 0."""
        return jax.lax.while_loop(
            lambda q: (q >= 0) & ~eqxi.unvmap_any(is_taken(q)), lambda q: q - 1, q
        )

    def over(q, first, carry, states):
        """Goes back from `q` to pass `first`, whose state is in the first row of
        `states`."""

        def body(state):
            q, carry = state
            done = record.one(q // ways, states, q // ways - first)
            by_way = [lambda carry, k=k: back(carry, done, k) for k in range(ways)]
            new = jax.lax.switch(q % ways, by_way, carry)
            mine = is_taken(q)
            carry = jtu.tree_map(lambda x, y: jnp.where(mine, x, y), new, carry)
            return last_taken(q - 1), carry

        return jax.lax.while_loop(
            lambda state: state[0] >= first * ways, body, (q, carry)
        )

    def advanced(i, state):
        for way in range(ways):
            mine = is_taken(i * ways + way)

            def made(state, way=way, mine=mine):
                states = jtu.tree_map(lambda x: x[None], state)
                made = back.functions.ways[way](record.one(i, states, 0).step)
                new = made.y, made.carried
                return jtu.tree_map(lambda x, y: jnp.where(mine, x, y), new, state)

            any_mine = eqxi.unvmap_any(mine)
            state = jax.lax.cond(any_mine, made, lambda state: state, state)
        return state

    def over_part(state):
        q, carry = state
        first = q // ways // every * every
        states = record.states_from(first, q // ways, every, advanced)
        return over(q, first, carry, states)

    # The lane with the most passes determines their number.
    q = last_taken(ways * eqxi.unvmap_max(back.last.num_steps) - 1)
    if every == 1:
        return over(q, 0, carry, record.states)[1]
    return jax.lax.while_loop(lambda state: state[0] >= 0, over_part, (q, carry))[1]


class _Backward:
    """The reverse pass over one step."""

    def __init__(
        self, inputs, functions_moving, times_moving, time_moves, out_bar, last
    ):
        self.functions = inputs.functions
        self.times = inputs.times
        self.functions_moving = functions_moving
        self.times_moving = times_moving
        self.time_moves = time_moves
        self.out_bar = out_bar
        self.last = last
        self.saved_bars = save_states(out_bar.save_state)
        self.has_inside = [
            saved.inside is not None and jtu.tree_leaves((bars.ts, bars.ys)) != []
            for saved, bars in zip(self.functions.saved, self.saved_bars)
        ]
        bars = out_bar.dense_infos, out_bar.event_dense_info
        self.dense = any(self.has_inside) or jtu.tree_leaves(bars) != []

    def __call__(self, carry: Carry, done: Pass, way: int) -> Carry:
        """Goes back over a step that was made in this way."""
        step = done.step
        carry = self.over_what_is_saved_after(carry)
        times = (step.start, step.end) if self.time_moves else None
        made, pull = self.remade(step, times, way)
        made_bar, ends_bar = None, _zeros(times)
        if self.dense:
            made_bar = self.bar_of_made(carry, made)
            carry, made_bar, ends_bar = self.over_what_is_saved_inside(
                carry, done, made, made_bar, ends_bar
            )
        way_bar, y_bar, carried_bar, more = pull(
            (carry.y_bar, carry.carried_bar, made_bar)
        )
        ways_bar = [*carry.functions_bar.ways]
        ways_bar[way] = _add(ways_bar[way], way_bar)
        functions_bar = carry.functions_bar._replace(ways=ways_bar)
        if self.time_moves:
            carry = self.over_times(carry, step, _add(ends_bar, more))
        return carry._replace(
            i=carry.i - 1,
            t=step.start,
            y=step.y,
            y_bar=y_bar,
            carried_bar=carried_bar,
            functions_bar=functions_bar,
        )

    def remade(self, step: Step, times: Any, way: int) -> tuple[Any, Callable]:
        """Recomputes the step. Returns its dense information, and a function from the
        cotangents of its results to those of the way to make it, of the state, of what
        the solver carries, and of the start and the end."""
        function = self.functions.ways[way]

        def make(moving, y, carried, times):
            start, end = (step.start, step.end) if times is None else times
            made = eqx.combine(moving, function)(
                Step(start, end, y, carried, step.note)
            )
            return made.y, made.carried, made.dense_info if self.dense else None

        moving = self.functions_moving.ways[way]
        made, pull = jax.vjp(make, moving, step.y, step.carried, times)
        return made[-1], pull

    def bar_of_made(self, carry: Carry, made: Any) -> Any:
        """Returns the cotangent of the dense information of a step, from dense output
        and events."""
        is_last = carry.i == self.last.num_accepted_steps - 1
        rows, event = self.out_bar.dense_infos, self.out_bar.event_dense_info
        bar = _add(_zeros(made), jtu.tree_map(lambda rows: rows[carry.i], rows))
        return _add(bar, jtu.tree_map(lambda x: jnp.where(is_last, x, 0), event))

    def over_what_is_saved_after(self, carry: Carry) -> Carry:
        """Goes back over what was saved at the end of the step."""
        indices = list(carry.indices)
        for n, saved in enumerate(self.functions.saved):
            if not saved.every:
                continue
            ts_index, save_index = indices[n]
            is_saved = (carry.i + 1) % saved.every == 0
            save_index = save_index - jnp.where(is_saved, 1, 0)
            indices[n] = ts_index, save_index
            bars = self.saved_bars[n]
            t_row, y_row = jtu.tree_map(
                lambda x: jnp.where(is_saved, x[save_index], 0), (bars.ts, bars.ys)
            )
            t_bar, y_bar = carry.t_bar, carry.y_bar
            if jtu.tree_leaves(y_row):
                moving = self.functions_moving.saved[n].at_end
                more = _pull(saved.at_end, moving, (carry.t, carry.y), y_row)
                function_bar = _add(carry.functions_bar.saved[n].at_end, more[0])
                carry = _with_saved(carry, n, at_end=function_bar)
                t_bar, y_bar = t_bar + more[1], _add(y_bar, more[2])
            carry = carry._replace(t_bar=_add(t_bar, t_row), y_bar=y_bar)
        return carry._replace(indices=indices)

    def over_what_is_saved_inside(
        self,
        carry: Carry,
        done: Pass,
        made: Any,
        made_bar: Any,
        ends_bar: Any,
    ) -> tuple[Carry, Any, Any]:
        """Goes back over what was saved at times inside the step."""
        for n, saved in enumerate(self.functions.saved):
            if not self.has_inside[n]:
                continue
            ts, bars = self.times.ts[n], self.saved_bars[n]
            moving = self.functions_moving.saved[n].inside
            ends = done.step.start, done.step.end
            # A lane of a `vmap` that has no step here must not prolong the loop.
            first = jnp.where(done.accepted, done.saved[n], len(ts))

            def is_inside(state, first=first):
                (ts_index, _), *_ = state
                return ts_index > first

            def over_one(state, ts=ts, bars=bars, moving=moving, saved=saved):
                (ts_index, save_index), function_bar, made_bar, ends_bar, ts_bar = state
                ts_index, save_index = ts_index - 1, save_index - 1
                t_bar, y_row = jtu.tree_map(lambda x: x[save_index], (bars.ts, bars.ys))
                if jtu.tree_leaves(y_row):
                    args = ts[ts_index], ends, made
                    more = _pull(saved.inside, moving, args, y_row)
                    function_bar = _add(function_bar, more[0])
                    t_bar = more[1] if t_bar is None else t_bar + more[1]
                    ends_bar = None if ends_bar is None else _add(ends_bar, more[2])
                    made_bar = _add(made_bar, more[3])
                if ts_bar is not None:
                    ts_bar = ts_bar.at[ts_index].add(t_bar)
                indices = ts_index, save_index
                return indices, function_bar, made_bar, ends_bar, ts_bar

            function_bar = carry.functions_bar.saved[n].inside
            start = carry.indices[n], function_bar, made_bar, ends_bar
            start = *start, carry.times_bar.ts[n]
            end = jax.lax.while_loop(is_inside, over_one, start)
            indices, function_bar, made_bar, ends_bar, ts_bar = end
            carry = _with_saved(carry, n, inside=function_bar)
            of_ts = [*carry.times_bar.ts]
            of_ts[n] = ts_bar
            new = [*carry.indices]
            new[n] = indices
            times_bar = carry.times_bar._replace(ts=of_ts)
            carry = carry._replace(indices=new, times_bar=times_bar)
        return carry, made_bar, ends_bar

    def over_times(self, carry: Carry, step: Step, ends_bar: Any) -> Carry:
        """Goes back from the end of a step to its start.

        A step ends at the end of the solve, or at a time to which the step size
        controller was told to step. Otherwise its length is a constant, so the
        derivative of its end is that of its start.
        """
        start_bar, end_bar = ends_bar
        is_last = carry.i == self.last.num_accepted_steps - 1
        out = self.out_bar
        if out.event_tprev is not None:
            start_bar = start_bar + jnp.where(is_last, out.event_tprev, 0)
        if out.event_tnext is not None:
            end_bar = end_bar + jnp.where(is_last, out.event_tnext, 0)
        # The next step starts where this one ends.
        end_bar = end_bar + carry.t_bar
        if out.dense_ts is not None:
            end_bar = end_bar + out.dense_ts[carry.i + 1]
        times, bars = self.times, carry.times_bar
        is_fixed = step.end == times.t1
        if bars.t1 is not None:
            bars = bars._replace(t1=bars.t1 + jnp.where(is_fixed, end_bar, 0))
        of_named = []
        for ts, ts_bar in zip(times.named, bars.named):
            # Diffrax steps to the last floating-point number before a jump.
            hits = (ts == step.end) | (ts == eqxi.nextafter(step.end))
            hits = hits & (jnp.cumsum(hits) == 1) & ~is_fixed
            if ts_bar is not None:
                ts_bar = ts_bar + jnp.where(hits, end_bar, 0)
            of_named.append(ts_bar)
            is_fixed = is_fixed | jnp.any(hits)
        t_bar = start_bar + jnp.where(is_fixed, 0, end_bar)
        return carry._replace(t_bar=t_bar, times_bar=bars._replace(named=of_named))


def _constant(y_bar: PyTree[Array], out_bar: Any, names: Sequence[str]) -> Any:
    """Returns `y_bar`, and raises if these parts of the last state have a cotangent
    that is not zero. (The cotangents of what a loop carries are arrays of zeros.)"""
    for name in names:
        bars = jtu.tree_leaves(getattr(out_bar, name))
        if bars and jtu.tree_leaves(y_bar):
            wanted = jnp.any(jnp.stack([jnp.any(bar != 0) for bar in bars]))
            y_bar = eqx.error_if(
                y_bar,
                wanted,
                f"ReplayAdjoint: the `{name}` that a solve returns has no derivative. "
                "Use `diffrax.RecursiveCheckpointAdjoint()`, or apply "
                "`jax.lax.stop_gradient` to it.",
            )
    return y_bar


def save_states(tree: Any) -> list[Any]:
    """Finds the `SaveState`s of Diffrax in the state of a solve, one for each
    `SubSaveAt`."""
    parts = jtu.tree_leaves(tree, is_leaf=is_save_state)
    return [x for x in parts if is_save_state(x)]


def is_save_state(x: Any) -> bool:
    return hasattr(x, "saveat_ts_index")


def _pull(function: Any, moving: Any, args: tuple, bars: Any) -> tuple:
    """Returns the cotangents of the differentiated arrays in a function, and of its
    arguments."""

    def call(moving, *args):
        out = eqx.combine(moving, function)(*args)
        return eqx.filter(out, eqx.is_inexact_array)

    out, pull = jax.vjp(call, moving, *args)
    return pull(filled(bars, out))


def _with_saved(carry: Carry, n: int, **bars: Any) -> Carry:
    saved = [*carry.functions_bar.saved]
    saved[n] = saved[n]._replace(**bars)
    return carry._replace(functions_bar=carry.functions_bar._replace(saved=saved))


def _zeros(tree: Any) -> Any:
    return jtu.tree_map(jnp.zeros_like, tree)


def filled(bars: Any, like: Any) -> Any:
    """Replaces cotangents that are known to be zero, which are `None`, by zeros."""
    return jtu.tree_map(
        lambda x, bar: jnp.zeros_like(x) if bar is None else bar, like, bars
    )


def _add(tree: Any, other: Any) -> Any:
    """Adds cotangents. `None` in `other` means zero."""
    if other is None:
        return tree
    return jtu.tree_map(lambda x, y: x if y is None else x + y, tree, other)
