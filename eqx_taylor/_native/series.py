"""The Taylor coefficients of a solution, as a function in LLVM's language.

The interface (first version; the code follows):

    program = scalar_program(jaxpr, states, arguments)      # _native/scalarise.py
    code = series_function(module, program, order=20, lanes=1, shared=True, name="series")

- `scalar_program(jaxpr, states)`: `jaxpr` is closed, of a function of
  `t, *leaves of the state, *leaves of args`, which returns the leaves of the slope;
  `states` is the number of leaves of the state. Constants of the jaxpr that are arrays
  are part of the program; whatever is traced must be among `args`. All leaves are taken
  flat, in row-major order, one behind the other. Raises `NotNative`, whose message is
  one line with the primitive and its place in the field.
- `Program`: `program.dtype` ("float64" or "float32"), `program.size` (entries of the
  state), `program.arguments` (entries of args), and `program.key` (a string: the content
  of the program, for a cache).
- `SeriesCode`: `code.series`, `code.prepare` (both `ir.Function`), `code.parameters`
  (how many numbers `prepare` writes), `code.work` (how many `T` the series needs).

        void prepare(P* args, P* parameters)
        void series(T* t, T* y, P* parameters, T* coefficients, T* work)

  `prepare` is called once for each solve. `T` is `double` or `float` for `lanes=1`, and
  `<lanes x double>` otherwise. `P` is the scalar type if `shared` (all lanes have the
  same args), and `T` if every lane has its own. `coefficients` is `(order + 1) x size`:
  row k is coefficient k in powers of `t' - t`, without units; row 0 is `y`.
  All of them have to be aligned to 64 bytes; none may overlap.
"""

from typing import Any, NamedTuple

from llvmlite import ir  # pyright: ignore[reportMissingImports]

from .arithmetic import Arithmetic
from .groups import plan
from .looped import Looped
from .parameters import Parameters
from .program import Program
from .unrolled import Unrolled


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
) -> SeriesCode:
    """Writes the functions of a program into a module of llvmlite.

    - `order`: the highest order.
    - `lanes`: the number of solves that are made at once.
    - `shared`: whether all lanes have the same arguments.
    - `name`: of the series; the other function is `<name>_prepare`.
    - `width`: the number of entries of a vector of the machine.
    - `unroll`: whether orders are written one after the other, or a loop over them.
    """
    pointer = ir.PointerType()
    type_ = ir.FunctionType(ir.VoidType(), [pointer] * 5)
    function = ir.Function(module, type_, name)
    for arg, label in zip(function.args, ("t", "y", "given", "coefficients", "work")):
        arg.name = label
        arg.add_attribute("noalias")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    ops = Arithmetic(builder, program.dtype, lanes)
    parameters = Parameters(program)
    groups = plan(program, width if lanes == 1 else 1)
    if unroll is None:
        unroll = _is_small(program, order)
    kind = Unrolled if unroll else Looped
    emitter = kind(ops, program, groups, parameters, order, shared, function.args)
    emitter.write()
    ops.builder.ret_void()
    prepare = parameters.prepare(module, f"{name}_prepare", 1 if shared else lanes)
    return SeriesCode(function, prepare, parameters.count, emitter.work_size)


# Multiplications of a series that is written order by order. Up to here LLVM takes less
# than half a second.
_SMALL = 3000


def _is_small(program: Program, order: int) -> bool:
    products = sum(atom.kind not in ("state", "linear") for atom in program.atoms)
    terms = sum(len(atom.operands) for atom in program.atoms)
    return products * order * order / 2 + terms * order <= _SMALL
