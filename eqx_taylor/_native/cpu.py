"""Solves on CPUs, as a function that XLA calls: lanes share vectors, and threads."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import llvmlite.ir as ir
import numpy as np
from jaxtyping import Array

from .block import Solve, write_block
from .engine import has_threads, machine, number_of_threads
from .handler import define_handler, interface_version
from .series import is_small


def on_cpu(
    solve: Solve, outs: Sequence[jax.ShapeDtypeStruct], *operands: Array
) -> Sequence[Array]:
    """Makes solves; the arrays are those of `handler.OPERANDS` and `RESULTS`."""
    _, args, _, ts = operands
    width = _width(outs[0].shape[0], solve)
    name = _target(solve, width, args.shape[0] == 1, ts.shape[1] > 0)
    limits = jnp.array([solve.limit, number_of_threads()], jnp.int32)
    return jax.ffi.ffi_call(name, outs)(*operands, limits)


def _width(lanes: int, solve: Solve) -> int:
    """The number of solves that are made at once: as many as a vector has room for, if
    the program is small, and one if its own entries fill vectors."""
    most = _in_vector(solve)
    if not is_small(solve.program, solve.order):
        return 1
    width = 1
    while width < min(lanes, most):
        width *= 2
    return width


def _in_vector(solve: Solve) -> int:
    """How many numbers a vector of the processor has room for."""
    return machine().vector_bytes // np.dtype(solve.program.dtype).itemsize


def _target(solve: Solve, lanes: int, shared: bool, at_times: bool) -> str:
    """The name by which XLA knows the machine code."""
    version = interface_version()

    def text():
        module = ir.Module("solve")
        block = write_block(
            module,
            solve,
            lanes=lanes,
            width=_in_vector(solve),
            shared=shared,
            at_times=at_times,
        )
        define_handler(module, *block, version, has_threads())
        return str(module)

    key = solve.key(lanes, shared, at_times, version)
    return machine().target(key, text, "handler")
