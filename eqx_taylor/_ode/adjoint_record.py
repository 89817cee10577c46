"""The record of a solve, from which its steps are recomputed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .adjoint_step import Pass


class Record(NamedTuple):
    """The passes of Diffrax's loop. Each leaf has a leading axis over them.

    **Fields:**

    - `passes`: all passes, without the states at their starts.
    - `states`: `(y, carried)`, which are as large as the state, at the start of each
        `every`-th pass.
    """

    passes: Pass
    states: PyTree[Array]

    def with_pass(self, i: Array, new: Pass, every: int) -> "Record":
        """Writes pass `i`."""
        passes, state = _apart(new)
        passes = _with_row(self.passes, i, passes)
        if every == 1:
            return Record(passes, _with_row(self.states, i, state))
        # In a loop of Equinox these rows are buffers, whose writes may be conditional.
        is_kept = i % every == 0
        states = jtu.tree_map(
            lambda x, rows: rows.at[i // every].set(x, pred=is_kept),
            state,
            self.states,
        )
        return Record(passes, states)

    def one(self, i: Array, states: PyTree[Array], row: int | Array) -> Pass:
        """Returns pass `i`, with the state that is in a row of `states`."""
        y, carried = _row(states, row)
        done = _row(self.passes, i)
        return done._replace(step=done.step._replace(y=y, carried=carried))

    def states_from(
        self,
        first: Array,
        last: Array,
        every: int,
        advanced: Callable[[Array, Any], Any],
    ) -> PyTree[Array]:
        """Computes the states at the starts of the passes from `first`, whose state was
        kept, to `last`. `advanced` computes the state at the end of a pass from that at
        its start."""

        def body(carry):
            i, state, rows = carry
            rows = _with_row(rows, i - first, state)
            return i + 1, advanced(i, state), rows

        state = _row(self.states, first // every)
        rows = jtu.tree_map(lambda x: jnp.zeros((every, *x.shape), x.dtype), state)
        start = first, state, rows
        return jax.lax.while_loop(lambda carry: carry[0] <= last, body, start)[2]


def empty_record(struct: Pass, max_steps: int, every: int) -> Record:
    """Returns an empty record with room for `max_steps` passes like this one."""

    def rows(tree, count):
        return jtu.tree_map(lambda x: jnp.zeros((count, *x.shape), x.dtype), tree)

    passes, state = _apart(struct)
    return Record(rows(passes, max_steps), rows(state, -(-max_steps // every)))


def _apart(done: Pass) -> tuple[Pass, Any]:
    step = done.step
    rest = done._replace(step=step._replace(y=None, carried=None))
    return rest, (step.y, step.carried)


def _row(rows: PyTree[Array], i: int | Array) -> PyTree[Array]:
    return jtu.tree_map(lambda rows: rows[i], rows)


def _with_row(rows: PyTree[Array], i: Array, new: PyTree[Array]) -> PyTree[Array]:
    return jtu.tree_map(lambda x, rows: rows.at[i].set(x), new, rows)
