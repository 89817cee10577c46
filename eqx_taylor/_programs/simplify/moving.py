"""Operations that only move or copy the entries of an array."""

from typing import Any

import numpy as np
from jax import lax

from .graph import Operation, operation


def keeps_order(move: Operation) -> bool:
    """Returns whether an operation keeps the entries and their order, and changes only
    the axes."""
    [old], [new] = move.operands, move.results
    if move.name == "transpose":
        axes = [i for i in move.params["permutation"] if old.shape[i] != 1]
        return axes == sorted(axes)
    return old.size == new.size and move.params.get("dimensions") is None


def composed(first: Operation, second: Operation) -> Operation | None:
    """Returns one operation that replaces two, or `None` if there is none."""
    [old], [new] = first.operands, second.results
    kind = (old.shape, np.dtype(old.dtype))
    if keeps_order(first) and keeps_order(second):
        return operation(lax.reshape, [kind], new_sizes=new.shape)
    if second.name != "broadcast_in_dim":
        return None
    if first.name == "broadcast_in_dim":
        axes = first.params["broadcast_dimensions"]
    elif keeps_order(first):
        axes = _places(old.shape, first.results[0].shape)
    else:
        return None
    if axes is None:
        return None
    onto = second.params["broadcast_dimensions"]
    # JAX's own may be NumPy integers, which would give different keys.
    return broadcast(kind, new.shape, tuple(int(onto[i]) for i in axes))


def broadcast(kind, shape: tuple[Any, ...], axes: tuple[int, ...]) -> Operation:
    return operation(
        lax.broadcast_in_dim, [kind], shape=shape, broadcast_dimensions=axes
    )


def _places(old: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...] | None:
    """Returns the positions of axes after axes of length one were inserted."""
    places, start = [], 0
    for length in old:
        while start < len(new) and new[start] != length:
            if new[start] != 1:
                return None
            start += 1
        if start == len(new):
            return None
        places.append(start)
        start += 1
    return tuple(places) if all(n == 1 for n in new[start:]) else None
