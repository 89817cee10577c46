"""Loops over the entries of the state, in LLVM's language: several entries of a solve
that is made alone, or one entry of all lanes.

Rows are as long as the state, and a vector may reach beyond the end of one. What is
read there is of no consequence, and what is written there is padding: the memory of a
block is laid out in multiples of 64 bytes, and ends with what is not read here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.ir as ir

from .emit import INDEX, index, Numbers, Variable
from .layout import Shape
from .loops import loop


class Entries:
    """Entries of the state.

    - `numbers`: their instructions.
    """

    def __init__(self, builder: ir.IRBuilder, shape: Shape):
        self._b, self._n, self._chunk = builder, shape.n, shape.chunk
        self._lanes = Numbers(builder, shape.kind, shape.width)
        self.numbers = self._lanes
        if self._chunk > 1:
            self.numbers = Numbers(builder, shape.kind, self._chunk)

    @contextmanager
    def each(self) -> Iterator[Any]:
        """The place of the first one of some entries."""
        n, chunk, b = self._n, self._chunk, self._b
        if n <= chunk:
            self._inside = self._up_to_end(index(0))
            yield index(0)
        else:
            with loop(b, index(0), index(-(-n // chunk))) as i:
                i = b.mul(i, index(chunk))
                self._inside = self._up_to_end(i)
                yield i

    def _up_to_end(self, i: Any) -> Any:
        """Which entries there are; `None` if there are all of them, always."""
        chunk = self._chunk
        if self._n % chunk == 0:
            return None
        kind = ir.VectorType(INDEX, chunk)
        left = self._b.sub(index(self._n), i)
        lefts = self._b.insert_element(ir.Constant(kind, ir.Undefined), left, _place(0))
        lefts = self._b.shuffle_vector(lefts, lefts, _places([0] * chunk))
        return self._b.icmp_signed("<", ir.Constant(kind, [*range(chunk)]), lefts)

    def load(self, pointer: Any, i: Any) -> Any:
        return self._b.load(
            self._lanes.at(pointer, i), typ=self.numbers.type, align=self._align
        )

    def store(self, x: Any, pointer: Any, i: Any) -> None:
        self._b.store(x, self._lanes.at(pointer, i), align=self._align)

    @property
    def _align(self) -> int:
        return self._lanes.size * self._lanes.width

    def of_solve(self, x: Any) -> Any:
        """A number of the solve, for each entry."""
        if self._chunk == 1:
            return x
        first = ir.Constant(self.numbers.type, ir.Undefined)
        first = self._b.insert_element(first, x, _place(0))
        return self._b.shuffle_vector(first, first, _places([0] * self._chunk))

    def update(self, variable: Variable, x: Any) -> None:
        """Sets a variable, for the entries that there are."""
        if self._inside is not None:
            x = self._b.select(self._inside, x, variable.get())
        variable.set(x)

    def reduced(
        self, variable: Variable, combine: Callable[[Numbers, Any, Any], Any]
    ) -> Any:
        """What all entries are together, two and two."""
        x, width = variable.get(), self._chunk
        while width > 1:
            width //= 2
            halves = [
                self._b.shuffle_vector(x, x, _places(range(start, start + width)))
                for start in (0, width)
            ]
            if width == 1:
                halves = [self._b.extract_element(x, _place(0)) for x in halves]
            numbers = Numbers(self._b, self._lanes.kind, width)
            x = combine(numbers, *halves)
        return x


def _place(i: int) -> Any:
    return ir.Constant(ir.IntType(32), i)


def _places(places: Any) -> Any:
    places = [*places]
    return ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places)
