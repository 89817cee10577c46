"""Primitives that move entries, on NumPy's arrays of numbers or of objects."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .atoms import Linear


Moving = Callable[[Any, Sequence[np.ndarray]], list[np.ndarray]]

MOVING: dict[str, Moving] = {}


def _moving(name: str):
    def register(fun):
        def of_operands(eqn, operands):
            return [fun(eqn.params, *operands)]

        MOVING[name] = of_operands
        return fun

    return register


for _name in ("copy", "copy_p", "optimization_barrier", "stop_gradient", "name"):
    MOVING[_name] = lambda eqn, operands: list(operands)


@_moving("reshape")
def _reshape(params, x):
    return x.reshape(params["new_sizes"])


@_moving("squeeze")
def _squeeze(params, x):
    return np.squeeze(x, params["dimensions"])


@_moving("expand_dims")
def _expand_dims(params, x):
    return np.expand_dims(x, params["dimensions"])


@_moving("transpose")
def _transpose(params, x):
    return x.transpose(params["permutation"])


@_moving("rev")
def _rev(params, x):
    return np.flip(x, params["dimensions"])


@_moving("broadcast_in_dim")
def _broadcast_in_dim(params, x):
    shape = params["shape"]
    places = params["broadcast_dimensions"]
    inner = [1] * len(shape)
    for place, size in zip(places, x.shape):
        inner[place] = size
    return np.broadcast_to(x.reshape(inner), shape)


@_moving("slice")
def _slice(params, x):
    strides = params["strides"] or [1] * x.ndim
    bounds = zip(params["start_indices"], params["limit_indices"], strides)
    return x[tuple(slice(*bound) for bound in bounds)]


@_moving("concatenate")
def _concatenate(params, *operands):
    return np.concatenate([*_alike(operands)], axis=params["dimension"])


@_moving("stack")
def _stack(params, *operands):
    return np.stack(_alike(operands), axis=params["axis"])


@_moving("tile")
def _tile(params, x):
    return np.tile(x, params["reps"])


@_moving("pad")
def _pad(params, x, value):
    x, value = _alike([x, value])
    for axis, (low, high, inner) in enumerate(params["padding_config"]):
        size = x.shape[axis]
        total = low + high + size + max(size - 1, 0) * inner
        shape = [*x.shape[:axis], total, *x.shape[axis + 1 :]]
        out = np.empty(shape, x.dtype)
        out[...] = value
        for i in range(size):
            place = low + i * (inner + 1)
            if 0 <= place < total:
                out[(slice(None),) * axis + (place,)] = np.take(x, i, axis)
        x = out
    return x


def _split(eqn, operands):
    ends = np.cumsum(eqn.params["sizes"])[:-1]
    return np.split(operands[0], ends, eqn.params["axis"])


MOVING["split"] = _split


def _unstack(eqn, operands):
    x = np.moveaxis(operands[0], eqn.params["axis"], 0)
    # With the dots an entry is an array, too.
    return [x[i, ...] for i in range(len(x))]


MOVING["unstack"] = _unstack


def _alike(operands: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Makes values of numbers, if one of the operands has values."""
    if all(x.dtype != object for x in operands):
        return list(operands)
    return [x if x.dtype == object else _values(x) for x in operands]


def _values(x: np.ndarray) -> np.ndarray:
    out = np.empty(x.size, object)
    for i, number in enumerate(np.ravel(x)):
        out[i] = Linear(float(number), {})
    return out.reshape(x.shape)
