"""Sums of coefficients in memory: written out, as the product of a matrix, or by a
table of places."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir  # pyright: ignore[reportMissingImports]

from .atoms import Coefficient, Parameter
from .groups import Array, Sums
from .loops import loop
from .memory import as_value, INTEGER, Memory, plus, side_by_side
from .tables import add_table


# Sums with more terms in all are loops, over the columns of a matrix or over a table
# of places. Fewer take longer in a loop: 1.2 µs instead of 0.8 for the matrices of a
# network 8-24-24-8 at order 12; above 32 it makes no difference there. Displacements
# and pulls of six bodies, of 90 terms, are written out.
_MOST_IN_MATRIX = 64
_MOST_TERMS = 200


class SumsInMemory(Memory):
    """Writes sums."""

    def write_sums(
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
        count = _count(sums, array, start)
        for place, members in sums.pieces(self.plan.width, count):
            value = self.sum_of_members(members, k)
            if value is None:
                value = self.ops.number(0.0, self.ops.chunk(len(members)))
            self._store_sum(array, target, start + place, value, k, scale)

    def _matrix_sums(self, sums, array, k, target, start, scale) -> None:
        """A matrix times a vector: whole vectors of the matrix, column by column."""
        ops, builder = self.ops, self.ops.builder
        assert sums.matrix is not None
        source, first = sums.matrix
        width = sums.width(self.plan.width)
        chunks = -(-len(sums.atoms) // width)
        padded = chunks * width
        matrix = self._numbers(_by_columns(sums, padded), "matrix")
        constants = self._constants(sums, k, padded)
        type_ = ops.chunk(width)
        row = self.row(source, k)
        for context, length in self.blocks(chunks):
            with context as first_chunk:
                begin = builder.mul(as_value(first_chunk), as_value(width))
                side = side_by_side(length)

                def step(i, totals, begin=begin):
                    place = ops.at(row, plus(builder, i, first), ops.entry)
                    x = ops.splat(ops.load(place, ops.entry), type_)
                    column = builder.mul(i, as_value(padded))
                    place = builder.add(column, begin)
                    out = []
                    for c, total in enumerate(totals):
                        there = plus(builder, place, c * width)
                        factor = self._loaded(matrix, there, width)
                        out.append(ops.fma(factor, x, total))
                    return out

                zeros = [ops.number(0.0, type_)] * (length * side)
                stop = as_value(sums.terms)
                totals = self.accumulate(as_value(0), stop, zeros, side, step)
                for c, total in enumerate(totals):
                    place = plus(builder, begin, c * width)
                    if constants is not None:
                        total = ops.add(total, self._loaded(constants, place, width))
                    place = plus(builder, place, start)
                    self._store_sum(array, target, place, total, k, scale)

    def _table_sums(self, sums, array, k, target, start, scale) -> None:
        """Sums of entries that are anywhere, one by one, by a table of their places."""
        ops, builder = self.ops, self.ops.builder
        small = ir.IntType(32)
        places: list[int] = []
        values: list[Coefficient] = []
        for atom in sums.atoms:
            for x in atom.operands:
                source, i = self.plan.places[x]
                places.extend((self.bases[source] + i, source.padded))
            values.extend(atom.coefficients)
        data = add_table(builder.module, "places", np.array(places, np.int32))
        factors = self._numbers(values, "factors")
        constants = self._constants(sums, k)
        count, last = _count(sums, array, start), as_value(len(sums.atoms) - 1)

        def place_of(i):
            return builder.zext(
                builder.load(ops.at(data, i, small), typ=small), INTEGER
            )

        with loop(builder, as_value(0), count) as i:
            m = builder.select(builder.icmp_signed("<", i, last), i, last)
            total = ops.number(0.0, ops.entry)
            if constants is not None:
                total = self._loaded(constants, m, 1)
            for column in range(sums.terms):
                term = plus(builder, builder.mul(m, as_value(sums.terms)), column)
                twice = builder.mul(term, as_value(2))
                first, stride = place_of(twice), place_of(plus(builder, twice, 1))
                source = builder.add(first, builder.mul(as_value(k), stride))
                x = ops.load(ops.at(self.work, source, ops.entry), ops.entry)
                total = ops.fma(self._loaded(factors, term, 1), x, total)
            self._store_sum(array, target, plus(builder, i, start), total, k, scale)

    # -- coefficients in memory

    def _numbers(self, values: Sequence[Coefficient], name: str) -> tuple[Any, Any]:
        """Where coefficients are, and the type of each: all of them are parameters if
        one of them is."""
        if any(isinstance(x, Parameter) for x in values):
            kind = self.ops.scalar if self.shared else self.ops.entry
            return self.ops.at(self.given, self.parameters.row(values), kind), kind
        numbers: Any = values
        return self.table(numbers, name), self.ops.scalar

    def _constants(self, sums: Sums, k: Any, padded: int = 0) -> Any:
        """The constants of sums, where they are needed: in order 0."""
        values = [x.constant for x in sums.atoms]
        if not isinstance(k, int) or not any(values):
            return None
        zeros = [0.0] * (padded - len(values))
        return self._numbers([*values, *zeros], "constants")

    def _loaded(self, numbers: tuple[Any, Any], place: Any, width: int) -> Any:
        """A chunk of coefficients; of several solves, that of all lanes."""
        ops = self.ops
        pointer, kind = numbers
        type_ = ops.chunk(width)
        loaded = ops.load(ops.at(pointer, place, kind), kind if width == 1 else type_)
        return ops.splat(loaded, type_)


def _count(sums: Sums, array: Array, start: int) -> int:
    """The number of entries to write: to the end of the last chunk, where these are the
    last entries. What is computed of numbers that were never written may be slow."""
    is_last = start + len(sums.atoms) == array.count
    return array.padded - start if is_last else len(sums.atoms)


def _by_columns(sums: Sums, padded: int) -> list[Coefficient]:
    """The coefficients of sums of the same atoms, atom by atom."""
    columns = zip(*(x.coefficients for x in sums.atoms))
    zeros = [0.0] * (padded - len(sums.atoms))
    return [x for column in columns for x in (*column, *zeros)]
