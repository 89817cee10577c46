"""Sums and matrix products on sparse stacks, which unite the slots along an axis."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from .operands import Operands, rule
from .stack import (
    added,
    is_same,
    is_same_along,
    Stack,
    summed,
    Table,
    united,
)


@rule("reduce_sum")
def _reduce_sum(operands: Operands) -> list[Stack] | None:
    axes = tuple(map(int, operands.eqn.params["axes"]))
    stack: Any = operands.stacks[0]
    if is_same_along(stack.table, axes):
        kept = tuple(axis + 1 for axis in axes)
        return operands.by({0: stack.table}, stack.table.squeeze(kept))
    return [summed(stack, axes, operands.count)]


@rule("cumsum")
def _cumsum(operands: Operands) -> list[Stack] | None:
    axes = [int(operands.eqn.params["axis"])]
    own: Any = operands.table(0)
    table = united(own, axes, operands.count)
    return None if table is None else operands.by({0: table}, table)


@rule("dot_general")
def _dot_general(operands: Operands) -> list[Stack] | None:
    """Multiplies stacks. The slots along contracted axes are united. If both operands
    depend on the direction, all of their axes must fit."""
    contract, batch = operands.eqn.params["dimension_numbers"]
    if len(operands.moving) != 1:
        return None
    [i] = operands.moving
    stack: Any = operands.stacks[i]
    if stack.parts and contract[i] == (stack.axis,):
        return _sum_over_parts(operands, i)
    table = stack.table
    free = [
        axis
        for axis in range(len(operands.shape(i)))
        if axis not in (*contract[i], *batch[i])
    ]
    others = len(operands.shape(1 - i)) - len(contract[i]) - len(batch[i])
    order = [*batch[i], *free, *contract[i]]

    def of_result(table):
        """Moves the axes of the table to their positions in the result."""
        table = table.transpose([0, *[axis + 1 for axis in order]])
        dims = table.shape[1 : 1 + len(batch[i]) + len(free)]
        at = len(batch[i]) + (len(free) if i == 0 else 0)
        return table.reshape(len(table), *dims[:at], *[1] * others, *dims[at:])

    if table is not None:
        if len(contract[i]) == 1 and (found := _by_entries(operands, i, table)):
            result = of_result(np.expand_dims(found[1], contract[i][0] + 1))
            return [Stack(found[0], result).normal(operands.count)]
        table = united(table, contract[i], operands.count)
        if table is None:
            return None
        if not is_same(table, stack.table):
            return operands.by({i: table}, of_result(table))
    # Along free axes on which nothing depends, one product is enough.
    thin = stack.thin
    dims = list(thin.shape)
    for axis in (*contract[i], *batch[i]):
        dims[axis + 1] = operands.shape(i)[axis]
    arrays: list[Any] = [None, None]
    arrays[i] = jnp.broadcast_to(thin, dims)
    [array] = operands.apply(arrays)
    result = None if table is None else of_result(table)
    return [Stack(array, result, shape=operands.eqn.outvars[0].aval.shape)]


def _sum_over_parts(operands: Operands, i: int) -> list[Stack]:
    """Contracts the axis of a concatenation, part by part."""
    stack: Any = operands.stacks[i]
    [axis] = operands.eqn.params["dimension_numbers"][0][1 - i]
    whole = jnp.asarray(operands.shared[1 - i])
    start, products = 0, []
    for part, size in stack.parts:
        if part is not None:
            other = lax.slice_in_dim(whole, start, start + size, axis=axis)
            shape = list(operands.shape(i))
            shape[stack.axis] = size
            products.append(_product(operands.of_part(i, part, shape, other)))
        start += size
    return [added(products, operands.count)]


def _product(operands: Operands) -> Stack:
    found = _dot_general(operands)
    if found is None:
        dense = [s if s is None else s.dense(operands.count) for s in operands.stacks]
        [array] = operands.apply(dense)
        return Stack(array)
    return found[0]


def _by_entries(operands: Operands, i: int, table: Table) -> tuple[Any, Table] | None:
    """Computes a product whose entries along the contracted axis belong to different
    directions. There is nothing to add, and the entries become slots."""
    (of_a, of_b), (batch_a, batch_b) = operands.eqn.params["dimension_numbers"]
    own, other = ([*of_a], [*of_b]) if i == 0 else ([*of_b], [*of_a])
    own_batch, other_batch = (batch_a, batch_b) if i == 0 else (batch_b, batch_a)
    axis = own[0] + 1
    shared = jnp.asarray(operands.shared[1 - i])
    array: Any = operands.stacks[i]
    array = array.array
    if table.shape[axis] == 1 or not array.dtype == shared.dtype == operands.dtype:
        return None
    # The slots come first, as elsewhere. But if there are slots for all directions, the
    # directions of neighbours are put side by side.
    size = array.shape[axis]
    is_all = size * len(table) == operands.count
    first = (axis, 0) if is_all else (0, axis)
    table = np.moveaxis(table, first, (0, 1))
    slots = table.reshape(-1, *table.shape[2:])
    ordered = np.sort(slots, axis=0)
    if np.any((ordered[1:] == ordered[:-1]) & (ordered[1:] >= 0)):
        return None
    if len(slots) > 1.25 * np.max(np.sum(slots >= 0, axis=0)):
        return None
    last = [a + 1 for a in range(array.ndim - 1) if a not in (*own, *own_batch)]
    array = array.transpose([*first, *[a + 1 for a in own_batch], *last])
    others = [a for a in range(shared.ndim) if a not in (*other, *other_batch)]
    shared = shared.transpose([*other, *other_batch, *others])
    shared = jnp.expand_dims(shared, 1 if is_all else 0)
    at = 2 + len(own_batch)
    if i == 0:
        array = jnp.expand_dims(array, [*range(array.ndim, array.ndim + len(others))])
        shared = jnp.expand_dims(shared, [*range(at, at + len(last))])
    else:
        array = jnp.expand_dims(array, [*range(at, at + len(others))])
        shared = jnp.expand_dims(shared, [*range(shared.ndim, shared.ndim + len(last))])
    dims = jnp.broadcast_shapes(array.shape, shared.shape)
    product = lax.mul(jnp.broadcast_to(array, dims), jnp.broadcast_to(shared, dims))
    return product.reshape(-1, *dims[2:]), slots
