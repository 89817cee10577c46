"""Stacks of values over directions, which are sparse: each entry has only the
directions on which it depends.

A direction of a Laplacian is one entry of the point, and most values depend on few of
these. For example, values of a particle depend on its coordinates, and values of a pair
on those of two particles. A stack has slots along its first axis, and a table, known
while tracing, of the direction of each slot of each entry. In a dense stack, slot `r`
is direction `r` for all entries.
"""

import functools as ft
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._core.jax import joint_axes, vary, varying_axes


# A table of directions, of shape `(slots, *shape)`; axes along which it is the same may
# have size 1. A slot without a direction has `NOTHING`, and its entry of the stack is
# zero. No direction occurs twice in the slots of an entry.
Table = np.ndarray
NOTHING = -1
# If more than this part of all directions would have a slot, the stack is dense, as
# products of dense stacks need no rearrangement. Measured by `python -m
# benchmarks.sparse_threshold`: with 0.8 of the directions, a network takes 0.7 to 0.9
# of the time of dense stacks, and with 0.9 of them 0.96. Functions of pairs of three
# particles, with 0.67, take 0.92 to 0.96.
_DENSE = 0.8
# With fewer directions, stacks are dense. Measured as above: for two particles with one
# to six coordinates each, sparse stacks take 0.95 to 1.07 of the time of dense ones, so
# that it makes little difference; 6 is two particles in space.
_FEW = 6
# The largest size of a table, as tables are computed while tracing.
_LARGEST = 2**24


class Stack:
    """The entries of a value for all directions. The table of a dense stack is `None`.

    `thin` is its array, in which axes along which all entries are the same may have
    size 1; `array` has them in full. `parts` are the parts of a concatenation along
    `axis`: pairs of a stack, or `None` for zero, and a size. `later` makes a stack of
    them, if anything but a product needs it.
    """

    def __init__(
        self,
        thin: Any,
        table: Table | None = None,
        *,
        shape: Sequence[int] | None = None,
        later: "Callable[[], Stack] | None" = None,
        parts: "Sequence[tuple[Stack | None, int]]" = (),
        axis: int = 0,
    ):
        self._thin, self._table, self._shape = thin, table, shape
        self._later, self.parts, self.axis = later, parts, axis
        # The same stack, for other tables.
        self._others: dict[Any, tuple[Table | None, Any]] = {}

    def _made(self) -> "Stack":
        if self._later is not None:
            made, self._later = self._later(), None
            self._thin, self._table, self._shape = made.thin, made.table, made._shape
        return self

    @property
    def thin(self) -> Any:
        return self._made()._thin

    @property
    def table(self) -> Table | None:
        return self._made()._table

    @property
    def array(self) -> Any:
        thin = self.thin
        if self._shape is None:
            return thin
        return jnp.broadcast_to(thin, (len(thin), *self._shape))

    @property
    def is_thin(self) -> bool:
        return self._made()._shape is not None

    @property
    def is_plain(self) -> bool:
        """Whether the stack is dense, and its array is there in full."""
        return self._later is None and self.table is None and self._shape is None

    def by(self, table: Table | None, count: int) -> Any:
        """Returns the array for the slots of another table. Directions that this table
        lacks are left out."""
        if is_same(self.table, table):
            return self.array
        key = id(table)
        if key not in self._others:
            own = every(count, self.thin.ndim - 1) if self.table is None else self.table
            other = every(count, self.thin.ndim - 1) if table is None else table
            found = _rearranged(self.array, _places(own, other, count))
            self._others[key] = (table, found)
        return self._others[key][1]

    def normal(self, count: int) -> "Stack":
        """Returns this stack, converted to a dense one if all entries have all
        directions."""
        table = self.table
        if table is None or len(table) != count or table.size != count:
            return self
        order = np.argsort(table.reshape(-1))
        if np.any(table.reshape(-1)[order] != np.arange(count)):
            return self
        return Stack(_slots(self.array, order))

    def dense(self, count: int) -> Any:
        return self.by(None, count)

    @staticmethod
    def of(known: np.ndarray | None, array: Any) -> "Stack":
        """Makes a stack of directions. `known` are their entries, if they are known
        while tracing: zeros need no slots."""
        dense = Stack(array)
        if known is None or len(known) < _FEW or known.size > _LARGEST:
            return dense
        is_there = known != 0
        table = _compact(np.where(is_there, every(len(known), known.ndim - 1), NOTHING))
        if len(table) == 0 or len(table) > _DENSE * len(known):
            return dense
        full = np.where(table < 0, 0, table)
        entries = np.where(table < 0, 0, np.take_along_axis(known, full, 0))
        axes = varying_axes(jax.typeof(array))
        packed = vary(jnp.asarray(entries, array.dtype), axes)
        stack = Stack(packed, squeezed(table))
        stack._others[id(None)] = (None, array)
        return stack


