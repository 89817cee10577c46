"""What is computed once for each solve: `prepare`, and where its results are."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir  # pyright: ignore[reportMissingImports]

from .arithmetic import Arithmetic
from .atoms import Coefficient, Parameter
from .loops import loop
from .program import Program
from .recurrences import power
from .tables import add_table


class Parameters:
    """Places of parameters in the array that `prepare` fills.

    First come the parameters of the program, then rows: chunks of coefficients that are
    loaded as they are; then the numbers that are in rows with them.
    """

    def __init__(self, program: Program):
        self._program = program
        self._rows: dict[tuple, int] = {}
        self._sources: list[Coefficient] = []

    def row(self, coefficients: Sequence[Coefficient]) -> int:
        """The place of a row."""
        key = tuple(
            ("p", c.index) if isinstance(c, Parameter) else c for c in coefficients
        )
        if key not in self._rows:
            self._rows[key] = len(self._program.parameters) + len(self._sources)
            self._sources.extend(coefficients)
        return self._rows[key]

    def _numbers(self) -> dict[float, int]:
        start = len(self._program.parameters) + len(self._sources)
        known = [x for x in self._sources if not isinstance(x, Parameter)]
        return {x: start + i for i, x in enumerate(dict.fromkeys(known))}

    @property
    def count(self) -> int:
        rows = len(self._program.parameters) + len(self._sources)
        return rows + len(self._numbers())

    def prepare(self, module: Any, name: str, lanes: int) -> Any:
        """Writes the function, after all rows are known. Its numbers are vectors if
        `lanes` is more than 1."""
        pointer = ir.PointerType()
        type_ = ir.FunctionType(ir.VoidType(), [pointer, pointer])
        function = ir.Function(module, type_, name)
        args, out = function.args
        for arg in function.args:
            arg.add_attribute("noalias")
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        ops = Arithmetic(builder, self._program.dtype, lanes)
        values: dict[int, Any] = {}

        def value(x: Coefficient) -> Any:
            if not isinstance(x, Parameter):
                return ops.number(x, ops.entry)
            if x.op == "argument":
                return ops.load(ops.at(args, x.attribute, ops.entry), ops.entry)
            return values[x.index]

        copied = []
        for p in self._program.parameters:
            if p.op == "argument":
                copied.append((p.attribute, p.index))
                continue
            values[p.index] = _computed(ops, p, [value(x) for x in p.operands])
            ops.store(values[p.index], ops.at(out, p.index, ops.entry))
        numbers, rows = self._numbers(), len(self._program.parameters)
        for x, place in numbers.items():
            ops.store(ops.number(x, ops.entry), ops.at(out, place, ops.entry))
        _copy(ops, f"{name}.arguments", copied, args, out)
        moved = [
            (x.index if isinstance(x, Parameter) else numbers[x], rows + i)
            for i, x in enumerate(self._sources)
        ]
        _copy(ops, f"{name}.rows", moved, out, out)
        builder.ret_void()
        return function


def _computed(ops: Arithmetic, p: Parameter, operands: list[Any]) -> Any:
    if p.op in ("add", "mul", "div"):
        return getattr(ops, p.op)(*operands)
    number = lambda x: ops.number(x, ops.entry)  # noqa: E731
    if p.op == "pow" and isinstance(p.operands[1], float):
        step = _OnValues(ops, operands[0].type)
        return power(step, operands[0], p.operands[1])
    if p.op == "select":
        flag, x, y = operands
        return ops.choose("!=", flag, number(0.0), x, y)
    if p.op == "log_unless_zero":
        [x] = operands
        return ops.call("log", ops.choose("==", x, number(0.0), number(1.0), x))
    if p.op == "bit":
        # That of 2^i in an integer: it is odd, without the lower ones.
        [x] = operands
        halves = [
            ops.call("floor", ops.mul(x, number(0.5**i)))
            for i in (p.attribute, p.attribute + 1)
        ]
        return ops.sub(halves[0], ops.mul(number(2.0), halves[1]))
    if p.op == "one_if_bits":
        # Of an integer from 0 to 2^n - 1 it is 1, and otherwise no number.
        [x] = operands
        one, none = number(1.0), number(math.nan)
        is_integer = ops.choose("==", ops.call("floor", x), x, one, none)
        is_small = ops.choose("<", x, number(2.0**p.attribute), is_integer, none)
        return ops.choose(">=", x, number(0.0), is_small, none)
    return ops.call(p.op, *operands)


class _OnValues:
    """What `power` asks of a step."""

    def __init__(self, ops: Arithmetic, type_: Any):
        self.mul, self.div, self.call = ops.mul, ops.div, ops.call
        self.number = lambda x: ops.number(x, type_)


def _copy(
    ops: Arithmetic, name: str, places: Sequence[tuple[int, int]], source, target
) -> None:
    """Copies entries, `(from, to)`, by a loop over a table: so the code stays short."""
    if not places:
        return
    index = ir.IntType(32)
    builder = ops.builder
    data = add_table(builder.module, name, np.array(places, np.int32))
    with loop(builder, ir.Constant(ir.IntType(64), 0), len(places)) as i:
        twice = builder.shl(i, ir.Constant(i.type, 1))
        start = builder.load(ops.at(data, twice, index), typ=index)
        after = builder.add(twice, ir.Constant(i.type, 1))
        end = builder.load(ops.at(data, after, index), typ=index)
        start, end = (builder.zext(x, ir.IntType(64)) for x in (start, end))
        value = ops.load(ops.at(source, start, ops.entry), ops.entry)
        ops.store(value, ops.at(target, end, ops.entry))
