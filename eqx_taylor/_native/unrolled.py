"""Series whose orders are written one after the other, with all coefficients in
registers, or where LLVM puts them: for small programs."""

from typing import Any

from llvmlite import ir  # pyright: ignore[reportMissingImports]

from .emitter import Emitter, padded
from .groups import Array, Group, Slice
from .recurrences import FIRST, NEXT, Step, Y


# A coefficient, as chunks; `None` is known to be zero.
Row = list[Any]


class Unrolled(Emitter):
    """Writes a series order by order."""

    def write(self) -> None:
        self.rows: dict[tuple[Array, int], Row] = {}
        state = self.plan.state
        ops = self.ops
        first = [
            ops.load(ops.at(self.y, i, ops.entry), ops.entry)
            for i in range(state.count)
        ]
        for i, x in enumerate(first):
            ops.store(x, ops.at(self.coefficients, i, ops.entry))
        self.rows[state, 0] = self._chunks(first)
        for k in range(self.order):
            for group in self.plan.groups:
                self.rows[group.array, k] = [
                    self._chunk(group, k, c) for c in range(group.array.chunks)
                ]
            self._write_state(k)
            if k == 0 and self.needed is not None:
                self._return_if(self.needed)

    def _return_if(self, needed: Any) -> None:
        """Ends where no more than the slope is needed."""
        builder, one = self.ops.builder, ir.Constant(needed.type, 1)
        with builder.if_then(builder.icmp_signed("==", needed, one)):
            builder.ret_void()

    def _chunk(self, group: Group, k: int, chunk: int) -> Any:
        if group.kind == "time":
            one = self.ops.number(1.0, self.ops.entry)
            return self.t if k == 0 else one if k == 1 else None
        if group.sums is not None:
            width = group.array.width
            atoms = group.sums.atoms[chunk * width : (chunk + 1) * width]
            return self.sum_of_members(padded(atoms, width), k)
        rules = NEXT if k else FIRST
        return rules[group.kind](_Step(self, group, k, chunk))

    def load(self, array: Array, k: int, chunk: int) -> Any:
        return self.rows[array, k][chunk]

    def entry(self, array: Array, k: int, i: int) -> Any:
        chunk = self.rows[array, k][i // array.width]
        if chunk is None:
            return None
        key = id(chunk), i % array.width
        if key not in self.entries:
            self.entries[key] = self.ops.entry_of(chunk, array.width, i % array.width)
        return self.entries[key]

    def _write_state(self, k: int) -> None:
        ops, state = self.ops, self.plan.state
        entries: Row = []
        for _, sums in self.plan.slopes:
            for _, members in sums.pieces(self.plan.width):
                value = self.sum_of_members(members, k)
                if value is None:
                    value = ops.number(0.0, ops.chunk(len(members)))
                if k > 0:
                    value = ops.mul(ops.number(1 / (k + 1), value.type), value)
                place = (k + 1) * state.count + len(entries)
                ops.store(value, ops.at(self.coefficients, place, ops.entry))
                width = len(members)
                entries.extend(ops.entry_of(value, width, i) for i in range(width))
        self.rows[state, k + 1] = self._chunks(entries)

    def _chunks(self, entries: Row) -> Row:
        """A row of the state's array."""
        width = self.plan.state.width
        rest = -len(entries) % width
        entries = [*entries, *[entries[-1]] * rest]
        starts = range(0, len(entries), width)
        return [self.ops.vector(entries[i : i + width]) for i in starts]


class _Step(Step):
    """One order of one chunk of a group. `None` stands for zero."""

    def __init__(self, emitter: Unrolled, group: Group, k: int, chunk: int):
        self.emitter, self.group, self.k, self.chunk = emitter, group, k, chunk
        self.attribute = group.attribute
        self.ops = emitter.ops
        self.type = emitter.ops.chunk(group.array.width)

    def _source(self, name: Any) -> Slice:
        if name == Y:
            return Slice(self.group.array)
        if isinstance(name, int):
            return self.group.operands[name]
        return self.group.lagged[0]

    def _term(self, name: Any, k: int) -> Any:
        source = self._source(name)
        if name == Y and (source.array, k) not in self.emitter.rows:
            raise AssertionError("a coefficient that is not known yet")
        return self.emitter.load(source.array, k, source.start + self.chunk)

    def level(self, a):
        return self._source(a).array.level

    def at(self, a):
        return self._term(a, self.k)

    def first(self, a):
        term = self._term(a, 0)
        return self.number(0.0) if term is None else term

    def sum(self, a, b, first, without, weight=None):
        pairs = []
        orders = range(first, self.k - without + 1)
        # What is known last is added last, and nothing else waits for it.
        levels = self.level(a), self.level(b)

        def known(j):
            return max((j, levels[0]), (self.k - j, levels[1]))

        for j in sorted(orders, key=known):
            x, y = self._term(a, j), self._term(b, self.k - j)
            w = 1.0 if weight is None else weight(j, self.k)
            if x is not None and y is not None and w != 0:
                pairs.append((x if w == 1 else self.mul(self.number(w), x), y))
        return self._total(pairs)

    def _total(self, pairs):
        if not pairs:
            return None
        early, late = pairs[:-2], pairs[-2:]
        total = self.ops.dot(early) if early else None
        return self.ops.dot(late, total)

    def square_sum(self, a, first):
        pairs = []
        for j in reversed(range(first, (self.k + 1) // 2)):
            x, y = self._term(a, j), self._term(a, self.k - j)
            if x is not None and y is not None:
                pairs.append((self.add(x, x), y))
        if self.k % 2 == 0 and self.k // 2 >= first:
            middle = self._term(a, self.k // 2)
            if middle is not None:
                pairs.insert(0, (middle, middle))
        return self._total(pairs)

    def order(self, fun):
        return self.number(fun(self.k))

    def number(self, x):
        return self.ops.number(x, self.type)

    def add(self, x, y):
        return x if y is None else y if x is None else self.ops.add(x, y)

    def sub(self, x, y):
        if y is None:
            return x
        return self.ops.neg(y) if x is None else self.ops.sub(x, y)

    def mul(self, x, y):
        return None if x is None or y is None else self.ops.mul(x, y)

    def div(self, x, y):
        return None if x is None else self.ops.div(x, y)

    def neg(self, x):
        return None if x is None else self.ops.neg(x)

    def fma(self, x, y, z):
        if x is None or y is None:
            return z
        return self.ops.mul(x, y) if z is None else self.ops.fma(x, y, z)

    def call(self, name, x):
        return self.ops.call(name, x)