def nothing(stacks: Sequence[Stack], shape: Sequence[int], dtype: Any) -> Stack:
    """Makes a stack of zeros, which has no directions. It varies between devices like
    `stacks`."""
    axes = joint_axes(jax.typeof(stack.thin) for stack in stacks)
    zeros = vary(jnp.zeros((1, *shape), dtype), axes)
    return Stack(zeros, np.full((1, *[1] * len(shape)), NOTHING))


# -- tables


def every(count: int, ndim: int) -> Table:
    """Returns the table of a dense stack."""
    return np.arange(count).reshape(count, *[1] * ndim)


def squeezed(table: Table) -> Table:
    """Reduces axes along which a table is the same to size 1."""
    for axis in range(1, table.ndim):
        if table.shape[axis] > 1:
            first = table.take([0], axis)
            if np.array_equal(np.broadcast_to(first, table.shape), table):
                table = first
    return table


def is_same_along(table: Table, axes: Sequence[int]) -> bool:
    """Returns whether a table is the same along these axes of the entries."""
    return all(table.shape[axis + 1] == 1 for axis in axes)


def is_same(a: Table | None, b: Table | None) -> bool:
    """Returns whether two tables are the same."""
    if a is None or b is None:
        return a is b
    return a is b or a.shape == b.shape and np.array_equal(a, b)


def _compact(table: Table) -> Table:
    """Moves slots without a direction to the end, entry by entry, and removes those
    that have no direction for any entry."""
    order = np.argsort(table < 0, axis=0, kind="stable")
    return _used(np.take_along_axis(table, order, 0))


def _used(table: Table) -> Table:
    """Removes slots that have no direction for any entry."""
    return table[np.any(table.reshape(len(table), -1) >= 0, axis=1)]


def union(tables: Sequence[Table | None], count: int) -> Table | None:
    """Returns a table that has the directions of all tables, or `None` if these are too
    many. The slots of the first table come first."""
    if any(table is None for table in tables):
        return None
    every_table: list[Any] = list(tables)
    first, *others = every_table
    for other in others:
        if is_same(first, other):
            continue
        dims = np.broadcast_shapes(first.shape[1:], other.shape[1:])
        if (count + 1) * int(np.prod(dims)) > _LARGEST:
            return None
        is_new = _places(first, other, count) < 0
        other = np.where(is_new, other, NOTHING)
        other = _used(other)
        if len(other) == 0:
            continue
        both = [np.broadcast_to(t, (len(t), *dims)) for t in (first, other)]
        first = np.concatenate(both)
        most = int(np.max(np.sum(first >= 0, axis=0), initial=1))
        if len(first) > 1.5 * most:
            first = _compact(first)
        first = squeezed(first)
        if len(first) > _DENSE * count:
            return None
    return first


def united(table: Table, axes: Sequence[int], count: int) -> Table | None:
    """Returns the table of a value that depends on all entries along some axes, or
    `None` if it has too many directions."""
    axes = [axis + 1 for axis in axes if table.shape[axis + 1] > 1]
    if not axes:
        return table
    rest = [n for axis, n in enumerate(table.shape) if axis not in axes][1:]
    if table.size > _LARGEST:
        return None
    # Slot by slot, so that slots that are the same along other axes stay together.
    moved = np.moveaxis(table, axes, range(1, len(axes) + 1)).reshape(-1, *rest)
    found = np.where(_ranks(moved) > 0, NOTHING, moved)
    most = int(np.max(np.sum(found >= 0, axis=0), initial=1))
    if most > _DENSE * count:
        return None
    found = _used(found)
    if len(found) > 1.5 * most:
        found = _compact(found)
    return squeezed(np.expand_dims(found, axes))


