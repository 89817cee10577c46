"""Operands of equations on sparse stacks, and the table of rules for primitives.

What is said of a primitive is how it moves entries about. It is applied to a stack as
to a dense one, for all slots at once, after operands have been brought to the slots
that the result has. A primitive that is not in the table, or that mixes too many
directions, is applied to dense stacks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._core.protocols import JaxprEqn
from .stack import nothing, Stack, Table


# Applies an equation to arrays, of which some have slots along the axes that are given.
Apply = Callable[[Sequence[Any], Sequence[int | None]], list[Any]]


class Operands:
    """The operands of an equation: a stack of each that moves; of the others arrays, or
    what is known of them while tracing."""

    def __init__(
        self,
        eqn: JaxprEqn,
        stacks: Sequence[Stack | None],
        shared: Sequence[Any],
        apply: Apply,
        known: Callable[[int], np.ndarray | None],
        count: int,
    ):
        self.eqn, self.stacks, self.shared, self.apply_to = eqn, stacks, shared, apply
        self.shapes = [var.aval.shape for var in eqn.invars]
        self.known, self.count = known, count
        self.moving = [i for i, stack in enumerate(stacks) if stack is not None]

    def table(self, i: int) -> Table | None:
        stack = self.stacks[i]
        return None if stack is None else stack.table

    @property
    def dtype(self) -> Any:
        return self.eqn.outvars[0].aval.dtype

    def shape(self, i: int) -> tuple[int, ...]:
        """The shape of an operand. (Of a part of one: that of the part.)"""
        return self.shapes[i]

    def of_part(self, i: int, part: Stack, shape: Sequence[int], other: Any):
        """These operands, with a part in the place of the one that moves, and the other
        one's in that of the other."""
        stacks, shared = list(self.stacks), list(self.shared)
        stacks[i], shared[1 - i] = part, other
        operands = Operands(
            self.eqn, stacks, shared, self.apply_to, self.known, self.count
        )
        operands.shapes = list(self.shapes)
        operands.shapes[i] = tuple(shape)
        return operands

    def with_stacks(self, stacks: Sequence[Stack | None]) -> "Operands":
        """These operands, with other stacks of those that move."""
        return Operands(
            self.eqn, stacks, self.shared, self.apply_to, self.known, self.count
        )

    def apply(self, stacked: Sequence[Any]) -> list[Any]:
        """Applies the equation to arrays that have slots, and what does not move."""
        full = [v if x is None else x for v, x in zip(self.shared, stacked)]
        return self.apply_to(full, [None if x is None else 0 for x in stacked])

    def by(self, tables: dict[int, Table | None], result: Table | None) -> list[Stack]:
        """Applies the equation, with these tables of the operands that move."""
        arrays = [
            stack.by(tables[i], self.count) if stack is not None else None
            for i, stack in enumerate(self.stacks)
        ]
        return [Stack(array, result) for array in self.apply(arrays)]


# How primitives act on sparse stacks. `None` if they do not.
Rule = Callable[[Operands], list[Stack] | None]
RULES: dict[str, Rule] = {}


def on_sparse(operands: Operands) -> list[Stack] | None:
    """Applies an equation to stacks of which some are sparse; `None` if they have to be
    dense."""
    name = operands.eqn.primitive.name
    if (found := RULES.get(name)) is None:
        return None
    stacks = [stack for stack in operands.stacks if stack is not None]
    if name in _ON_PARTS:
        # Of what is dense and there in full only a broadcast is anything else.
        is_plain = all(stack.is_plain for stack in stacks)
        is_dense = is_plain and name != "broadcast_in_dim"
    else:
        is_dense = all(stack.table is None for stack in stacks)
    return None if is_dense else _of_empty(operands, found)


def _of_empty(operands: Operands, apply: Rule) -> list[Stack] | None:
    """Applies a rule to arrays that have entries: those without any, and sums over
    them, have no directions."""
    results = [var.aval for var in operands.eqn.outvars]
    is_empty = all(0 in operands.shape(i) for i in operands.moving)
    if not is_empty and not all(0 in aval.shape for aval in results):
        return apply(operands)
    stacks = [stack for stack in operands.stacks if stack is not None]
    if all(stack.table is None for stack in stacks):
        return None
    # What is padded, or joined to something else, may have entries again.
    is_sum = operands.eqn.primitive.name in ("reduce_sum", "dot_general")
    if not is_sum and any(0 not in aval.shape for aval in results):
        return None
    return [nothing(stacks, aval.shape, aval.dtype) for aval in results]


# What these make of a dense stack need not be there in full.
_ON_PARTS = ("broadcast_in_dim", "concatenate", "dot_general")


def rule(*names: str):
    def decorator(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return decorator
