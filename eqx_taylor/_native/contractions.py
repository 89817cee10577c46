"""Sums and products over axes: of all entries, of windows, of matrices."""

import functools as ft
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core.jax import bind
from .atoms import Linear
from .choices import frozen_max
from .functions import logaddexp
from .values import as_objects, filled, is_known


def _rows(x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """`x` with these axes as one, the last."""
    kept = [i for i in range(x.ndim) if i not in axes]
    size = int(np.prod([x.shape[i] for i in axes]))
    return x.transpose([*kept, *axes]).reshape([*(x.shape[i] for i in kept), size])


def _over_rows(x: np.ndarray, axes: Sequence[int], fun: Callable[..., Any]):
    rows = _rows(x, axes)
    shape = rows.shape[:-1]
    flat = rows.reshape(int(np.prod(shape)), rows.shape[-1])
    return filled(shape, lambda i: fun(flat[i]))


def _reduce_sum(reader: Any, eqn: Any, x: np.ndarray) -> np.ndarray:
    total = reader.builder.sum
    return _over_rows(x, eqn.params["axes"], lambda row: total((1.0, y) for y in row))


def _reduce_prod(reader: Any, eqn: Any, x: np.ndarray) -> np.ndarray:
    builder = reader.builder
    one = builder.constant(1)
    return _over_rows(
        x, eqn.params["axes"], lambda row: ft.reduce(builder.mul, row, one)
    )


def _reduce_max(reader: Any, eqn: Any, x: np.ndarray) -> np.ndarray:
    """As a constant of each step, which the result must not depend on: `softmax`."""
    note = str(reader.refused(eqn, "the field depends on which value is the largest"))
    return _over_rows(
        x, eqn.params["axes"], lambda row: frozen_max(reader.builder, [*row], note)
    )


def _cumulative(combine: Callable[..., Callable[..., Linear]]):
    def cumulative(reader: Any, eqn: Any, x: np.ndarray) -> np.ndarray:
        axis, reverse = eqn.params["axis"], eqn.params["reverse"]
        x = np.moveaxis(x, axis, 0)
        # With the dots an entry is an array, too.
        rows = [x[i, ...] for i in range(len(x))]
        if reverse:
            rows.reverse()
        for i in range(1, len(rows)):
            rows[i] = reader.mapped(combine(reader.builder), rows[i - 1], rows[i])
        if not rows:
            return np.moveaxis(x, 0, axis)
        return np.moveaxis(np.stack(rows[::-1] if reverse else rows), 0, axis)

    return cumulative


def _dot_general(reader: Any, eqn: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    (x_sum, y_sum), (x_batch, y_batch) = eqn.params["dimension_numbers"]
    a, x_free = _as_matrices(x, x_batch, x_sum)
    b, y_free = _as_matrices(y, y_batch, y_sum)
    batch = tuple(x.shape[i] for i in x_batch)
    out = np.empty((a.shape[0], a.shape[1], b.shape[1]), object)
    for n, i, j in np.ndindex(*out.shape):
        out[n, i, j] = _dot(reader.builder, a[n, i], b[n, j])
    return out.reshape(batch + x_free + y_free)


def _dot(builder: Any, a: np.ndarray, b: np.ndarray) -> Linear:
    if is_known(b) or all(y.is_constant for y in as_objects(b, b.shape)):
        a, b = b, a
    if is_known(a):
        terms: Any = zip(map(float, a), as_objects(b, b.shape))
        return builder.sum(terms)
    if all(x.is_constant for x in a):
        b = as_objects(b, b.shape)
        return builder.sum((x.constant, y) for x, y in zip(a, b))
    pairs: Any = zip(a, b)
    return builder.sum((1.0, builder.mul(x, y)) for x, y in pairs)


def _as_matrices(x: np.ndarray, batch, summed) -> tuple[np.ndarray, tuple[int, ...]]:
    """Brings the axes of a factor into the order batch, free, summed."""
    free = [i for i in range(x.ndim) if i not in batch and i not in summed]
    x = x.transpose([*batch, *free, *summed])
    shape = x.shape
    of_batch = shape[: len(batch)]
    of_free = shape[len(batch) : len(batch) + len(free)]
    sizes = [int(np.prod(part, dtype=int)) for part in (of_batch, of_free)]
    rest = int(np.prod(shape[len(batch) + len(free) :], dtype=int))
    return x.reshape(*sizes, rest), tuple(of_free)


def _conv(reader: Any, eqn: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of two operands, by its derivative with respect to the smaller one: which entries
    of the other one each of its entries is multiplied with, and where that goes."""
    swapped = x.size < y.size
    small, large = (x, y) if swapped else (y, x)
    numbers = np.arange(1, large.size + 1, dtype=np.float64).reshape(large.shape)
    types = [np.float64] * 2 if jax.config.read("jax_enable_x64") else [np.float32] * 2
    ones = np.eye(small.size, dtype=types[0]).reshape(-1, *small.shape)
    if types[0] == np.float32 and large.size >= 2**24:
        raise reader.refused(eqn, "it is too large")

    def apply(one):
        pair = [jnp.asarray(numbers, types[0]), one]
        params = {**eqn.params, "preferred_element_type": None}
        params["precision"] = jax.lax.Precision.HIGHEST
        return eqn.primitive.bind(*(pair[::-1] if swapped else pair), **params)

    with jax.ensure_compile_time_eval():
        places = np.asarray(jax.lax.map(apply, jnp.asarray(ones)))
    shape = eqn.outvars[0].aval.shape
    places = np.rint(places.reshape(small.size, -1)).astype(int)
    flat_small = np.ravel(as_objects(small, small.shape))
    flat_large = np.ravel(as_objects(large, large.shape))

    def entry(i):
        [used] = np.nonzero(places[:, i])
        a = np.array([*flat_small[used]], object)
        b = np.array([*flat_large[places[used, i] - 1]], object)
        return _dot(reader.builder, a, b) if len(used) else reader.builder.constant(0)

    return filled(shape, entry)


def _reduce_window_sum(reader: Any, eqn: Any, x: np.ndarray) -> np.ndarray:
    return _linear_map(reader, eqn, x)


def _linear_map(reader: Any, eqn: Any, x: np.ndarray) -> np.ndarray:
    """A primitive that is linear, by its matrix."""
    ones = np.eye(x.size, dtype=reader.dtype).reshape(-1, *x.shape)
    with jax.ensure_compile_time_eval():
        each = jax.lax.map(lambda one: bind(eqn, [one])[0], jnp.asarray(ones))
    matrix = np.asarray(each).reshape(x.size, -1)
    flat = np.ravel(x)

    def entry(i):
        [used] = np.nonzero(matrix[:, i])
        terms: Any = [(float(matrix[n, i]), flat[n]) for n in used]
        return reader.builder.sum(terms)

    return filled(eqn.outvars[0].aval.shape, entry)


HANDLERS: dict[str, Callable[..., Any]] = {
    "reduce_sum": _reduce_sum,
    "reduce_prod": _reduce_prod,
    "reduce_max": _reduce_max,
    "cumsum": _cumulative(lambda builder: builder.add),
    "cumprod": _cumulative(lambda builder: builder.mul),
    "cumlogsumexp": _cumulative(lambda builder: ft.partial(logaddexp, builder)),
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
    "reduce_window_sum": _reduce_window_sum,
}