def _ranks(table: Table) -> np.ndarray:
    """Returns, for each slot, how many slots before it have the same direction."""
    order = np.argsort(table, axis=0, kind="stable")
    ordered = np.take_along_axis(table, order, 0)
    number = np.broadcast_to(every(len(table), table.ndim - 1), table.shape)
    is_first = np.ones(table.shape, bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    first = np.maximum.accumulate(np.where(is_first, number, 0), axis=0)
    ranks = np.empty(table.shape, int)
    np.put_along_axis(ranks, order, number - first, axis=0)
    return ranks


def _places(own: Table, other: Table, count: int) -> np.ndarray:
    """Returns the slot of `own` for each slot of `other`, or -1 if there is none."""
    own_dims, dims = own.shape[1:], other.shape[1:]
    both = np.broadcast_shapes(own_dims, dims)
    place = np.full((count + 1, *own_dims), -1, np.int32)
    slots = np.broadcast_to(every(len(own), own.ndim - 1), own.shape)
    np.put_along_axis(place, np.where(own < 0, count, own), slots, axis=0)
    place[count] = -1
    index = np.broadcast_to(np.where(other < 0, count, other), (len(other), *both))
    place = np.broadcast_to(place, (count + 1, *both))
    return squeezed(np.take_along_axis(place, index, axis=0))


# -- arrays


def _rearranged(array: Any, index: np.ndarray) -> Any:
    """Computes `array[index[s, p], p]`, with zero where the index is negative."""
    flat = index.reshape(len(index), -1)
    highest = flat.max(axis=1, initial=-1)
    if np.all((flat == highest[:, None]) | (flat < 0)):
        taken = _slots(array, highest)
        is_there = (index >= 0) | (highest < 0).reshape(-1, *[1] * (index.ndim - 1))
        return _masked(taken, squeezed(is_there))
    shape = (len(index), *array.shape[1:])
    axes = varying_axes(jax.typeof(array))
    full = vary(jnp.asarray(np.where(index < 0, 0, index)), axes)
    taken = jnp.take_along_axis(array, full, axis=0, mode="promise_in_bounds")
    return _masked(jnp.broadcast_to(taken, shape), index >= 0)


def _masked(array: Any, is_there: np.ndarray) -> Any:
    if np.all(is_there):
        return array
    mask = vary(jnp.asarray(is_there), varying_axes(jax.typeof(array)))
    mask = jnp.broadcast_to(mask, array.shape)
    return lax.select(mask, array, _zeros(array, array.shape))


def _zeros(array: Any, shape: Sequence[int]) -> Any:
    return vary(jnp.zeros(shape, array.dtype), varying_axes(jax.typeof(array)))


def _slots(array: Any, chosen: np.ndarray) -> Any:
    """Takes slots of an array, with zeros for -1."""
    size = len(array)
    if np.array_equal(chosen, np.arange(size)):
        return array
    if np.all(chosen == chosen[0]) and chosen[0] >= 0:
        return jnp.broadcast_to(array[chosen[0]], (len(chosen), *array.shape[1:]))
    repeats = len(chosen) // size
    if repeats > 1 and np.array_equal(chosen, np.tile(np.arange(size), repeats)):
        tiled = jnp.broadcast_to(array, (repeats, *array.shape))
        return tiled.reshape(-1, *array.shape[1:])
    runs = _runs(chosen)
    if len(runs) > 4:
        places = jnp.asarray(np.maximum(chosen, 0))
        found = array[vary(places, varying_axes(jax.typeof(array)))]
        is_there = (chosen >= 0).reshape(-1, *[1] * (array.ndim - 1))
        return _masked(found, is_there)
    parts = []
    for start, length in runs:
        if start < 0:
            parts.append(_zeros(array, (length, *array.shape[1:])))
        else:
            parts.append(lax.slice_in_dim(array, start, start + length))
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


def _runs(chosen: np.ndarray) -> list[tuple[int, int]]:
    """Splits numbers into runs of consecutive ones, and runs of -1."""
    runs: list[list[int]] = []
    for number in map(int, chosen):
        if runs:
            start, length = runs[-1]
            if number == (start + length if start >= 0 else -1):
                runs[-1][1] += 1
                continue
        runs.append([number, 1])
    return [(start, length) for start, length in runs]


def summed(stack: Stack, axes: Sequence[int], count: int) -> Stack:
    """Sums the entries of a sparse stack along some axes."""
    table, array = stack.table, stack.array
    assert table is not None
    same = [axis for axis in axes if is_same_along(table, [axis])]
    if same:
        array = jnp.sum(array, axis=tuple(axis + 1 for axis in same), keepdims=True)
    stack = Stack(array, table)
    for axis in sorted(set(axes) - set(same), reverse=True):
        if stack.table is None:
            total = jnp.sum(stack.array, axis=axis + 1, keepdims=True)
            stack = Stack(total)
        else:
            stack = _summed_along(stack.array, stack.table, axis + 1, count)
    table = stack.table
    if table is not None:
        table = _without(table, axes)
    return Stack(_without(stack.array, axes), table)


def _without(x: Any, axes: Sequence[int]) -> Any:
    """Drops axes of the entries, which have size 1, from a table or an array."""
    return x.reshape([n for i, n in enumerate(x.shape) if i - 1 not in axes])


def _summed_along(array: Any, table: Table, axis: int, count: int) -> Stack:
    """Sums along one axis, which keeps size 1. Slots that are the same along the axis
    are added. Of the others, those of the same direction are collected first."""
    is_same = (table == table.take([0], axis)).reshape(len(table), -1).all(axis=1)
    parts = []
    for some, combine in ((is_same, _added_up), (~is_same, _brought_together)):
        if np.any(some):
            slots = _slots(array, np.nonzero(some)[0])
            parts.append(combine(slots, squeezed(table[some]), axis, count))
    return added(parts, count)


def _added_up(array: Any, table: Table, axis: int, count: int) -> Stack:
    return Stack(jnp.sum(array, axis=axis, keepdims=True), table)


def _brought_together(array: Any, table: Table, axis: int, count: int) -> Stack:
    target = united(table, [axis - 1], count)
    # The entries along the axis become slots. The axis comes before that of the slots,
    # so that the directions of neighbours are side by side.

    def joined(x, np):
        x = np.moveaxis(x, axis, 0)
        return np.expand_dims(x.reshape(-1, *x.shape[2:]), axis)

    full = list(table.shape)
    full[axis] = array.shape[axis]
    index = _of_each(joined(np.broadcast_to(table, full), np), count)
    if target is not None:
        # The shape of the entries, for the directions that have slots.
        dims = np.broadcast_shapes(index.shape[2:], target.shape[1:])
        index = np.broadcast_to(index, (*index.shape[:2], *dims))
        chosen = np.broadcast_to(target, (len(target), *dims))
        index = np.take_along_axis(index, np.where(chosen < 0, count, chosen)[None], 1)
    else:
        index = index[:, :-1]
    parts = _rearranged(
        joined(array, jnp), squeezed(index.reshape(-1, *index.shape[2:]))
    )
    parts = parts.reshape(*index.shape[:2], *parts.shape[1:])
    return Stack(parts[0] if len(parts) == 1 else jnp.sum(parts, axis=0), target)


def _of_each(table: Table, count: int) -> np.ndarray:
    """Lists the slots that have a direction, for each direction. Returns an array of
    shape `(most, count + 1, *shape)`, which is filled up with -1."""
    ranks, is_there = _ranks(table), table >= 0
    most = int(np.max(ranks[is_there], initial=0)) + 1
    index = np.full((most * (count + 1), *table.shape[1:]), -1)
    places = np.where(is_there, ranks * (count + 1) + table, count)
    slots = np.broadcast_to(every(len(table), table.ndim - 1), table.shape)
    np.put_along_axis(index, places, np.where(is_there, slots, -1), axis=0)
    index = index.reshape(most, count + 1, *table.shape[1:])
    index[:, count] = -1
    return index


def added(stacks: Sequence[Stack], count: int) -> Stack:
    """Adds stacks of the same shape."""
    if len(stacks) == 1:
        return stacks[0]
    table = union([stack.table for stack in stacks], count)
    return Stack(ft.reduce(lax.add, [s.by(table, count) for s in stacks]), table)
