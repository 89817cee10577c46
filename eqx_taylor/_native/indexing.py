"""Gathers and scatters: with indices that are known, or computed of the arguments."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core.jax import bind
from .atoms import Linear
from .choices import select
from .given import Given
from .values import as_objects, filled, in_numpy


# With indices that are computed of the arguments, each entry of the result is chosen
# among all entries of the operands. Chosen: so many choices take about as long to
# compile as the rest of a field that is worth it.
_MOST_CHOICES = 4096


def _gather(reader: Any, eqn: Any, x: Any, *indices: Any) -> np.ndarray:
    return _moved(reader, eqn, [x], indices, [0])


def _dynamic_update_slice(reader: Any, eqn: Any, x: Any, update: Any, *indices: Any):
    return _moved(reader, eqn, [x, update], indices, [0, 1])


def _scatter(reader: Any, eqn: Any, x: Any, indices: Any, updates: Any) -> np.ndarray:
    return _moved(reader, eqn, [x, updates], [indices], [0, 2])


def _moved(
    reader: Any, eqn: Any, moved: Sequence[Any], indices: Sequence[Any], where
) -> np.ndarray:
    """Applies the primitive to the numbers of entries, from 1, for where each entry of
    the result comes from. `where` has the places of what is moved among the
    operands."""
    _check_indices(reader, eqn, indices)
    moved = [reader.materialised(eqn, x) for x in moved]
    numbers, start = [], 1
    for x in moved:
        # JAX's type of floats holds these integers exactly, and has the fill value NaN,
        # which is not one of them.
        every = np.arange(start, start + x.size, dtype=reader.dtype)
        numbers.append(every.reshape(x.shape))
        start += x.size
    flat = np.concatenate([np.ravel(as_objects(x, x.shape)) for x in moved])

    def apply(*indices):
        operands = list(indices)
        for place, x in zip(where, numbers):
            operands.insert(place, jnp.asarray(x))
        return bind(eqn, operands)[0]

    shape = eqn.outvars[0].aval.shape
    if any(isinstance(x, Given) for x in indices):
        _check_choices(reader, eqn, int(np.prod(shape)) * len(flat))
        like = jax.ShapeDtypeStruct(shape, np.dtype(reader.dtype))
        places = reader.givens.compute(apply, *indices, like=like)
        return _chosen_entries(reader, places, flat)
    with jax.ensure_compile_time_eval():
        found = in_numpy(apply(*indices))
    if not np.all(np.isfinite(found)):
        raise reader.refused(eqn, "an index is out of bounds")
    return filled(shape, lambda i: flat[int(found.flat[i]) - 1])


def _chosen_entries(reader: Any, places: Given, flat: np.ndarray) -> np.ndarray:
    """Entries of which each is chosen by its place. That of an index that is out of
    bounds is NaN, or what JAX takes instead."""
    compare = reader.givens.compute
    like = jax.ShapeDtypeStruct(places.shape, np.dtype(reader.dtype))
    out = as_objects(np.full(places.shape, np.nan), places.shape)
    for number, x in enumerate(flat, 1):
        here = compare(
            lambda p, n=number: (p == n).astype(reader.dtype), places, like=like
        )
        flags = reader.as_arguments(here)
        others = np.ravel(out)
        out = filled(
            places.shape,
            lambda i: select(reader.builder, flags.flat[i].constant, x, others[i]),
        )
    return out


def _scatter_add(reader: Any, eqn: Any, x: Any, indices: Any, updates: Any):
    _check_indices(reader, eqn, [indices])
    x, updates = (reader.materialised(eqn, y) for y in (x, updates))
    # Where each update goes: the primitive is linear, and is applied to each alone.
    zeros = np.zeros(x.shape, reader.dtype)
    ones = np.eye(updates.size, dtype=reader.dtype).reshape(-1, *updates.shape)

    def apply(indices):
        each = jax.vmap(lambda u: bind(eqn, [jnp.asarray(zeros), indices, u])[0])(ones)
        return each.reshape(updates.size, -1)

    flat: Any = np.ravel(as_objects(updates, updates.shape))
    start = np.ravel(as_objects(x, x.shape))
    factors: Any
    if isinstance(indices, Given):
        _check_choices(reader, eqn, updates.size * x.size)
        like = jax.ShapeDtypeStruct((updates.size, x.size), np.dtype(reader.dtype))
        each = reader.as_arguments(reader.givens.compute(apply, indices, like=like))
        factors = [[y.constant for y in row] for row in each]
    else:
        with jax.ensure_compile_time_eval():
            factors = np.asarray(apply(indices)).tolist()

    def entry(i) -> Linear:
        terms = [(row[i], y) for row, y in zip(factors, flat)]
        return reader.builder.sum([(1.0, start[i]), *terms])

    return filled(x.shape, entry)


def _scatter_mul(reader: Any, eqn: Any, x: Any, indices: Any, updates: Any):
    _check_indices(reader, eqn, [indices])
    if isinstance(indices, Given):
        raise reader.refused(eqn, "an index depends on the arguments")
    x, updates = (reader.materialised(eqn, y) for y in (x, updates))
    # An update that is zero shows where it goes.
    ones = np.ones(x.shape, reader.dtype)
    each = 1 - np.eye(updates.size, dtype=reader.dtype).reshape(-1, *updates.shape)
    with jax.ensure_compile_time_eval():
        hit = jax.vmap(lambda u: bind(eqn, [jnp.asarray(ones), indices, u])[0])(each)
    hit = np.asarray(hit).reshape(updates.size, -1) == 0
    flat = np.ravel(as_objects(updates, updates.shape))
    start = np.ravel(as_objects(x, x.shape))

    def entry(i):
        out = start[i]
        for n in np.nonzero(hit[:, i])[0]:
            out = reader.builder.mul(out, flat[n])
        return out

    return filled(x.shape, entry)


def _check_indices(reader: Any, eqn: Any, indices: Sequence[Any]) -> None:
    for x in indices:
        if not isinstance(x, Given) and x.dtype == object:
            raise reader.refused(eqn, "an index depends on the time or the state")


def _check_choices(reader: Any, eqn: Any, number: int) -> None:
    if number > _MOST_CHOICES:
        raise reader.refused(
            eqn,
            "an index depends on the arguments, and there are more than "
            f"{_MOST_CHOICES} ways to choose",
        )


HANDLERS: dict[str, Callable[..., Any]] = {
    "gather": _gather,
    "dynamic_slice": _gather,
    "dynamic_update_slice": _dynamic_update_slice,
    "scatter": _scatter,
    "scatter-add": _scatter_add,
    "scatter-mul": _scatter_mul,
}
