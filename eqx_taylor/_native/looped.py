"""Series whose orders are computed by a loop, with all coefficients in memory: the code
does not grow with the order, and is compiled soon.

Row `k` of an array has coefficient `k` of its atoms, one beside the other, so that
sums of products run over whole vectors and have nothing to add up across them. All
arrays are in `work`, one after the other; the state's is there, too.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir  # pyright: ignore[reportMissingImports]

from .emitter import Emitter
from .groups import Array, Group, Slice, Sums
from .loops import loop
from .program import Parameter
from .recurrences import FIRST, NEXT, Step, Y
from .tables import add_table


_INTEGER = ir.IntType(64)

# The number of chunks whose sums are formed side by side: of the 32 vector registers
# some are for operands. Of longer arrays so many at a time, in a loop.
_LONGEST_BLOCK = 8
_BLOCK = 4
# So many sums hide the latency of an addition.
_SIDE_BY_SIDE = 4
# Sums with more terms in all are loops, over the columns of a matrix or over a table
# of places. Fewer take longer in a loop: 1.2 µs instead of 0.8 for the matrices of a
# network 8-24-24-8 at order 12; above 32 it makes no difference there. Displacements
# and pulls of six bodies, of 90 terms, are written out.
_MOST_IN_MATRIX = 64
_MOST_TERMS = 200


class Looped(Emitter):
    """Writes a series as a loop over orders."""

    def write(self) -> None:
        ops = self.ops
        self._bases: dict[Array, int] = {}
        self._pointers: dict[tuple[Array, Any], Any] = {}
        self._tables: dict[Any, Any] = {}
        self.work_size = 0
        self._place(self.plan.state, self.order + 1)
        for group in self.plan.groups:
            self._place(group.array, self.order)
        self._point_at(0)
        self._copy_state()
        self._write_order(0, 1)
        with loop(ops.builder, ir.Constant(_INTEGER, 1), self.order) as k:
            after = ops.builder.add(k, _one(k))
            self._point_at(k)
            self._pointers[self.plan.state, after] = self._row(self.plan.state, after)
            self._write_order(k, after)
        self._return_state()

    def _place(self, array: Array, rows: int) -> None:
        self._bases[array] = self.work_size
        size = array.padded * rows
        # Each begins at a boundary of 64 bytes.
        self.work_size += -(-size // 16) * 16

    # -- addresses

    def _point_at(self, k: Any) -> None:
        """Computes the addresses of all rows of an order: where they are needed, there
        may be a loop around."""
        for array in self._bases:
            self._pointers[array, k] = self._row(array, k)

    def row(self, array: Array, k: Any) -> Any:
        """The address of a row of this order, or of order 0."""
        if (array, k) == (self.plan.state, 1):
            return self._row(array, k)
        return self._pointers[array, k]

    def _row(self, array: Array, k: Any) -> Any:
        base = self._bases[array]
        if isinstance(k, int):
            return self.ops.at(self.work, base + k * array.padded, self.ops.entry)
        builder = self.ops.builder
        size = ir.Constant(_INTEGER, array.padded)
        place = builder.add(builder.mul(k, size), ir.Constant(_INTEGER, base))
        return self.ops.at(self.work, place, self.ops.entry)

    def load(self, array, k, chunk):
        ops = self.ops
        place = self._entry_of_chunk(array, chunk)
        return ops.load(
            ops.at(self.row(array, k), place, ops.entry), ops.chunk(array.width)
        )

    def store(self, array: Array, k: Any, chunk: Any, value: Any) -> None:
        place = self._entry_of_chunk(array, chunk)
        self.ops.store(value, self.ops.at(self.row(array, k), place, self.ops.entry))

    def _entry_of_chunk(self, array: Array, chunk: Any) -> Any:
        if isinstance(chunk, int):
            return chunk * array.width
        return self.ops.builder.mul(chunk, ir.Constant(_INTEGER, array.width))

    def entry(self, array, k, i):
        ops = self.ops
        return ops.load(ops.at(self.row(array, k), i, ops.entry), ops.entry)

    def table(self, values: Sequence[float], name: str) -> Any:
        """Numbers in memory."""
        key = tuple(values)
        if key not in self._tables:
            numbers = np.array(values, self.program.dtype)
            module = self.ops.builder.module
            self._tables[key] = add_table(module, name, numbers)
        return self._tables[key]

    # -- orders

    def _write_order(self, k: Any, after: Any) -> None:
        for group in self.plan.groups:
            if group.kind == "time":
                self._write_time(group, k)
            elif group.sums is not None:
                self._write_sums(group.sums, group.array, k, k, 0, None)
            else:
                self._write_group(group, k)
        for start, sums in self.plan.slopes:
            scale = None if isinstance(k, int) else 1
            self._write_sums(sums, self.plan.state, k, after, start, scale)

    def _write_time(self, group: Group, k: Any) -> None:
        ops = self.ops
        if isinstance(k, int):
            value = self.t
        else:
            is_first = ops.builder.icmp_signed("==", k, _one(k))
            one, zero = (ops.number(x, ops.entry) for x in (1.0, 0.0))
            value = ops.builder.select(is_first, one, zero)
        self.store(group.array, k, 0, value)

    def _write_group(self, group: Group, k: Any) -> None:
        rule = FIRST[group.kind] if isinstance(k, int) else NEXT[group.kind]
        chunks = group.array.chunks
        for start, length in self._blocks(chunks):
            with start as first:
                block = [_plus(self.ops.builder, first, i) for i in range(length)]
                values = rule(_Step(self, group, k, block))
                for chunk, value in zip(block, values, strict=True):
                    self.store(group.array, k, chunk, value)

    def _blocks(self, chunks: int):
        """Contexts, which return the first chunk of a block, and its length."""
        if chunks <= _LONGEST_BLOCK:
            yield contextlib.nullcontext(0), chunks
            return
        whole, rest = divmod(chunks, _BLOCK)
        yield self._each_block(whole), _BLOCK
        if rest:
            yield contextlib.nullcontext(whole * _BLOCK), rest

    @contextlib.contextmanager
    def _each_block(self, count: int):
        builder = self.ops.builder
        with loop(builder, ir.Constant(_INTEGER, 0), count) as i:
            yield builder.mul(i, ir.Constant(_INTEGER, _BLOCK))

    # -- sums

    def _write_sums(
        self, sums: Sums, array: Array, k: Any, target: Any, start: int, scale: Any
    ) -> None:
        """Writes sums of coefficients `k` into row `target`, from entry `start` on."""
        most = _MOST_TERMS if sums.matrix is None else _MOST_IN_MATRIX
        if len(sums.atoms) * sums.terms <= most:
            self._straight_sums(sums, array, k, target, start, scale)
        elif sums.matrix is not None:
            self._matrix_sums(sums, array, k, target, start, scale)
        else:
            self._table_sums(sums, array, k, target, start, scale)

    def _store_sum(self, array, target, place, value, k, scale) -> None:
        ops = self.ops
        if scale is not None:
            value = ops.mul(self.over_next_order(k, value.type), value)
        ops.store(value, ops.at(self.row(array, target), place, ops.entry))

    def _straight_sums(self, sums, array, k, target, start, scale) -> None:
        for place, members in sums.pieces(self.plan.width):
            value = self.sum_of_members(members, k)
            if value is None:
                value = self.ops.number(0.0, self.ops.chunk(len(members)))
            self._store_sum(array, target, start + place, value, k, scale)

    def over_next_order(self, k, type_):
        values = [1 / (k + 1) for k in range(self.order)]
        return self.of_order(values, "over_next_order", k, type_)

    def of_order(self, values: Sequence[float], name: str, k: Any, type_: Any) -> Any:
        ops = self.ops
        table = self.table(values, name)
        return ops.splat(ops.load(ops.at(table, k, ops.scalar), ops.scalar), type_)

    def _matrix_sums(self, sums, array, k, target, start, scale) -> None:
        """A matrix times a vector: whole vectors of the matrix, column by column."""
        ops, builder = self.ops, self.ops.builder
        assert sums.matrix is not None
        source, first = sums.matrix
        width = sums.width(self.plan.width)
        chunks = -(-len(sums.atoms) // width)
        padded = chunks * width
        is_given, matrix = self._matrix(sums, padded)
        kind = ops.entry if is_given and not self.shared else ops.scalar
        type_ = ops.chunk(width)
        row = self.row(source, k)

        def block(first_chunk, length):
            side = _side(length)
            zeros = [ops.number(0.0, type_)] * (length * side)
            place = builder.mul(_as_value(first_chunk), ir.Constant(_INTEGER, width))

            def step(i, totals):
                x = ops.load(
                    ops.at(row, _plus(builder, i, first), ops.entry), ops.entry
                )
                x = ops.splat(x, type_)
                column = builder.mul(i, ir.Constant(_INTEGER, padded))
                pointer = ops.at(matrix, builder.add(column, place), kind)
                out = []
                for c, total in enumerate(totals):
                    one = ops.at(pointer, c * width, kind)
                    loaded = kind if width == 1 else type_
                    factor = ops.splat(ops.load(one, loaded), type_)
                    out.append(ops.fma(factor, x, total))
                return out

            return self.accumulate(
                _as_value(0), _as_value(sums.terms), zeros, side, step
            )

        constants = [x.constant for x in sums.atoms] if isinstance(k, int) else None
        if constants is not None and any(constants):
            constants = constants + [0.0] * (padded - len(constants))
            if any(isinstance(x, Parameter) for x in constants):
                pointer = ops.at(self.given, self.parameters.row(constants), kind)
            else:
                pointer = self.table(constants, "constants")
        else:
            constants = None
        for context, length in self._blocks(chunks):
            with context as first_chunk:
                totals = block(first_chunk, length)
                for c, total in enumerate(totals):
                    chunk = _plus(builder, first_chunk, c)
                    if isinstance(chunk, int):
                        place = chunk * width
                    else:
                        place = builder.mul(chunk, ir.Constant(_INTEGER, width))
                    if constants is not None:
                        loaded = kind if width == 1 else type_
                        x = ops.load(ops.at(pointer, place, kind), loaded)
                        total = ops.add(total, ops.splat(x, type_))
                    place = _plus(builder, place, start)
                    self._store_sum(array, target, place, total, k, scale)

    def _matrix(self, sums: Sums, padded: int) -> tuple[bool, Any]:
        """The coefficients by columns, and whether they are parameters."""
        values = []
        for column in range(sums.terms):
            entries = [x.coefficients[column] for x in sums.atoms]
            values.extend(entries + [0.0] * (padded - len(entries)))
        if any(isinstance(x, Parameter) for x in values):
            kind = self.ops.scalar if self.shared else self.ops.entry
            return True, self.ops.at(self.given, self.parameters.row(values), kind)
        return False, self.table(values, "matrix")

    def _table_sums(self, sums, array, k, target, start, scale) -> None:
        """Sums of entries that are anywhere, one by one, by a table of their places."""
        ops, builder = self.ops, self.ops.builder
        small = ir.IntType(32)
        places: list[int] = []
        values: list[Any] = []
        for atom in sums.atoms:
            for x in atom.operands:
                source, i = self.plan.places[x]
                places.extend((self._bases[source] + i, source.padded))
            values.extend(atom.coefficients)
        data = add_table(builder.module, "places", np.array(places, np.int32))
        is_given = any(isinstance(x, Parameter) for x in values)
        kind = ops.entry if is_given and not self.shared else ops.scalar
        if is_given:
            factors = ops.at(self.given, self.parameters.row(values), kind)
        else:
            factors = self.table(values, "factors")
        constants = None
        if isinstance(k, int) and any(x.constant for x in sums.atoms):
            found = [x.constant for x in sums.atoms]
            if any(isinstance(x, Parameter) for x in found):
                constants = ops.at(self.given, self.parameters.row(found), kind)
            else:
                constants = self.table([float(x) for x in found], "constants")
        order = _as_value(k)
        with loop(builder, _as_value(0), len(sums.atoms)) as m:
            total = ops.number(0.0, ops.entry)
            if constants is not None:
                x = ops.load(ops.at(constants, m, kind), kind)
                total = ops.splat(x, ops.entry)
            for i in range(sums.terms):
                term = _plus(builder, builder.mul(m, _as_value(sums.terms)), i)
                twice = builder.mul(term, _as_value(2))
                place, stride = (
                    builder.zext(
                        builder.load(
                            ops.at(data, _plus(builder, twice, j), small), typ=small
                        ),
                        _INTEGER,
                    )
                    for j in (0, 1)
                )
                place = builder.add(place, builder.mul(order, stride))
                x = ops.load(ops.at(self.work, place, ops.entry), ops.entry)
                factor = ops.load(ops.at(factors, term, kind), kind)
                total = ops.fma(ops.splat(factor, ops.entry), x, total)
            place = _plus(builder, m, start)
            self._store_sum(array, target, place, total, k, scale)

    def accumulate(
        self,
        first: Any,
        stop: Any,
        zeros: Sequence[Any],
        side: int,
        step: Callable[[Any, Sequence[Any]], Sequence[Any]],
    ) -> list[Any]:
        """Sums over `first <= j < stop`, of some values at once. `side` sums of each
        are formed side by side, and `zeros` has zeros for all of them."""
        builder = self.ops.builder
        n = len(zeros) // side
        if side == 1:
            around = loop(builder, first, stop, zeros)
            with around as (j, body):
                body.carried = step(j, body.carried)
            return around.results
        count = builder.sub(stop, first)
        count = builder.select(
            builder.icmp_signed(">", count, _as_value(0)), count, _as_value(0)
        )
        shift = _as_value(side.bit_length() - 1)
        rounds = builder.lshr(count, shift)
        around = loop(builder, _as_value(0), rounds, zeros)
        with around as (i, body):
            start = builder.add(first, builder.shl(i, shift))
            body.carried = [
                x
                for s in range(side)
                for x in step(_plus(builder, start, s), body.carried[s * n :][:n])
            ]
        totals = around.results
        while len(totals) > n:
            half = len(totals) // 2
            totals = [self.ops.add(x, y) for x, y in zip(totals[:half], totals[half:])]
        rest = builder.add(first, builder.shl(rounds, shift))
        around = loop(builder, rest, stop, totals)
        with around as (j, body):
            body.carried = step(j, body.carried)
        return around.results

    # -- the state

    def _copy_state(self) -> None:
        ops, size = self.ops, self.plan.state.count
        row = self.row(self.plan.state, 0)
        with loop(ops.builder, _as_value(0), size) as i:
            x = ops.load(ops.at(self.y, i, ops.entry), ops.entry)
            ops.store(x, ops.at(row, i, ops.entry))

    def _return_state(self) -> None:
        ops, state = self.ops, self.plan.state
        with loop(ops.builder, _as_value(0), self.order + 1) as k:
            row = self._row(state, k)
            place = ops.builder.mul(k, _as_value(state.count))
            target = ops.at(self.coefficients, place, ops.entry)
            with loop(ops.builder, _as_value(0), state.count) as i:
                x = ops.load(ops.at(row, i, ops.entry), ops.entry)
                ops.store(x, ops.at(target, i, ops.entry))


def _as_value(x: Any) -> Any:
    return ir.Constant(_INTEGER, x) if isinstance(x, int) else x


def _one(k: Any) -> Any:
    return ir.Constant(k.type, 1)


def _plus(builder: Any, x: Any, i: int) -> Any:
    if isinstance(x, int):
        return x + i
    return x if i == 0 else builder.add(x, ir.Constant(x.type, i))


class _Step(Step):
    """One order of some chunks of a group."""

    def __init__(self, emitter: Looped, group: Group, k: Any, block: Sequence[Any]):
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
            self.emitter.load(source.array, k, _plus(builder, chunk, source.start))
            for chunk in self.block
        ]

    def _from(self, row: Any, name: Any) -> list[Any]:
        """The chunks of a row whose address is not kept."""
        source, ops = self._source(name), self.ops
        width = source.array.width
        start = _plus(ops.builder, self.block[0], source.start)
        if isinstance(start, int):
            place = start * width
        else:
            place = ops.builder.mul(start, ir.Constant(_INTEGER, width))
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
        start = ir.Constant(_INTEGER, first)
        stop = builder.add(self.k, ir.Constant(_INTEGER, 1 - without))
        a_array, b_array = self._source(a).array, self._source(b).array
        row = None
        if weight is not None:
            n = emitter.order
            values = [
                weight(j, k) if 0 < j <= k else 0.0 for k in range(n) for j in range(n)
            ]
            table = emitter.table(values, "weights")
            place = builder.mul(self.k, ir.Constant(_INTEGER, n))
            row = ops.at(table, place, ops.scalar)

        def step(j, totals):
            x = self._from(emitter._row(a_array, j), a)
            y = self._from(emitter._row(b_array, builder.sub(self.k, j)), b)
            if row is not None:
                w = ops.load(ops.at(row, j, ops.scalar), ops.scalar)
                w = ops.splat(w, self.type)
                x = [ops.mul(w, one) for one in x]
            return [ops.fma(*terms) for terms in zip(x, y, totals)]

        # What is known last is added last, and nothing else waits for it.
        if first == 0:
            start = ir.Constant(_INTEGER, 1)
        if without == 0:
            stop = self.k
        totals = self._accumulated(start, stop, step)
        if first == 0:
            totals = step(ir.Constant(_INTEGER, 0), totals)
        return step(self.k, totals) if without == 0 else totals

    def _accumulated(self, start, stop, step):
        side = _side(len(self.block))
        zeros = [self.ops.number(0.0, self.type)] * (side * len(self.block))
        return self.emitter.accumulate(start, stop, zeros, side, step)

    def square_sum(self, a, first):
        builder, ops, emitter = self.ops.builder, self.ops, self.emitter
        array = self._source(a).array
        one = ir.Constant(_INTEGER, 1)
        stop = builder.lshr(builder.add(self.k, one), one)

        def step(j, totals):
            x = self._from(emitter._row(array, j), a)
            y = self._from(emitter._row(array, builder.sub(self.k, j)), a)
            return [ops.fma(*terms) for terms in zip(x, y, totals)]

        totals = self._accumulated(one, stop, step)
        if first == 0:
            totals = step(ir.Constant(_INTEGER, 0), totals)
        half = builder.lshr(self.k, one)
        is_odd = builder.trunc(self.k, ir.IntType(1))
        zero = ops.number(0.0, self.type)
        middle = [
            builder.select(is_odd, zero, x)
            for x in self._from(emitter._row(array, half), a)
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

    def call(self, name, x):
        return [self.ops.call(name, one) for one in x]


def _side(length: int) -> int:
    """How many sums of each of some chunks are formed side by side: a power of two."""
    return 4 if length == 1 else 2 if length < _SIDE_BY_SIDE else 1
