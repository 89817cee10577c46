"""Elementwise functions on sparse stacks."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from .operands import Operands, rule
from .stack import (
    Stack,
    Table,
    union,
)


@rule(
    "add", "add_any", "sub", "neg", "convert_element_type", "reduce_precision", "real",
    "imag", "complex", "conj", "copy", "name", "select_n", "pvary", "square",
)  # fmt: skip
def _elementwise(operands: Operands) -> list[Stack] | None:
    operands, moving = _broadcast(operands), operands.moving
    if operands.eqn.primitive.name == "select_n" and 0 in moving:
        return None
    table = union([operands.table(i) for i in moving], operands.count)
    if table is None:
        return None
    return operands.by(dict.fromkeys(moving, table), table)


@rule("mul")
def _mul(operands: Operands) -> list[Stack] | None:
    """Multiplies stacks. A product is zero where one of its factors is, so it has the
    slots of either."""
    if len(operands.moving) == 1:
        return _elementwise(operands)
    stacks: Any = _broadcast(operands).stacks
    table = _fewer(*stacks)
    return _broadcast(operands).by(dict.fromkeys((0, 1), table), table)


def _broadcast(operands: Operands) -> Operands:
    """Brings stacks to the shape of the result: scalars, and axes of size 1."""
    shape = operands.eqn.outvars[0].aval.shape

    def broadcast(i, stack):
        if stack is None or operands.shape(i) == shape:
            return stack
        array, table = stack.array, stack.table
        if array.ndim == 1:
            array = array.reshape(-1, *[1] * len(shape))
            table = None if table is None else table.reshape(-1, *[1] * len(shape))
        return Stack(jnp.broadcast_to(array, (len(array), *shape)), table)

    stacks = [broadcast(i, stack) for i, stack in enumerate(operands.stacks)]
    return operands.with_stacks(stacks)


def _fewer(a: Stack, b: Stack) -> Table | None:
    tables = [stack.table for stack in (a, b) if stack.table is not None]
    return min(tables, key=len, default=None)


def product_of(a: Stack, b: Stack, count: int) -> Stack:
    """Multiplies two stacks elementwise."""
    table = _fewer(a, b)
    return Stack(lax.mul(a.by(table, count), b.by(table, count)), table)


@rule("div")
def _div(operands: Operands) -> list[Stack] | None:
    return _elementwise(operands) if operands.moving == [0] else None


@rule("integer_pow")
def _integer_pow(operands: Operands) -> list[Stack] | None:
    return _elementwise(operands) if operands.eqn.params["y"] > 0 else None


@rule("optimization_barrier")
def _optimization_barrier(operands: Operands) -> list[Stack] | None:
    if len(operands.moving) != len(operands.stacks):
        return None
    stacks: Any = operands.stacks
    if len({stack.array.shape[0] for stack in stacks}) > 1:
        return None  # All operands of one equation must have the same number of slots.
    arrays = operands.apply([stack.array for stack in stacks])
    return [Stack(array, stack.table) for array, stack in zip(arrays, stacks)]
