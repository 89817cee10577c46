"""What all ways to write a series have in common: sums, and the slopes of the state."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from llvmlite import ir  # pyright: ignore[reportMissingImports]

from .arithmetic import Arithmetic
from .atoms import Atom, Coefficient, Parameter
from .groups import Array, Group, Plan
from .parameters import Parameters
from .program import Program


class Emitter:
    """Writes the body of a series.

    - `rare`: a function that is called instead, at points where powers with an exponent
        that is known at run time have no recurrence; `None` if there are no such
        powers.
    - `is_rare`: whether this is the body of that function.
    """

    def __init__(
        self,
        ops: Arithmetic,
        program: Program,
        plan: Plan,
        parameters: Parameters,
        order: int,
        shared: bool,
        arguments: Sequence[Any],
        rare: Any = None,
        is_rare: bool = False,
    ):
        self.ops, self.program, self.plan = ops, program, plan
        self.parameters, self.order, self.shared = parameters, order, shared
        self.arguments, self.rare, self.is_rare = arguments, rare, is_rare
        self.groups = [g for g in plan.groups if is_rare or not g.is_rare]
        if not is_rare:
            self.groups = [*map(_usual, self.groups)]
        t, self.y, self.given, self.coefficients, self.work, *needed = arguments
        # The highest order that is needed, if that is an argument.
        self.needed = needed[0] if needed else None
        self.t = ops.load(t, ops.entry)
        # Entries that were taken out of chunks, which stay alive with the function.
        self.entries: dict[tuple[int, int], Any] = {}
        # The number of entries of `work`.
        self.work_size = 0

    def write(self) -> None:
        raise NotImplementedError

    def load(self, array: Array, k: Any, chunk: Any) -> Any:
        """A chunk of coefficient `k`; `None` if it is known to be zero."""
        raise NotImplementedError

    def entry(self, array: Array, k: Any, i: int) -> Any:
        """An entry of coefficient `k`."""
        raise NotImplementedError

    def leave_if_rare(self) -> None:
        """Behind order 0: leaves for the other function if the base of a power is
        zero."""
        if self.rare is None:
            return
        ops, builder = self.ops, self.ops.builder
        zero, one = (ops.number(x, ops.entry) for x in (0.0, 1.0))
        smallest = one
        for group in self.groups:
            if group.kind == "variable_power":
                for atom in group.atoms:
                    array, i = self.plan.places[atom.operands[0]]
                    x = self.entry(array, 0, i)
                    if x is not None:
                        is_zero = builder.fcmp_ordered("==", x, zero)
                        smallest = builder.select(is_zero, zero, smallest)
        is_zero = builder.fcmp_ordered("==", smallest, zero)
        if ops.lanes > 1:
            bits = ir.IntType(ops.lanes)
            packed = builder.bitcast(is_zero, bits)
            is_zero = builder.icmp_unsigned("!=", packed, ir.Constant(bits, 0))
        with builder.if_then(is_zero, likely=False):
            builder.call(self.rare, self.arguments)
            builder.ret_void()

    # -- sums

    def sum_of_members(self, members: Sequence[Atom], k: Any) -> Any:
        """A chunk of sums; `None` if it is known to be zero."""
        columns = zip(*(zip(x.operands, x.coefficients) for x in members))
        is_first = isinstance(k, int) and k == 0
        constants = [x.constant for x in members] if is_first else None
        return self._sum_of(columns, constants, k)

    def _sum_of(self, columns: Any, constants: Any, k: Any) -> Any:
        """The sum of columns of atoms, each with a coefficient; and of constants."""
        ops = self.ops
        total: Any = None
        if constants is not None and any(constants):
            total = self.coefficients_of(constants)
        pairs, plain, minus = [], [], []
        for column in columns:
            atoms, factors = zip(*column)
            x = self.gathered(atoms, k)
            if x is None:
                continue
            if all(c == 1.0 for c in factors):
                plain.append(x)
            elif all(c == -1.0 for c in factors):
                minus.append(x)
            else:
                pairs.append((self.coefficients_of(factors), x))
        for x in plain:
            total = x if total is None else ops.add(total, x)
        if pairs:
            total = ops.dot(pairs, total)
        for x in minus:
            total = ops.neg(x) if total is None else ops.sub(total, x)
        return total

    def gathered(self, atoms: Sequence[Atom], k: Any) -> Any:
        """A chunk of coefficients, wherever they are."""
        places = [self.plan.places[atom] for atom in atoms]
        array, start = places[0]
        in_order = all(place == (array, start + i) for i, place in enumerate(places))
        if in_order and array.width == len(atoms) and start % array.width == 0:
            return self.load(array, k, start // array.width)
        entries = [self.entry(array, k, i) for array, i in places]
        if all(x is None for x in entries):
            return None
        zero = self.ops.number(0.0, self.ops.entry)
        return self.ops.vector([zero if x is None else x for x in entries])

    def coefficients_of(self, values: Sequence[Coefficient]) -> Any:
        """A chunk of coefficients."""
        ops = self.ops
        if not any(isinstance(x, Parameter) for x in values):
            return ops.numbers([float(x) for x in values])  # type: ignore
        type_ = ops.chunk(len(values))
        kind = ops.scalar if self.shared else ops.entry
        first = values[0]
        if isinstance(first, Parameter) and all(x is first for x in values):
            place = ops.at(self.given, first.index, kind)
            return ops.splat(ops.load(place, kind), type_)
        place = ops.at(self.given, self.parameters.row(values), kind)
        return ops.load(place, type_)


def _usual(group: Group) -> Group:
    """A group without the operands that are needed at special points only."""
    usual = len(group.atoms[0].usual_operands)
    return dataclasses.replace(group, operands=group.operands[:usual])


def padded(atoms: Sequence[Atom], width: int) -> list[Atom]:
    """A chunk of atoms. The last one is repeated: nothing is computed of numbers that
    are not there."""
    return [*atoms, *[atoms[-1]] * (width - len(atoms))]
