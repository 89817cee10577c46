"""Operations that move entries, on sparse stacks, whose tables move in the same way."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core.jax import bind
from .operands import Operands, rule
from .stack import (
    is_same,
    NOTHING,
    nothing,
    squeezed,
    Stack,
    Table,
    united,
)


@rule("broadcast_in_dim")
def _broadcast_in_dim(operands: Operands) -> list[Stack] | None:
    params = operands.eqn.params
    if operands.moving != [0] or params.get("sharding") is not None:
        return None
    stack: Any = operands.stacks[0]
    shape, table = params["shape"], stack.table

    def placed(x):
        dims = [1] * len(shape)
        for axis, place in enumerate(params["broadcast_dimensions"]):
            dims[place] = x.shape[axis + 1]
        return x.reshape(len(x), *dims)

    table = None if table is None else placed(table)
    return [Stack(placed(stack.thin), table, shape=shape)]


@rule("transpose")
def _transpose(operands: Operands) -> list[Stack] | None:
    [i], permutation = operands.moving, operands.eqn.params["permutation"]
    table: Any = operands.table(i)
    return operands.by({0: table}, table.transpose(0, *[a + 1 for a in permutation]))


@rule("squeeze")
def _squeeze(operands: Operands) -> list[Stack] | None:
    table: Any = operands.table(0)
    axes = tuple(axis + 1 for axis in operands.eqn.params["dimensions"])
    return operands.by({0: table}, table.squeeze(axes))


@rule("slice", "rev")
def _slice(operands: Operands) -> list[Stack] | None:
    table: Any = operands.table(0)
    params = operands.eqn.params
    window: list[Any] = [slice(None)] * table.ndim
    for axis in range(1, table.ndim):
        if table.shape[axis] == 1:
            continue
        if "dimensions" in params:  # Of `rev`.
            window[axis] = slice(
                None, None, -1 if axis - 1 in params["dimensions"] else 1
            )
            continue
        start, limit = params["start_indices"], params["limit_indices"]
        strides = params["strides"] or [1] * len(start)
        window[axis] = slice(start[axis - 1], limit[axis - 1], strides[axis - 1])
    return operands.by({0: table}, squeezed(table[tuple(window)]))


@rule("split")
def _split(operands: Operands) -> list[Stack] | None:
    stack: Any = operands.stacks[0]
    table, params = stack.table, operands.eqn.params
    sizes, axis = params["sizes"], params["axis"] + 1
    arrays = operands.apply([stack.array])
    if table.shape[axis] == 1:
        return [Stack(array, table) for array in arrays]
    tables = np.split(table, np.cumsum(sizes)[:-1], axis)
    return [Stack(array, squeezed(part)) for array, part in zip(arrays, tables)]


@rule("unstack")
def _unstack(operands: Operands) -> list[Stack] | None:
    stack: Any = operands.stacks[0]
    table, axis = stack.table, operands.eqn.params["axis"] + 1
    arrays = operands.apply([stack.array])
    is_same = table.shape[axis] == 1
    return [
        Stack(array, squeezed(table.take(0 if is_same else i, axis)))
        for i, array in enumerate(arrays)
    ]


@rule("tile")
def _tile(operands: Operands) -> list[Stack] | None:
    table: Any = operands.table(0)
    # A table that is the same along an axis stays so.
    sizes = zip(operands.eqn.params["reps"], table.shape[1:])
    tiled = np.tile(table, (1, *[1 if size == 1 else n for n, size in sizes]))
    return operands.by({0: table}, squeezed(tiled))


@rule("stack")
def _stack(operands: Operands) -> list[Stack] | None:
    """Joins operands along a new axis, as a concatenation."""
    if not _are_others_zero(operands):
        return None
    axis = operands.eqn.params["axis"]
    tables = _of_one_size(operands)
    if tables is None:
        return None
    dims = np.broadcast_shapes(*[table.shape for table in tables])
    whole = np.stack([np.broadcast_to(table, dims) for table in tables], axis + 1)
    return operands.by(dict(enumerate(tables)), squeezed(whole))


def _of_one_size(operands: Operands) -> list[Table] | None:
    """Returns tables of all operands with the same number of slots. Operands that do
    not depend on the direction have no slots. Returns `None` if an operand is dense."""
    tables = [operands.table(i) for i in operands.moving]
    if any(table is None for table in tables):
        return None
    most = max(len(table) for table in tables if table is not None)
    found = []
    for i in range(len(operands.stacks)):
        table = operands.table(i)
        if table is None:
            table = np.full((1, *[1] * len(operands.shape(i))), NOTHING)
        missing = np.full((most - len(table), *table.shape[1:]), NOTHING)
        found.append(np.concatenate([table, missing]))
    return found


_LARGEST = 2**22


def _full(table: Table, shape: Sequence[int]) -> Table | None:
    if len(table) * int(np.prod(shape)) > _LARGEST:
        return None
    return np.broadcast_to(table, (len(table), *shape))


@rule("reshape")
def _reshape(operands: Operands) -> list[Stack] | None:
    if operands.moving != [0] or operands.eqn.params["dimensions"] is not None:
        return None
    table: Any = operands.table(0)
    shape = operands.eqn.outvars[0].aval.shape
    reshaped = _reshaped(table, operands.shape(0), shape)
    if reshaped is None:
        return None
    return operands.by({0: table}, reshaped)


def _reshaped(table: Table, old: Sequence[int], new: Sequence[int]) -> Table | None:
    # Leading and trailing axes along which nothing changes need not be written out.
    last = 0
    while last < min(len(old), len(new)) and old[-1 - last] == new[-1 - last]:
        last += 1
    kept = table.shape[table.ndim - last :]
    full = [*old[: len(old) - last], *kept]
    if (table_ := _full(table, full)) is None:
        return None
    return squeezed(table_.reshape(len(table), *new[: len(new) - last], *kept))


@rule("concatenate")
def _concatenate(operands: Operands) -> list[Stack] | None:
    """Concatenates stacks. If the parts depend on different directions, they are kept,
    and a product is computed part by part."""
    axis = int(operands.eqn.params["dimension"])  # JAX has NumPy's there, at times.
    if not _are_others_zero(operands):
        return None
    operands = _without_empty(operands)
    stacks = operands.stacks
    moving = [stack for stack in stacks if stack is not None]

    def later():
        found = _concatenated(operands)
        if found is None:
            dense = [None if s is None else s.dense(operands.count) for s in stacks]
            [array] = operands.apply(dense)
            return Stack(array)
        return found[0]

    first = moving[0]
    is_thin = any(stack.is_thin for stack in moving)
    if not is_thin and all(is_same(s.table, first.table) for s in moving[1:]):
        return [later()]
    sizes = [operands.shape(i)[axis] for i in range(len(stacks))]
    parts = list(zip(stacks, sizes))
    return [Stack(None, later=later, parts=parts, axis=axis)]


def _are_others_zero(operands: Operands) -> bool:
    """Returns whether operands that do not depend on the direction are zero. They are
    if the other is sparse, as it is not a value of order 0 then. A dense one may be the
    value that a loop returns."""
    others = [i for i, stack in enumerate(operands.stacks) if stack is None]
    known = [operands.known(i) for i in others]
    if all(x is not None and not np.any(x) for x in known):
        return True
    return any(operands.table(i) is not None for i in operands.moving)


def _without_empty(operands: Operands) -> Operands:
    """Removes the directions of dense stacks without entries, which would make the
    result dense as well."""
    moving = [stack for stack in operands.stacks if stack is not None]
    stacks = [
        nothing(moving, operands.shape(i), operands.dtype)
        if stack is not None and 0 in operands.shape(i)
        else stack
        for i, stack in enumerate(operands.stacks)
    ]
    return operands.with_stacks(stacks)


def _concatenated(operands: Operands) -> list[Stack] | None:
    axis = int(operands.eqn.params["dimension"]) + 1
    tables = _of_one_size(operands)
    if tables is None:
        return None
    parts = []
    for i, table in enumerate(tables):
        full = list(table.shape)
        full[axis] = operands.shape(i)[axis - 1]
        parts.append(np.broadcast_to(table, full))
    dims = np.broadcast_shapes(*[_but(part.shape, axis) for part in parts])
    full_parts = []
    for part in parts:
        shape = list(dims)
        shape[axis] = part.shape[axis]
        full_parts.append(np.broadcast_to(part, shape))
    result = squeezed(np.concatenate(full_parts, axis=axis))
    moving: dict[int, Table | None] = {i: tables[i] for i in operands.moving}
    # Products need one table along the axis, which is used if it has no more slots.
    one = united(result, [axis - 1], operands.count)
    if one is not None and len(one) <= len(result):
        return operands.by(dict.fromkeys(moving, one), one)
    return operands.by(moving, result)


def _but(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], 1, *shape[axis + 1 :])


@rule("gather", "dynamic_slice", "pad")
def _moved_by_indices(operands: Operands) -> list[Stack] | None:
    """Moves the table in the same way as the entries."""
    if operands.moving != [0]:
        return None
    table: Any = operands.table(0)
    name, params = operands.eqn.primitive.name, dict(operands.eqn.params)
    indices: list[Any] = [operands.known(i) for i in range(1, len(operands.stacks))]
    if any(index is None for index in indices):
        return None
    if (full := _full(table, operands.shape(0))) is None:
        return None
    if name == "gather":
        params["fill_value"] = NOTHING
    elif name == "pad":
        if np.any(indices[0] != 0):
            return None
        indices = [np.asarray(NOTHING, np.int32)]
    eqn = operands.eqn.replace(params=params)
    with jax.ensure_compile_time_eval():
        rest = [jnp.asarray(index) for index in indices]
        moved = jax.vmap(lambda x: bind(eqn, [x, *rest])[0])(
            jnp.asarray(full, jnp.int32)
        )
        moved = np.asarray(moved)
    if not np.any(moved >= 0):
        return None
    return operands.by({0: table}, squeezed(moved))
