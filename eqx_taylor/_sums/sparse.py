"""Equations on sparse stacks: which directions their results depend on.

What is said here of a primitive is how it moves entries about. It is applied to a
stack as to a dense one, for all slots at once, after operands have been brought to the
slots that the result has. A primitive that is not here, or that mixes too many
directions, is applied to dense stacks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._core.jax import bind
from .._core.protocols import JaxprEqn
from .stack import (
    added,
    is_same,
    is_same_along,
    NOTHING,
    nothing,
    squeezed,
    Stack,
    summed,
    Table,
    union,
    united,
)


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
_Rule = Callable[[Operands], list[Stack] | None]
_RULES: dict[str, _Rule] = {}


def on_sparse(operands: Operands) -> list[Stack] | None:
    """Applies an equation to stacks of which some are sparse; `None` if they have to be
    dense."""
    name = operands.eqn.primitive.name
    if (rule := _RULES.get(name)) is None:
        return None
    stacks = [stack for stack in operands.stacks if stack is not None]
    if name in _ON_PARTS:
        # Of what is dense and there in full only a broadcast is anything else.
        is_plain = all(stack.is_plain for stack in stacks)
        is_dense = is_plain and name != "broadcast_in_dim"
    else:
        is_dense = all(stack.table is None for stack in stacks)
    return None if is_dense else _of_empty(operands, rule)


def _of_empty(operands: Operands, rule: _Rule) -> list[Stack] | None:
    """Applies a rule to arrays that have entries: those without any, and sums over
    them, have no directions."""
    results = [var.aval for var in operands.eqn.outvars]
    is_empty = all(0 in operands.shape(i) for i in operands.moving)
    if not is_empty and not all(0 in aval.shape for aval in results):
        return rule(operands)
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


def _rule(*names: str):
    def decorator(rule):
        for name in names:
            _RULES[name] = rule
        return rule

    return decorator


# -- entry by entry


@_rule(
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


@_rule("mul")
def _mul(operands: Operands) -> list[Stack] | None:
    """A product is zero where one of its factors is: it has the slots of either."""
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
    """Multiplies two stacks entry by entry."""
    table = _fewer(a, b)
    return Stack(lax.mul(a.by(table, count), b.by(table, count)), table)


@_rule("div")
def _div(operands: Operands) -> list[Stack] | None:
    return _elementwise(operands) if operands.moving == [0] else None


@_rule("integer_pow")
def _integer_pow(operands: Operands) -> list[Stack] | None:
    return _elementwise(operands) if operands.eqn.params["y"] > 0 else None


@_rule("optimization_barrier")
def _optimization_barrier(operands: Operands) -> list[Stack] | None:
    if len(operands.moving) != len(operands.stacks):
        return None
    stacks: Any = operands.stacks
    arrays = operands.apply([stack.array for stack in stacks])
    return [Stack(array, stack.table) for array, stack in zip(arrays, stacks)]


# -- entries that are moved about


@_rule("broadcast_in_dim")
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


@_rule("transpose")
def _transpose(operands: Operands) -> list[Stack] | None:
    [i], permutation = operands.moving, operands.eqn.params["permutation"]
    table: Any = operands.table(i)
    return operands.by({0: table}, table.transpose(0, *[a + 1 for a in permutation]))


@_rule("squeeze")
def _squeeze(operands: Operands) -> list[Stack] | None:
    table: Any = operands.table(0)
    axes = tuple(axis + 1 for axis in operands.eqn.params["dimensions"])
    return operands.by({0: table}, table.squeeze(axes))


@_rule("slice", "rev")
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


@_rule("split")
def _split(operands: Operands) -> list[Stack] | None:
    stack: Any = operands.stacks[0]
    table, params = stack.table, operands.eqn.params
    sizes, axis = params["sizes"], params["axis"] + 1
    arrays = operands.apply([stack.array])
    if table.shape[axis] == 1:
        return [Stack(array, table) for array in arrays]
    tables = np.split(table, np.cumsum(sizes)[:-1], axis)
    return [Stack(array, squeezed(part)) for array, part in zip(arrays, tables)]


@_rule("unstack")
def _unstack(operands: Operands) -> list[Stack] | None:
    stack: Any = operands.stacks[0]
    table, axis = stack.table, operands.eqn.params["axis"] + 1
    arrays = operands.apply([stack.array])
    is_same = table.shape[axis] == 1
    return [
        Stack(array, squeezed(table.take(0 if is_same else i, axis)))
        for i, array in enumerate(arrays)
    ]


@_rule("tile")
def _tile(operands: Operands) -> list[Stack] | None:
    table: Any = operands.table(0)
    # What is the same along an axis stays so.
    sizes = zip(operands.eqn.params["reps"], table.shape[1:])
    tiled = np.tile(table, (1, *[1 if size == 1 else n for n, size in sizes]))
    return operands.by({0: table}, squeezed(tiled))


@_rule("stack")
def _stack(operands: Operands) -> list[Stack] | None:
    """Joins operands along a new axis: a concatenation of what has it."""
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
    """Returns tables of all operands, with the same number of slots; those that do not
    move have none. `None` if an operand is dense."""
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


@_rule("reshape")
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
    # Leading axes of which nothing changes, and trailing ones, need not be written out.
    last = 0
    while last < min(len(old), len(new)) and old[-1 - last] == new[-1 - last]:
        last += 1
    kept = table.shape[table.ndim - last :]
    full = [*old[: len(old) - last], *kept]
    if (table_ := _full(table, full)) is None:
        return None
    return squeezed(table_.reshape(len(table), *new[: len(new) - last], *kept))


@_rule("concatenate")
def _concatenate(operands: Operands) -> list[Stack] | None:
    """A product takes the parts one by one, if they differ in what they depend on."""
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
    """Whether operands that do not move are zero. They are, beside a sparse stack: it
    is no value of order 0. A dense one may be the value that a loop returns."""
    others = [i for i, stack in enumerate(operands.stacks) if stack is None]
    known = [operands.known(i) for i in others]
    if all(x is not None and not np.any(x) for x in known):
        return True
    return any(operands.table(i) is not None for i in operands.moving)


def _without_empty(operands: Operands) -> Operands:
    """Gives no directions to dense stacks without entries, which would make the result
    dense as well."""
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
    # One table along the axis, if it has no more slots: products need one.
    one = united(result, [axis - 1], operands.count)
    if one is not None and len(one) <= len(result):
        return operands.by(dict.fromkeys(moving, one), one)
    return operands.by(moving, result)


def _but(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], 1, *shape[axis + 1 :])


@_rule("gather", "dynamic_slice", "pad")
def _moved_by_indices(operands: Operands) -> list[Stack] | None:
    """The table is moved as the entries are."""
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


# -- sums


@_rule("reduce_sum")
def _reduce_sum(operands: Operands) -> list[Stack] | None:
    axes = tuple(map(int, operands.eqn.params["axes"]))
    stack: Any = operands.stacks[0]
    if is_same_along(stack.table, axes):
        kept = tuple(axis + 1 for axis in axes)
        return operands.by({0: stack.table}, stack.table.squeeze(kept))
    return [summed(stack, axes, operands.count)]


@_rule("cumsum")
def _cumsum(operands: Operands) -> list[Stack] | None:
    axes = [int(operands.eqn.params["axis"])]
    own: Any = operands.table(0)
    table = united(own, axes, operands.count)
    return None if table is None else operands.by({0: table}, table)


@_rule("dot_general")
def _dot_general(operands: Operands) -> list[Stack] | None:
    """Contracted axes unite. Of two operands that move, all axes have to fit."""
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
        """Moves the axes of the table to their places in the result."""
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
    # Along free axes of which nothing depends there is one product.
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
    """Computes a product in which the entries along the contracted axis belong to
    different directions: there is nothing to add up, and they become slots."""
    (of_a, of_b), (batch_a, batch_b) = operands.eqn.params["dimension_numbers"]
    own, other = ([*of_a], [*of_b]) if i == 0 else ([*of_b], [*of_a])
    own_batch, other_batch = (batch_a, batch_b) if i == 0 else (batch_b, batch_a)
    axis = own[0] + 1
    shared = jnp.asarray(operands.shared[1 - i])
    array: Any = operands.stacks[i]
    array = array.array
    if table.shape[axis] == 1 or not array.dtype == shared.dtype == operands.dtype:
        return None
    # Slot by slot, as elsewhere; but the directions of neighbours side by side, if
    # these are all of them.
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
