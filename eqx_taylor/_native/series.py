"""The Taylor coefficients of a solution, as a function in LLVM's language.

`series_function` writes two functions into a module:

    void prepare(P* args, P* parameters)
    void series(T* t, T* y, P* parameters, T* coefficients, T* work)

`prepare` is called once for each solve. `T` is `double` or `float`, and a vector of
`lanes` of these where several solves are made at once. `P` is the scalar type if all
lanes share their arguments, and `T` if each has its own. `coefficients` is of shape
`(order + 1, size)`: row `k` has coefficient `k` in powers of the time since `t`,
without units, and row 0 is `y`. All arrays have to be aligned to 64 bytes, and none may
overlap another.
"""

from typing import Any, NamedTuple

from llvmlite import ir  # pyright: ignore[reportMissingImports]

from .arithmetic import Arithmetic
from .groups import plan
from .looped import Looped
from .parameters import Parameters
from .program import Program
from .unrolled import Unrolled


_ARGUMENTS = "t", "y", "given", "coefficients", "work", "needed"


class SeriesCode(NamedTuple):
    """Functions in a module, and the numbers of entries of their arrays."""

    series: Any
    prepare: Any
    parameters: int
    work: int


def series_function(
    module: Any,
    program: Program,
    *,
    order: int,
    lanes: int = 1,
    shared: bool = True,
    name: str = "series",
    width: int = 8,
    unroll: bool | None = None,
    any_order: bool = False,
) -> SeriesCode:
    """Writes the functions of a program into a module of llvmlite.

    - `order`: the highest order.
    - `lanes`: the number of solves that are made at once.
    - `shared`: whether all lanes have the same arguments.
    - `name`: of the series; the other function is `<name>_prepare`.
    - `width`: the number of entries of a vector of the machine.
    - `unroll`: whether orders are written one after the other, or a loop over them.
    - `any_order`: whether `series` has a last argument, a 64-bit integer: the highest
        order that is needed. Others may be computed, too.
    """
    pointer = ir.PointerType()
    arguments: list[Any] = [pointer] * 5
    if any_order:
        arguments.append(ir.IntType(64))
    type_ = ir.FunctionType(ir.VoidType(), arguments)
    function = ir.Function(module, type_, name)
    for arg, label in zip(function.args, _ARGUMENTS):
        arg.name = label
        if arg.type == pointer:
            arg.add_attribute("noalias")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    ops = Arithmetic(builder, program.dtype, lanes)
    parameters = Parameters(program)
    if unroll is None:
        unroll = is_small(program, order)
    groups = plan(program, width if lanes == 1 else 1, apart=unroll)
    kind = Unrolled if unroll else Looped
    emitter = kind(ops, program, groups, parameters, order, shared, function.args)
    emitter.write()
    ops.builder.ret_void()
    prepare = parameters.prepare(module, f"{name}_prepare", 1 if shared else lanes)
    return SeriesCode(function, prepare, parameters.count, emitter.work_size)


# The number of multiplications up to which a series is written order by order: it then
# takes 0.5 to 0.6 times the time of a loop (Lorenz, Kepler, Arenstorf: 400 to 1500),
# and half a second to compile. With 18 000 (Pleiades) it takes 0.95 times the time, and
# four times as long to compile.
_SMALL = 3000


def is_small(program: Program, order: int) -> bool:
    """Whether a program is so small that it is written order by order. Then lanes are
    worth it, too: a lane takes a quarter of the time of a solve alone. In larger ones
    the entries of one solve fill the vectors, and with lanes each takes 1.2 to 1.5
    times as long as alone: the memory of all lanes is too large for the first cache.
    """
    products = sum(atom.kind not in ("state", "linear") for atom in program.atoms)
    terms = sum(len(atom.operands) for atom in program.atoms)
    return products * order**2 / 2 + (terms + program.size) * order <= _SMALL
