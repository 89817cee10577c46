"""The loop of a solve that records its steps, and its custom derivative."""

import functools as ft
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._core.custom_types import RealScalarLike, Y
from .adjoint_backward import backward, save_states
from .adjoint_record import empty_record, Record
from .adjoint_step import Made, Pass, Step, Steps


class Saved(NamedTuple):
    """The functions of one `diffrax.SubSaveAt`.

    **Fields:**

    - `every`: the number of steps from one save to the next, or 0 if steps are not
        saved.
    - `at_end`: the function of time and state that is saved after a step.
    - `inside`: the function that is saved at times within steps. Its arguments are the
        time, and the start, the end and the `dense_info` of the step.
    """

    every: int
    at_end: Callable[[RealScalarLike, Y], PyTree[Array]] | None
    inside: Callable[..., PyTree[Array]] | None


def is_sub(x: Any) -> bool:
    return isinstance(x, diffrax.SubSaveAt)


class Functions(NamedTuple):
    """The functions that are differentiated. They contain the arrays that they close
    over.

    **Fields:**

    - `ways`: the ways to make a step.
    - `saved`: the functions that are saved.
    """

    ways: list[Callable[[Step], Made]]
    saved: list[Saved]


class Times(NamedTuple):
    """The times that do not follow from the start and the lengths of the steps.

    **Fields:**

    - `t1`: the end of the solve.
    - `named`: the times to which the step size controller was told to step.
    - `ts`: the times at which each `diffrax.SubSaveAt` saves.
    """

    t1: Array
    named: list[Array]
    ts: list[Array | None]


class Inputs(NamedTuple):
    """The arguments of a solve, with respect to which it is differentiated.

    **Fields:**

    - `init_state`: Diffrax's `State` before the first step.
    - `functions`, `times`: the functions and times from which steps and saved values
        are computed.
    - `run`: the solve itself, as a function of the first state. It is differentiated
        through the other fields, and not through what it closes over.
    """

    init_state: Any
    functions: Functions
    times: Times
    run: Callable[[Any], tuple[Any, Record]]


@eqx.filter_custom_vjp
def replayed_loop(inputs: Inputs, steps: Steps, every: int) -> Any:
    """Runs the solve. Its reverse pass recomputes each step, the last one first."""
    del steps, every
    state, _ = inputs.run(inputs.init_state)
    return together(state, inputs)


@replayed_loop.def_fwd
def _forward(
    perturbed: Inputs, inputs: Inputs, steps: Steps, every: int
) -> tuple[Any, Any]:
    del perturbed, steps, every
    state, record = _once_only(inputs.run(inputs.init_state))
    return together(state, inputs), (state, record)


@replayed_loop.def_bwd
def _backward(*args: Any) -> Any:
    return _once_only(backward(*args))


def _once_only(tree: Any) -> Any:
    """Returns a PyTree unchanged, and raises if it is differentiated in reverse mode:
    the reverse pass has loops whose length is known only at run time."""
    return eqxi.nondifferentiable_backward(tree, msg=_ONCE_ONLY)


_ONCE_ONLY = (
    "ReplayAdjoint: its gradients cannot be differentiated in reverse mode. Use "
    "forward mode over reverse mode, as `jax.hessian` does, or "
    "`adjoint=diffrax.DirectAdjoint()`."
)


def together(state: Any, inputs: Any) -> Any:
    """Makes each part of the last state depend on all inputs, without changing it.

    Under a `vmap`, if an output is the same in all lanes, such as the time after steps
    of constant length, JAX sums its cotangents over the lanes. Each lane of a function
    with a `custom_vjp` would receive the sum.
    """
    leaves = jtu.tree_leaves(eqx.filter(inputs, eqx.is_array))
    firsts = [
        x[(0,) * x.ndim]
        for x in leaves
        if x.size > 0 and not jnp.issubdtype(x.dtype, jax.dtypes.extended)
    ]
    same = ft.reduce(jnp.logical_and, [x == x for x in firsts])
    inexact, rest = eqx.partition(state, eqx.is_inexact_array)
    inexact = jtu.tree_map(lambda x: jax.lax.select(same, x, x), inexact)
    return eqx.combine(inexact, rest)


def recorded(
    steps: Steps,
    cond_fun: Callable[[Any], Array],
    body_fun: Callable[[Any], Any],
    max_steps: int,
    buffers: Callable[[Any], Any],
    jumps: list[bool],
    every: int,
) -> Callable[[Any], tuple[Any, Record]]:
    """Returns the loop of a solve as a function of its first state. This function
    returns the last state and the record of all passes, with the state of each
    `every`-th one. When it is traced, it appends to `jumps` whether a step may be
    affected by a jump."""

    def recorded_pass(before, after):
        accepted = after.num_accepted_steps > before.num_accepted_steps
        saved = [s.saveat_ts_index for s in save_states(before.save_state)]
        return Pass(accepted, steps.recorded(before, after), saved)

    def body(carry):
        before, record = carry
        after = body_fun(before)
        jumps.append(not isinstance(after.made_jump, bool))
        # All lanes of a `vmap` that have not ended are in the same pass. So a single
        # row is written; for a different row in each lane, XLA would make a loop.
        i = eqxi.unvmap_max(before.num_steps)
        return after, record.with_pass(i, recorded_pass(before, after), every)

    def run(state):
        struct = jax.eval_shape(lambda: recorded_pass(state, state))
        return eqxi.while_loop(
            lambda carry: cond_fun(carry[0]),
            body,
            (state, empty_record(struct, max_steps, every)),
            max_steps=max_steps,
            buffers=lambda carry: [*buffers(carry[0]), carry[1]],
            kind="lax",
        )

    return run
