"""Operands of equations on sparse stacks, and the table of rules for primitives.

The rule of a primitive says how it moves entries. The operands are first brought to the
slots of the result. Then the primitive is applied to all slots at once, as to a dense
stack. A primitive that is not in the table, or that mixes too many directions, is
applied to dense stacks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._core.protocols import JaxprEqn
from .stack import nothing, Stack, Table


# A function that applies an equation to arrays, some of which have slots along the
# given axes.
Apply = Callable[[Sequence[Any], Sequence[int | None]], list[Any]]


class Operands:
    """The operands of an equation. Those that depend on the direction are stacks. The
    others are arrays, or what is known of them while tracing."""

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
        """Returns the shape of an operand, or of the part that replaces it."""
        return self.shapes[i]

    def of_part(self, i: int, part: Stack, shape: Sequence[int], other: Any):
        """Returns these operands, with operand `i` replaced by a part of it, and the
        other one by its corresponding part."""
        stacks, shared = list(self.stacks), list(self.shared)
        stacks[i], shared[1 - i] = part, other
        operands = Operands(
            self.eqn, stacks, shared, self.apply_to, self.known, self.count
        )
        operands.shapes = list(self.shapes)
        operands.shapes[i] = tuple(shape)
        return operands

    def with_stacks(self, stacks: Sequence[Stack | None]) -> "Operands":
        """Returns these operands with other stacks."""
        return Operands(
            self.eqn, stacks, self.shared, self.apply_to, self.known, self.count
        )

    def apply(self, stacked: Sequence[Any]) -> list[Any]:
        """Applies the equation to arrays with slots, and to the operands that do not
        depend on the direction."""
        full = [v if x is None else x for v, x in zip(self.shared, stacked)]
        return self.apply_to(full, [None if x is None else 0 for x in stacked])

    def by(self, tables: dict[int, Table | None], result: Table | None) -> list[Stack]:
        """Applies the equation, with these tables of the stacks."""
        arrays = [
            stack.by(tables[i], self.count) if stack is not None else None
            for i, stack in enumerate(self.stacks)
        ]
        return [Stack(array, result) for array in self.apply(arrays)]


# A function that applies a primitive to sparse stacks, and returns `None` if it cannot.
Rule = Callable[[Operands], list[Stack] | None]
RULES: dict[str, Rule] = {}


def on_sparse(operands: Operands) -> list[Stack] | None:
    """Applies an equation to stacks of which some are sparse. Returns `None` if they
    must be dense."""
    name = operands.eqn.primitive.name
    if (found := RULES.get(name)) is None:
        return None
    stacks = [stack for stack in operands.stacks if stack is not None]
    if name in _ON_PARTS:
        # Of dense stacks that are there in full, only a broadcast is not dense.
        is_plain = all(stack.is_plain for stack in stacks)
        is_dense = is_plain and name != "broadcast_in_dim"
    else:
        is_dense = all(stack.table is None for stack in stacks)
    return None if is_dense else _of_empty(operands, found)


def _of_empty(operands: Operands, apply: Rule) -> list[Stack] | None:
    """Applies a rule to arrays with entries. Arrays without entries, and sums over
    them, have no directions."""
    results = [var.aval for var in operands.eqn.outvars]
    is_empty = all(0 in operands.shape(i) for i in operands.moving)
    if not is_empty and not all(0 in aval.shape for aval in results):
        return apply(operands)
    stacks = [stack for stack in operands.stacks if stack is not None]
    if all(stack.table is None for stack in stacks):
        return None
    # The result of padding or concatenation may have entries again.
    is_sum = operands.eqn.primitive.name in ("reduce_sum", "dot_general")
    if not is_sum and any(0 not in aval.shape for aval in results):
        return None
    return [nothing(stacks, aval.shape, aval.dtype) for aval in results]


# Primitives whose result for a dense stack need not be there in full.
_ON_PARTS = ("broadcast_in_dim", "concatenate", "dot_general")


def rule(*names: str):
    def decorator(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return decorator
