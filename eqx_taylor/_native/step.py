"""One order of a recurrence, of coefficients in memory."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir  # pyright: ignore[reportMissingImports]

from .groups import Group, Slice
from .memory import INTEGER, Memory, plus, side_by_side
from .recurrences import Step, Y


class StepInMemory(Step):
    """One order of some chunks of a group."""

    def __init__(self, emitter: Memory, group: Group, k: Any, block: Sequence[Any]):
        self.emitter, self.group, self.k, self.block = emitter, group, k, block
        self.attribute = group.attribute
        self.ops = emitter.ops
        self.type = emitter.ops.chunk(group.array.width)

    def _source(self, name: Any) -> Slice:
        if name == Y:
            return Slice(self.group.array)
        if isinstance(name, int):
            return self.group.operands[name]
        return self.group.lagged[0]

    def _terms(self, name: Any, k: Any) -> list[Any]:
        source, builder = self._source(name), self.ops.builder
        return [
            self.emitter.load(source.array, k, plus(builder, chunk, source.start))
            for chunk in self.block
        ]

    def _from(self, row: Any, name: Any) -> list[Any]:
        """The chunks of a row whose address is not kept."""
        source, ops = self._source(name), self.ops
        width = source.array.width
        start = plus(ops.builder, self.block[0], source.start)
        if isinstance(start, int):
            place = start * width
        else:
            place = ops.builder.mul(start, ir.Constant(INTEGER, width))
        pointer = ops.at(row, place, ops.entry)
        return [
            ops.load(ops.at(pointer, i * width, ops.entry), self.type)
            for i in range(len(self.block))
        ]

    def at(self, a):
        return self._terms(a, self.k)

    def first(self, a):
        return self._terms(a, 0)

    def sum(self, a, b, first, without, weight=None):
        builder, emitter, ops = self.ops.builder, self.emitter, self.ops
        start = ir.Constant(INTEGER, first)
        stop = builder.add(self.k, ir.Constant(INTEGER, 1 - without))
        a_array, b_array = self._source(a).array, self._source(b).array
        row = None
        if weight is not None:
            n = emitter.order
            values = [
                weight(j, k) if 0 < j <= k else 0.0 for k in range(n) for j in range(n)
            ]
            table = emitter.table(values, "weights")
            place = builder.mul(self.k, ir.Constant(INTEGER, n))
            row = ops.at(table, place, ops.scalar)

        def step(j, totals):
            x = self._from(emitter.address(a_array, j), a)
            y = self._from(emitter.address(b_array, builder.sub(self.k, j)), b)
            if row is not None:
                w = ops.load(ops.at(row, j, ops.scalar), ops.scalar)
                w = ops.splat(w, self.type)
                x = [ops.mul(w, one) for one in x]
            return [ops.fma(*terms) for terms in zip(x, y, totals)]

        # What is known last is added last, and nothing else waits for it.
        if first == 0:
            start = ir.Constant(INTEGER, 1)
        if without == 0:
            stop = self.k
        totals = self._accumulated(start, stop, step)
        ends = [ir.Constant(INTEGER, 0)] if first == 0 else []
        ends += [self.k] if without == 0 else []
        # The first coefficient of `a` is with the last one of `b`.
        if self.level(a) < self.level(b):
            ends.reverse()
        for j in ends:
            totals = step(j, totals)
        return totals

    def _accumulated(self, start, stop, step):
        side = side_by_side(len(self.block))
        zeros = [self.ops.number(0.0, self.type)] * (side * len(self.block))
        return self.emitter.accumulate(start, stop, zeros, side, step)

    def square_sum(self, a, first):
        builder, ops, emitter = self.ops.builder, self.ops, self.emitter
        array = self._source(a).array
        one = ir.Constant(INTEGER, 1)
        stop = builder.lshr(builder.add(self.k, one), one)

        def step(j, totals):
            x = self._from(emitter.address(array, j), a)
            y = self._from(emitter.address(array, builder.sub(self.k, j)), a)
            return [ops.fma(*terms) for terms in zip(x, y, totals)]

        totals = self._accumulated(one, stop, step)
        if first == 0:
            totals = step(ir.Constant(INTEGER, 0), totals)
        half = builder.lshr(self.k, one)
        is_odd = builder.trunc(self.k, ir.IntType(1))
        zero = ops.number(0.0, self.type)
        middle = [
            builder.select(is_odd, zero, x)
            for x in self._from(emitter.address(array, half), a)
        ]
        return [ops.fma(x, x, ops.add(y, y)) for x, y in zip(middle, totals)]

    def order(self, fun):
        values = [fun(k) if k else 0.0 for k in range(self.emitter.order)]
        x = self.emitter.of_order(values, "order", self.k, self.type)
        return [x] * len(self.block)

    def number(self, x):
        return [self.ops.number(x, self.type)] * len(self.block)

    def add(self, x, y):
        return [*map(self.ops.add, x, y)]

    def sub(self, x, y):
        return [*map(self.ops.sub, x, y)]

    def mul(self, x, y):
        return [*map(self.ops.mul, x, y)]

    def div(self, x, y):
        return [*map(self.ops.div, x, y)]

    def neg(self, x):
        return [*map(self.ops.neg, x)]

    def fma(self, x, y, z):
        return [*map(self.ops.fma, x, y, z)]

    def level(self, a):
        return self._source(a).array.level

    def call(self, name, x):
        return [self.ops.call(name, one) for one in x]
