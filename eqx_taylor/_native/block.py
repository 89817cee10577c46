"""The functions of a solve in LLVM's language, for all processors: the series of the
field, and the loop over the steps."""

from typing import Any, NamedTuple

import llvmlite.ir as ir
import numpy as np

from .layout import Shape
from .loop import define_block
from .program import Program
from .series import series_function


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

    @property
    def limit(self) -> int:
        """The largest number of steps, as a 32-bit integer."""
        most = int(np.iinfo(np.int32).max)
        return most if self.max_steps < 0 else min(self.max_steps, most)

    def key(self, *details: Any) -> str:
        """A string which stands for the content of this, and of what else a program is
        compiled for."""
        return "\n".join(map(str, [self.program.key, *self[1:], *details]))


class Block(NamedTuple):
    """Functions of a module.

    **Fields:**

    - `prepare`: computes the parameters of the series from the field's arguments.
    - `solves`: makes as many solves as there are lanes.
    - `shape`: what they are compiled for.
    """

    prepare: ir.Function
    solves: ir.Function
    shape: Shape


def write_block(
    module: ir.Module,
    solve: Solve,
    *,
    lanes: int,
    width: int,
    shared: bool,
    at_times: bool,
) -> Block:
    """Appends the functions to a module.

    **Arguments:**

    - `lanes`: how many solves are made at once.
    - `width`: the number of entries of a vector of the processor.
    - `shared`, `at_times`: as in `Shape`.
    """
    program = solve.program
    code = series_function(
        module,
        program,
        order=solve.order,
        lanes=lanes,
        shared=shared,
        any_order=True,
        width=width,
    )
    shape = Shape(
        n=program.size,
        order=solve.order,
        kind=KINDS[program.dtype],
        width=lanes,
        arguments=program.arguments,
        parameters=code.parameters,
        work=code.work,
        shared=shared,
        compensated=solve.compensated,
        at_times=at_times,
        rows=solve.rows,
        entries=width,
    )
    solves = define_block(module, code.prepare, code.series, shape)
    for function in (code.series, code.prepare, solves):
        function.linkage = "internal"
    return Block(code.prepare, solves, shape)


# LLVM's names of numbers.
KINDS = {"float64": "double", "float32": "float"}
