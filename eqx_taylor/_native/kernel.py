"""Kernels for NVIDIA's GPUs in LLVM's language: each thread makes one solve, with its
own steps and its own memory."""

from typing import Any

import llvmlite.ir as ir

from .block import Block
from .emit import INDEX, index, POINTER
from .layout import Table


# What the kernel of solves is called with: arrays that are read, and that are written.
# `prepared` is what was made of arguments that all solves share.
OPERANDS = ("y0", "args", "settings", "ts", "prepared", "sizes")
RESULTS = ("y1", "t_end", "counts", "ys", "step_ts", "step_rows")
# The entries of `sizes`: those of `Table` that are no addresses, as 32-bit integers.
SIZES = tuple(name for name in Table._fields if name not in (*OPERANDS, *RESULTS))

_INT = ir.IntType(32)


def define_kernels(module: ir.Module, block: Block, name: str) -> None:
    """Appends the kernels `name`, which makes a solve in each thread, and
    `name_prepare`, which makes `prepared` in one. What is to be done for one solve is
    the function `name_lane`, whose first argument is its number."""
    lane = _define_lane(module, block, f"{name}_lane")
    count = len(OPERANDS) + len(RESULTS)
    kernel = _define_kernel(module, name, count)
    b = ir.IRBuilder(kernel.append_basic_block("entry"))

    def register(name: str) -> Any:
        reading = f"llvm.nvvm.read.ptx.sreg.{name}.x"
        kind = ir.FunctionType(_INT, [])
        return b.sext(b.call(ir.Function(module, kind, reading), []), INDEX)

    number = b.add(b.mul(register("ctaid"), register("ntid")), register("tid"))
    b.call(lane, [number, *kernel.args])
    b.ret_void()

    prepare = _define_kernel(module, f"{name}_prepare", 2)
    b = ir.IRBuilder(prepare.append_basic_block("entry"))
    b.call(block.prepare, prepare.args)
    b.ret_void()


def _define_kernel(module: ir.Module, name: str, arguments: int) -> ir.Function:
    kind = ir.FunctionType(ir.VoidType(), [POINTER] * arguments)
    kernel = ir.Function(module, kind, name)
    kernel.calling_convention = "ptx_kernel"
    return kernel


def _define_lane(module: ir.Module, block: Block, name: str) -> ir.Function:
    shape = block.shape
    count = len(OPERANDS) + len(RESULTS)
    kind = ir.FunctionType(ir.VoidType(), [INDEX, *[POINTER] * count])
    function = ir.Function(module, kind, name)
    number, *pointers = function.args
    arrays = dict(zip((*OPERANDS, *RESULTS), pointers))
    b = ir.IRBuilder(function.append_basic_block("entry"))
    # LLVM makes registers of the table, and memory of the thread of the rest.
    table = b.alloca(INDEX, len(Table._fields))
    _, total = shape.places()
    number_type: Any = {"double": ir.DoubleType(), "float": ir.FloatType()}[shape.kind]
    memory: Any = b.alloca(ir.ArrayType(number_type, total))
    memory.align = 64
    memory.type = POINTER
    sizes: dict[str, Any] = {}
    for i, field in enumerate(Table._fields):
        if field in arrays:
            x = b.ptrtoint(arrays[field], INDEX)
        else:
            place = b.gep(
                arrays["sizes"], [index(SIZES.index(field))], source_etype=_INT
            )
            x = sizes[field] = b.sext(b.load(place, typ=_INT), INDEX)
        b.store(x, b.gep(table, [index(i)], source_etype=INDEX))
    with b.if_then(b.icmp_signed("<", number, sizes["lanes"])):
        b.call(block.solves, [table, number, memory, arrays["prepared"]])
    b.ret_void()
    return function
