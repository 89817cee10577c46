"""A whole solve as one call of machine code, from a program of JAX."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import llvmlite.ir as ir
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array

from .engine import has_threads, machine, number_of_threads
from .handler import define_handler, interface_version
from .layout import COUNTS, Shape
from .loop import define_block
from .program import NotNative, Program
from .series import is_small, series_function


class Solve(NamedTuple):
    """What a solve is compiled for.

    **Fields:**

    - `program`: the vector field.
    - `order`, `compensated`: of the solver.
    - `max_steps`: the largest number of steps, or -1 for no limit.
    - `rows`: how many coefficients are returned of each step: 0, 1 or all.
    """

    program: Program
    order: int
    compensated: bool
    max_steps: int
    rows: int


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
    width = _width(lanes, solve)
    shared = args.shape[0] == 1
    name = _target(solve, width, shared, times > 0)
    most = np.iinfo(np.int32).max
    limits = [most if solve.max_steps < 0 else min(solve.max_steps, most)]
    limits = jnp.array([*limits, number_of_threads()], jnp.int32)
    return list(jax.ffi.ffi_call(name, outs)(y0, args, settings, ts, limits))


def _width(lanes: int, solve: Solve) -> int:
    """The number of solves that are made at once: as many as a vector has room for, if
    the program is small, and one if its own entries fill vectors."""
    size = np.dtype(solve.program.dtype).itemsize
    most = machine().vector_bytes // size
    if not is_small(solve.program, solve.order):
        return 1
    width = 1
    while width < min(lanes, most):
        width *= 2
    return width


def _target(solve: Solve, width: int, shared: bool, at_times: bool) -> str:
    """The name by which XLA knows the machine code."""
    program, kind = solve.program, _KINDS[solve.program.dtype]
    version = interface_version()
    what = [program.key, *map(str, solve[1:]), width, shared, at_times, version]

    def text():
        module = ir.Module("solve")
        entries = machine().vector_bytes // {"double": 8, "float": 4}[kind]
        code = series_function(
            module,
            program,
            order=solve.order,
            lanes=width,
            shared=shared,
            any_order=True,
            width=entries,
        )
        code.series.linkage = code.prepare.linkage = "internal"
        shape = Shape(
            n=program.size,
            order=solve.order,
            kind=kind,
            width=width,
            arguments=program.arguments,
            parameters=code.parameters,
            work=code.work,
            shared=shared,
            compensated=solve.compensated,
            at_times=at_times,
            rows=solve.rows,
            entries=entries,
        )
        block = define_block(module, code.prepare, code.series, shape)
        block.linkage = "internal"
        define_handler(module, code.prepare, block, shape, version, has_threads())
        return str(module)

    return machine().target("\n".join(map(str, what)), text, "handler")


_KINDS = {"float64": "double", "float32": "float"}
