"""Sums of coefficients in memory: written out, as the product of a matrix, or by a
table of places."""

from typing import Any

import numpy as np
from llvmlite import ir  # pyright: ignore[reportMissingImports]

from .groups import Array, Sums
from .loops import loop
from .memory import as_value, INTEGER, Memory, plus, side_by_side
from .program import Parameter
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
        for place, members in sums.pieces(self.plan.width):
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
        is_given, matrix = self._matrix(sums, padded)
        kind = ops.entry if is_given and not self.shared else ops.scalar
        type_ = ops.chunk(width)
        row = self.row(source, k)

        def block(first_chunk, length):
            side = side_by_side(length)
            zeros = [ops.number(0.0, type_)] * (length * side)
            place = builder.mul(as_value(first_chunk), ir.Constant(INTEGER, width))

            def step(i, totals):
                x = ops.load(ops.at(row, plus(builder, i, first), ops.entry), ops.entry)
                x = ops.splat(x, type_)
                column = builder.mul(i, ir.Constant(INTEGER, padded))
                pointer = ops.at(matrix, builder.add(column, place), kind)
                out = []
                for c, total in enumerate(totals):
                    one = ops.at(pointer, c * width, kind)
                    loaded = kind if width == 1 else type_
                    factor = ops.splat(ops.load(one, loaded), type_)
                    out.append(ops.fma(factor, x, total))
                return out

            return self.accumulate(as_value(0), as_value(sums.terms), zeros, side, step)

        constants = [x.constant for x in sums.atoms] if isinstance(k, int) else None
        if constants is not None and any(constants):
            constants = constants + [0.0] * (padded - len(constants))
            if any(isinstance(x, Parameter) for x in constants):
                pointer = ops.at(self.given, self.parameters.row(constants), kind)
            else:
                pointer = self.table(constants, "constants")
        else:
            constants = None
        for context, length in self.blocks(chunks):
            with context as first_chunk:
                totals = block(first_chunk, length)
                for c, total in enumerate(totals):
                    chunk = plus(builder, first_chunk, c)
                    if isinstance(chunk, int):
                        place = chunk * width
                    else:
                        place = builder.mul(chunk, ir.Constant(INTEGER, width))
                    if constants is not None:
                        loaded = kind if width == 1 else type_
                        x = ops.load(ops.at(pointer, place, kind), loaded)
                        total = ops.add(total, ops.splat(x, type_))
                    place = plus(builder, place, start)
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
                places.extend((self.bases[source] + i, source.padded))
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
        order = as_value(k)
        with loop(builder, as_value(0), len(sums.atoms)) as m:
            total = ops.number(0.0, ops.entry)
            if constants is not None:
                x = ops.load(ops.at(constants, m, kind), kind)
                total = ops.splat(x, ops.entry)
            for i in range(sums.terms):
                term = plus(builder, builder.mul(m, as_value(sums.terms)), i)
                twice = builder.mul(term, as_value(2))
                place, stride = (
                    builder.zext(
                        builder.load(
                            ops.at(data, plus(builder, twice, j), small), typ=small
                        ),
                        INTEGER,
                    )
                    for j in (0, 1)
                )
                place = builder.add(place, builder.mul(order, stride))
                x = ops.load(ops.at(self.work, place, ops.entry), ops.entry)
                factor = ops.load(ops.at(factors, term, kind), kind)
                total = ops.fma(ops.splat(factor, ops.entry), x, total)
            place = plus(builder, m, start)
            self._store_sum(array, target, place, total, k, scale)
