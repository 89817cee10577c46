"""The coefficients of a series in memory, and loops over them.

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
from .groups import Array
from .loops import loop
from .tables import add_table


INTEGER = ir.IntType(64)

# The number of chunks whose sums are formed side by side: of the 32 vector registers
# some are for operands. Of longer arrays so many at a time, in a loop.
_LONGEST_BLOCK = 8
_BLOCK = 4
# So many sums hide the latency of an addition.
_SIDE_BY_SIDE = 4


class Memory(Emitter):
    """Arrays of coefficients, and tables of numbers."""

    def allocate(self) -> None:
        """Gives each array its place."""
        # The first entry of each in `work`; or, in a function of its own, a pointer.
        self.bases: dict[Array, int] = {}
        self.starts: dict[Array, Any] = {}
        self.pointers: dict[tuple[Array, Any], Any] = {}
        self._tables: dict[Any, Any] = {}
        self._place(self.plan.state, self.order + 1)
        for group in self.groups:
            self._place(group.array, self.order)

    def _place(self, array: Array, rows: int) -> None:
        self.bases[array] = self.work_size
        # The last chunk of a row may be written beyond its end. Each array begins at a
        # boundary of 64 bytes.
        size = array.padded * rows + array.width
        self.work_size += -(-size // 16) * 16

    # -- addresses

    def point_at(self, k: Any) -> None:
        """Computes the addresses of all rows of an order: where they are needed, there
        may be a loop around."""
        for array in self.bases:
            self.pointers[array, k] = self.address(array, k)

    def row(self, array: Array, k: Any) -> Any:
        """The address of a row of this order, or of order 0."""
        if (array, k) == (self.plan.state, 1):
            return self.address(array, k)
        return self.pointers[array, k]

    def address(self, array: Array, k: Any) -> Any:
        """Computes the address of a row of any order."""
        builder, entry = self.ops.builder, self.ops.entry
        if array in self.starts:
            place = builder.mul(as_value(k), as_value(array.padded))
            return self.ops.at(self.starts[array], place, entry)
        base = self.bases[array]
        if isinstance(k, int):
            return self.ops.at(self.work, base + k * array.padded, entry)
        place = builder.mul(k, as_value(array.padded))
        return self.ops.at(self.work, builder.add(place, as_value(base)), entry)

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
        return self.ops.builder.mul(chunk, ir.Constant(INTEGER, array.width))

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

    def over_next_order(self, k, type_):
        values = [1 / (k + 1) for k in range(self.order)]
        return self.of_order(values, "over_next_order", k, type_)

    def of_order(self, values: Sequence[float], name: str, k: Any, type_: Any) -> Any:
        ops = self.ops
        table = self.table(values, name)
        return ops.splat(ops.load(ops.at(table, k, ops.scalar), ops.scalar), type_)

    # -- loops

    def blocks(self, chunks: int):
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
        with loop(builder, ir.Constant(INTEGER, 0), count) as i:
            yield builder.mul(i, ir.Constant(INTEGER, _BLOCK))

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
            builder.icmp_signed(">", count, as_value(0)), count, as_value(0)
        )
        shift = as_value(side.bit_length() - 1)
        rounds = builder.lshr(count, shift)
        around = loop(builder, as_value(0), rounds, zeros)
        with around as (i, body):
            start = builder.add(first, builder.shl(i, shift))
            body.carried = [
                x
                for s in range(side)
                for x in step(plus(builder, start, s), body.carried[s * n :][:n])
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


def as_value(x: Any) -> Any:
    return ir.Constant(INTEGER, x) if isinstance(x, int) else x


def one(k: Any) -> Any:
    return ir.Constant(k.type, 1)


def plus(builder: Any, x: Any, i: int) -> Any:
    if isinstance(x, int):
        return x + i
    return x if i == 0 else builder.add(x, ir.Constant(x.type, i))


def side_by_side(length: int) -> int:
    """How many sums of each of some chunks are formed side by side: a power of two."""
    return 4 if length == 1 else 2 if length < _SIDE_BY_SIDE else 1
