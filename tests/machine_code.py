"""Series as machine code, for tests: compiled and called by `ctypes`."""

import ctypes
import weakref
from typing import Any

import jax
import jax.tree_util as jtu
import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from eqx_taylor._native.program import Program
from eqx_taylor._native.scalarise import scalar_program
from eqx_taylor._native.series import series_function


def program_of(field: Any, t: Any, y0: Any, args: Any = None) -> Program:
    """The scalar program of a field; the leaves of `args` are its arguments."""
    leaves, treedef = jtu.tree_flatten(y0)
    arg_leaves, arg_treedef = jtu.tree_flatten(args)
    n = len(leaves)

    def flat_field(t, *rest):
        y = jtu.tree_unflatten(treedef, rest[:n])
        return jtu.tree_leaves(field(t, y, jtu.tree_unflatten(arg_treedef, rest[n:])))

    jaxpr = jax.make_jaxpr(flat_field)(t, *leaves, *arg_leaves)
    program = scalar_program(jaxpr, n)
    _leaves[program.givens] = arg_leaves
    return program


# The arguments that fields were traced with, by what is computed of them.
_leaves: Any = weakref.WeakKeyDictionary()


def arguments_of(program: Program, values: Any) -> np.ndarray:
    """The arguments of a program, for a field whose own are `values`, in one array."""
    arrays = []
    for leaf in _leaves[program.givens]:
        size = np.size(leaf)
        part, values = values[:size], values[size:]
        arrays.append(np.reshape(part, np.shape(leaf)).astype(np.asarray(leaf).dtype))
    return np.asarray(program.givens.arguments(arrays, program.dtype))


def flat(tree: Any, dtype: Any) -> np.ndarray:
    leaves = [np.ravel(np.asarray(x)) for x in jtu.tree_leaves(tree)]
    return np.concatenate([np.zeros(0), *leaves]).astype(dtype)


def coefficients(
    field: Any, t: Any, y0: Any, args: Any = None, *, order: int, **options: Any
) -> np.ndarray:
    """Of one solution: an array of shape `(order + 1, size)`."""
    program = program_of(field, t, y0, args)
    found = run(
        program,
        [(t, flat(y0, program.dtype), flat(args, program.dtype))],
        order,
        **options,
    )
    return found[..., 0]


def run(program: Program, points: Any, order: int, **options: Any) -> np.ndarray:
    """Of solutions through `(t, y, args)`, side by side: of shape `(order + 1, size,
    len(points))`. With `shared`, the default, the arguments are those of the first."""
    lanes, shared = len(points), options.get("shared", True)
    module = ir.Module("series")
    code = series_function(module, program, order=order, lanes=lanes, **options)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    compiled = llvm.parse_assembly(str(module))
    compiled.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=1,
    )
    engine = llvm.create_mcjit_compiler(compiled, machine)
    engine.finalize_object()

    def call(function, *arrays):
        kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(arrays))
        kind(engine.get_function_address(function.name))(
            *[x.ctypes.data for x in arrays]
        )

    def array(size, values=None):
        out = _aligned(size, program.dtype)
        # A number that is read before it is written shows.
        out[:] = np.nan
        if values is not None:
            out[: np.size(values)] = np.ravel(values)
        return out

    points = [(t, y, arguments_of(program, np.ravel(args))) for t, y, args in points]
    t, y, args = (np.stack([np.asarray(p[i]) for p in points], -1) for i in range(3))
    args = args[..., 0] if shared else args
    given = array(code.parameters * (1 if shared else lanes))
    call(code.prepare, array(args.size, args), given)
    found = array((order + 1) * program.size * lanes)
    work = array(code.work * lanes)
    call(code.series, array(lanes, t), array(y.size, y), given, found, work)
    return found.reshape(order + 1, program.size, lanes)


def _aligned(size: int, dtype: Any) -> np.ndarray:
    """An array that begins at a boundary of 64 bytes, as vectors have to."""
    bytes_ = max(size, 1) * np.dtype(dtype).itemsize
    raw = np.zeros(bytes_ + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + bytes_].view(dtype)
