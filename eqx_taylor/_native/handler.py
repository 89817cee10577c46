"""The function that XLA calls, in LLVM's language: it reads XLA's call frame, and
shares the solves among threads.

The offsets are those of the structures of `xla/ffi/api/c_api.h`, which jaxlib has among
its files: of 64-bit machines, and of version 0 of the interface. Later minor versions
append fields and move none.
"""

import functools as ft
import re
from pathlib import Path
from typing import Any

import jax
import llvmlite.ir as ir

from .emit import INDEX, index, POINTER
from .layout import Shape, Table
from .loops import loop, repeating


# XLA_FFI_CallFrame
_EXTENSION, _API, _STAGE, _ARGS, _RETS = 8, 16, 32, 72, 112
_EXECUTE = 3
# XLA_FFI_InternalExtension, and XLA_FFI_Metadata with its XLA_FFI_Api_Version
_EXTENSION_TYPE, _METADATA = 8, 24
_METADATA_TYPE = 1
_MAJOR, _MINOR, _TRAITS = 24, 28, 32
# XLA_FFI_Api, and XLA_FFI_Error_Create_Args with its size and a code of errors
_CREATE_ERROR = 48
_MESSAGE, _CODE, _ERROR_SIZE = 16, 24, 28
_RESOURCE_EXHAUSTED = 8
# XLA_FFI_Buffer
_DATA, _DIMS = 24, 40

# The arrays that the function takes and returns.
OPERANDS = ("y0", "args", "settings", "ts", "limits")
RESULTS = ("y1", "t_end", "counts", "ys", "step_ts", "step_rows")

# What memory is larger than what is used of it.
_MARGIN = 64

_INT = ir.IntType(32)
_BYTE = ir.IntType(8)


@ft.lru_cache(maxsize=1)
def interface_version() -> tuple[int, int]:
    """The version of XLA's interface that jaxlib has, or (-1, -1) if it is unknown."""
    header = Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    try:
        text = header.read_text()
    except OSError:
        return -1, -1
    numbers = [
        re.search(rf"#define XLA_FFI_API_{name} (\d+)", text)
        for name in ("MAJOR", "MINOR")
    ]
    major, minor = (-1 if x is None else int(x.group(1)) for x in numbers)
    return major, minor


def define_handler(
    module: ir.Module,
    prepare: ir.Function,
    block: ir.Function,
    shape: Shape,
    version: tuple[int, int],
    has_threads: bool,
) -> ir.Function:
    """Appends the function that XLA calls. `block` makes as many solves as there are
    lanes."""
    worker = _define_worker(module, block, shape)
    function = ir.Function(module, ir.FunctionType(POINTER, [POINTER]), "handler")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    [frame] = function.args
    nothing = ir.Constant(POINTER, None)
    extension = _load(b, frame, _EXTENSION, POINTER)
    with b.if_then(b.icmp_unsigned("!=", extension, nothing)):
        kind = _load(b, extension, _EXTENSION_TYPE, _INT)
        is_metadata = b.icmp_unsigned("==", kind, ir.Constant(_INT, _METADATA_TYPE))
        with b.if_then(is_metadata):
            metadata = _load(b, extension, _METADATA, POINTER)
            for offset, x in zip([_MAJOR, _MINOR, _TRAITS], [*version, 0]):
                b.store(ir.Constant(_INT, x), _byte(b, metadata, offset))
            b.ret(nothing)
    stage = _load(b, frame, _STAGE, _INT)
    with b.if_then(b.icmp_unsigned("!=", stage, ir.Constant(_INT, _EXECUTE))):
        b.ret(nothing)

    arrays = {}
    for names, offset in [(OPERANDS, _ARGS), (RESULTS, _RETS)]:
        buffers = _load(b, frame, offset, POINTER)
        for i, name in enumerate(names):
            arrays[name] = _load(b, buffers, 8 * i, POINTER)

    def data(name):
        return _load(b, arrays[name], _DATA, POINTER)

    def dim(name, i):
        return _load(b, _load(b, arrays[name], _DIMS, POINTER), 8 * i, INDEX)

    def stride(name):
        is_one = b.icmp_signed("==", dim(name, 0), index(1))
        return b.select(is_one, index(0), dim(name, 1))

    def limit(i):
        return b.sext(_load(b, data("limits"), 4 * i, _INT), INDEX)

    table = Table(
        **{name: data(name) for name in (*OPERANDS[:4], *RESULTS)},
        **{f"{name}_stride": stride(name) for name in OPERANDS[:4]},
        lanes=dim("y1", 0),
        ts_size=dim("ts", 1),
        max_steps=limit(0),
        step_size=dim("step_ts", 1),
    )
    # The table, the next block, their number, and what was prepared.
    size = len(Table._fields) + 3
    job = b.alloca(INDEX, size, "job")
    for i, x in enumerate(table):
        x = b.ptrtoint(x, INDEX) if x.type == POINTER else x
        b.store(x, _byte(b, job, 8 * i))
    blocks = b.add(table.lanes, index(shape.width - 1))
    blocks = b.sdiv(blocks, index(shape.width))
    prepared, end = _aligned(b, module, shape.parameters * shape.bytes)
    failed = b.icmp_unsigned("==", end, nothing)
    with b.if_then(failed, likely=False):
        b.ret(_no_memory(b, module, frame, shape))
    if shape.shared:
        b.call(prepare, [table.args, prepared])
    rest = [index(0), blocks, b.ptrtoint(prepared, INDEX)]
    for i, x in enumerate(rest):
        b.store(x, _byte(b, job, 8 * (len(Table._fields) + i)))
    if has_threads:
        _run_by_threads(b, module, worker, job, blocks, limit(1))
    else:
        b.call(worker, [job])
    _release(b, module, end)
    # A thread that gets no memory makes no block, and leaves all to the others.
    begun = _load(b, job, 8 * len(Table._fields), INDEX)
    with b.if_then(b.icmp_signed("<", begun, blocks), likely=False):
        b.ret(_no_memory(b, module, frame, shape))
    b.ret(nothing)
    return function


