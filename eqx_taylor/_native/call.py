"""A whole solve as one call of machine code, from a program of JAX."""

import functools as ft
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array

from .atoms import NotNative
from .block import Solve as Solve
from .cpu import on_cpu
from .cuda import on_cuda
from .handler import interface_version
from .layout import COUNTS
from .platforms import by_platform


class Solved(NamedTuple):
    """The results of a solve.

    **Fields:**

    - `y1`, `t_end`: the last state, and its time.
    - `counts`: integers, as `layout.COUNTS` names them.
    - `ys`: the states at the times that were asked for; a row for each.
    - `step_ts`, `step_rows`: the ends of the steps that were accepted, and their
        coefficients.
    """

    y1: Array
    t_end: Array
    counts: Array
    ys: Array
    step_ts: Array
    step_rows: Array


def check_interface() -> None:
    """Raises unless XLA's call frame is one that is known."""
    major, minor = interface_version()
    if major != 0:
        raise NotNative(
            "machine code is called by version 0 of XLA's interface for functions of "
            f"others, and jaxlib has version {major}.{minor}"
        )


def call(solve: Solve, y0: Array, args: Array, settings: Array, ts: Array) -> Solved:
    """Solves; under a `vmap` many solves are one call.

    **Arguments:**

    - `y0`, `args`: the entries of the state, and those of the field's arguments.
    - `settings`: as `layout.SETTINGS` names them.
    - `ts`: times at which the state is returned, from the first to the last.
    """
    rows = [x[None] for x in (y0, args, settings, ts)]
    return Solved(*(x[0] for x in _over_lanes(solve)(*rows)))


def _over_lanes(solve: Solve) -> Any:
    """A function of arrays with a leading axis over solves. In each of them it may be
    1, if they all have the same row."""

    @custom_vmap
    def over_lanes(*operands):
        return _call(solve, *operands)

    @over_lanes.def_vmap
    def _(axis_size, in_batched, *operands):
        lanes = max(x.shape[int(b)] for x, b in zip(operands, in_batched))

        def merged(x, is_batched):
            if not is_batched:
                if x.shape[0] == 1:
                    return x
                x = jnp.broadcast_to(x, (axis_size, *x.shape))
            x = jnp.broadcast_to(x, (axis_size, lanes, x.shape[2]))
            return x.reshape(axis_size * lanes, x.shape[2])

        outs = over_lanes(*map(merged, operands, in_batched))
        outs = [x.reshape(axis_size, lanes, *x.shape[1:]) for x in outs]
        return outs, [True] * len(outs)

    return over_lanes


def _call(
    solve: Solve, y0: Array, args: Array, settings: Array, ts: Array
) -> list[Array]:
    lanes = max(x.shape[0] for x in (y0, args, settings, ts))
    if any(x.shape[0] == 0 for x in (y0, args, settings, ts)):
        lanes = 0
    n, times = y0.shape[1], ts.shape[1]
    steps = solve.max_steps if solve.rows else 0
    dtype = y0.dtype
    outs = [
        jax.ShapeDtypeStruct((lanes, *shape), kind)
        for shape, kind in [
            ((n,), dtype),
            ((), dtype),
            ((len(COUNTS),), jnp.int32),
            ((times, n), dtype),
            ((steps,), dtype),
            ((steps, solve.rows * n), dtype),
        ]
    ]
    if lanes == 0:
        return [jnp.zeros(x.shape, x.dtype) for x in outs]
    return by_platform(
        (y0, args, settings, ts),
        outs,
        cpu=ft.partial(on_cpu, solve, outs),
        cuda=ft.partial(on_cuda, solve, outs),
    )
