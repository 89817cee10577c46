"""Solves on NVIDIA's GPUs: XLA is given a kernel in their assembly language, and calls
it with one thread for each solve."""

import threading
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import llvmlite.ir as ir
import numpy as np
from jaxtyping import Array

from . import ptx
from .atoms import NotNative
from .block import Solve, write_block
from .cache import digest_of, kept
from .kernel import define_kernels, OPERANDS, SIZES
from .program import Program


# Threads that run in step with each other. With more of them in a block, where there
# are few solves, multiprocessors of the GPU would be without work.
_WARP = 32
# Bytes of memory of a thread. The driver takes so much for each of the threads that a
# GPU can hold, some 100 000.
_MOST_MEMORY = 2**16


def check_memory(program: Program, order: int) -> None:
    """Raises if a solve needs more memory than a thread should have."""
    rows = 2 * program.size + len(program.atoms)
    needed = np.dtype(program.dtype).itemsize
    needed *= (order + 1) * rows + program.arguments
    if needed > _MOST_MEMORY:
        raise NotNative(
            f"the series of the solve has up to {needed} bytes, and in a thread of a "
            f"GPU there is room for {_MOST_MEMORY}"
        )


def on_cuda(
    solve: Solve, outs: Sequence[jax.ShapeDtypeStruct], *operands: Array
) -> Sequence[Array]:
    """Makes solves; the arrays are `y0`, `args`, `settings` and `ts`, and those of
    `kernel.RESULTS`."""
    _, args, _, ts = operands
    shared, dtype = args.shape[0] == 1, args.dtype
    code = _code(solve, shared, ts.shape[1] > 0)
    known = dict(
        lanes=outs[0].shape[0],
        ts_size=ts.shape[1],
        max_steps=solve.limit,
        step_size=outs[4].shape[1],
    )
    for name, x in zip(OPERANDS, operands):
        known[f"{name}_stride"] = 0 if x.shape[0] == 1 else x.shape[1]
    sizes = jnp.array([known[name] for name in SIZES], jnp.int32)
    operands = tuple(map(_some, operands))
    prepared = jnp.zeros(1, dtype)
    if shared and code.parameters:
        out = jax.ShapeDtypeStruct((code.parameters,), dtype)
        [prepared] = _call(code, "_prepare", 1, [operands[1]], [out])
    # No address of an array without entries is passed.
    some = [jax.ShapeDtypeStruct(x.shape if x.size else (1,), x.dtype) for x in outs]
    found = _call(code, "", known["lanes"], [*operands, prepared, sizes], some)
    empty = [jnp.zeros(out.shape, out.dtype) for out in outs]
    return [x if out.size else e for x, out, e in zip(found, outs, empty)]


def _some(x: Array) -> Array:
    return x if x.size else jnp.zeros(1, x.dtype)


class _Code(NamedTuple):
    """Kernels.

    **Fields:**

    - `name`: of the kernel of solves; that of the other one ends with `_prepare`.
    - `parameters`: the size of what is prepared.
    - `text`: in assembly language.
    """

    name: str
    parameters: int
    text: str


_lock = threading.Lock()
_known: dict[str, _Code] = {}


def _code(solve: Solve, shared: bool, at_times: bool) -> _Code:
    digest = digest_of([solve.key(shared, at_times), ptx.ARCHITECTURE, ptx.VERSION])

    def compiled():
        name = f"eqx_taylor_{digest[:32]}"
        module = ir.Module("solve")
        block = write_block(
            module, solve, lanes=1, width=1, shared=shared, at_times=at_times
        )
        define_kernels(module, block, name)
        text = ptx.compiled(str(module), (name, f"{name}_prepare"))
        return f"{name} {block.shape.parameters}\n{text}".encode()

    with _lock:
        if digest not in _known:
            first, text = kept(digest, compiled).decode().split("\n", 1)
            name, parameters = first.split()
            _known[digest] = _Code(name, int(parameters), text)
        return _known[digest]


def _call(
    code: _Code,
    kernel: str,
    threads: int,
    operands: Sequence[Array],
    outs: Sequence[jax.ShapeDtypeStruct],
) -> Sequence[Array]:
    """Calls a kernel, by XLA's own function for that."""
    sizes = dict(
        grid_x=-(-threads // _WARP),
        grid_y=1,
        grid_z=1,
        block_x=min(threads, _WARP),
        block_y=1,
        block_z=1,
        shared_mem_bytes=0,
    )
    return jax.ffi.ffi_call("__gpu$xla.gpu.ptx", outs)(
        *operands,
        name=code.name + kernel,
        kernel_type="ptx",
        kernel_data=code.text,
        **{name: np.int32(x) for name, x in sizes.items()},
    )