def _no_memory(b: ir.IRBuilder, module: ir.Module, frame: Any, shape: Shape) -> Any:
    """An error of XLA, which JAX raises."""
    size = max(shape.parameters, shape.places()[1]) * shape.bytes
    text = f"NativeAdjoint: there are no {size} bytes of memory for a solve."
    data = bytearray(text.encode() + b"\0")
    kind = ir.ArrayType(_BYTE, len(data))
    unique = module.get_unique_name("no_memory")
    message: Any = ir.GlobalVariable(module, kind, unique)
    message.linkage, message.global_constant = "internal", True
    message.initializer = ir.Constant(kind, data)
    given = b.alloca(INDEX, 4)
    given.type = POINTER
    fields = [(0, index(_ERROR_SIZE)), (_EXTENSION, index(0))]
    fields += [(_MESSAGE, b.ptrtoint(message, INDEX))]
    fields += [(_CODE, ir.Constant(_INT, _RESOURCE_EXHAUSTED))]
    for offset, x in fields:
        b.store(x, _byte(b, given, offset))
    create = _load(b, _load(b, frame, _API, POINTER), _CREATE_ERROR, POINTER)
    callee: Any = _Callee(create, ir.FunctionType(POINTER, [POINTER]))
    return b.call(callee, [given])


class _Callee:
    """A function by its address, whose type llvmlite asks for."""

    def __init__(self, address: Any, function_type: ir.FunctionType):
        self.get_reference, self.function_type = address.get_reference, function_type


def _define_worker(module: ir.Module, block: ir.Function, shape: Shape) -> ir.Function:
    """Appends the function of a thread: it makes blocks until there are no more."""
    kind = ir.FunctionType(POINTER, [POINTER])
    function = ir.Function(module, kind, "solve_blocks")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    [job] = function.args
    size = 8 * len(Table._fields)
    counter = _byte(b, job, size)
    blocks = _load(b, job, size + 8, INDEX)
    prepared = b.inttoptr(_load(b, job, size + 16, INDEX), POINTER)
    _, total = shape.places()
    memory, end = _aligned(b, module, total * shape.bytes)
    nothing = ir.Constant(POINTER, None)
    with b.if_then(b.icmp_unsigned("==", end, nothing), likely=False):
        b.ret(nothing)
    current = b.alloca(INDEX)

    def is_left():
        i = b.atomic_rmw("add", counter, index(1), "monotonic")
        b.store(i, current)
        return b.icmp_signed("<", i, blocks)

    with repeating(b, is_left):
        first = b.mul(b.load(current, typ=INDEX), index(shape.width))
        b.call(block, [job, first, memory, prepared])
    _release(b, module, end)
    b.ret(ir.Constant(POINTER, None))
    return function


def _run_by_threads(
    b: ir.IRBuilder,
    module: ir.Module,
    worker: ir.Function,
    job: Any,
    blocks: Any,
    threads: Any,
) -> None:
    """Calls the worker in so many threads, of which this one is one; in fewer where
    there are fewer blocks."""
    few = b.icmp_signed("<", blocks, threads)
    others = b.sub(b.select(few, blocks, threads), index(1))
    create = _declared(module, "pthread_create", _INT, [POINTER] * 4)
    join = _declared(module, "pthread_join", _INT, [INDEX, POINTER])
    nothing = ir.Constant(POINTER, None)
    is_some = b.icmp_signed(">", others, index(0))
    handles = b.alloca(INDEX, b.select(is_some, others, index(1)))
    made = b.alloca(INDEX)
    b.store(index(0), made)
    with loop(b, index(0), others):
        i = b.load(made, typ=INDEX)
        place = b.gep(handles, [i], source_etype=INDEX)
        failed = b.call(create, [place, nothing, worker, job])
        # Where there are no more threads the others do the work.
        succeeded = b.icmp_signed("==", failed, ir.Constant(_INT, 0))
        b.store(b.add(i, b.zext(succeeded, INDEX)), made)
    b.call(worker, [job])
    with loop(b, index(0), b.load(made, typ=INDEX)) as i:
        handle = b.gep(handles, [i], source_etype=INDEX)
        b.call(join, [b.load(handle, typ=INDEX), nothing])


def _byte(b: ir.IRBuilder, pointer: Any, offset: Any) -> Any:
    return b.gep(pointer, [index(offset)], source_etype=_BYTE)


def _load(b: ir.IRBuilder, pointer: Any, offset: int, kind: Any) -> Any:
    return b.load(_byte(b, pointer, offset), typ=kind)


def _aligned(b: ir.IRBuilder, module: ir.Module, size: int) -> tuple[Any, Any]:
    """Memory of so many bytes that begins at a multiple of 64; and its address as
    `free` wants it."""
    allocate = _declared(module, "malloc", POINTER, [INDEX])
    memory = b.call(allocate, [index(size + _MARGIN)])
    address = b.add(b.ptrtoint(memory, INDEX), index(63))
    return b.inttoptr(b.and_(address, index(-64)), POINTER), memory


def _release(b: ir.IRBuilder, module: ir.Module, memory: Any) -> None:
    b.call(_declared(module, "free", ir.VoidType(), [POINTER]), [memory])


def _declared(
    module: ir.Module, name: str, result: Any, arguments: list[Any]
) -> ir.Function:
    function = module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(result, arguments)
        function = ir.Function(module, kind, name)
    return function
