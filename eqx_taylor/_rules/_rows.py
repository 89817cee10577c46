"""Sums of powers and of exponentials of a series, which are a recurrence each."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._interpreter import Walk
from .._series import CONSTANT, orders, Series
from ._define import read


# The rows of an array, one below the other, obey
#
#   y' = (a - 1) q h' y / (1 + q h)   (a power of 1 + q h),   or   y' = a h' y:
#   y_k = Σ_{j=1..k} (A j / k - B) h_j y_{k-j},   A = a q, B = q,   or   A = a, B = 0
#
# where h = (x - x_0) / u. No row is composed of powers of h, which cancel on a curve.
def rows_of_powers(
    walk: Walk,
    x: Series,
    number: int,
    unit: Callable[[Any], Any],
    rows: Callable[[Any, Any], tuple[Any, Any, Any]],
) -> tuple[Series, Series, Series]:
    """The series `h`, its unit u, and the series of the rows.

    `unit(x_0)` is the u above, a power of two. `rows(x_0, u)` are the `number` rows of
    y_0, A and B, along the first axis, where x_0 and u have one row.
    """
    aval = x.aval
    several = jax.ShapeDtypeStruct((number, *aval.shape), aval.dtype)

    def auxiliary(aval, support, compute):
        return walk.auxiliary(Series(aval, support, compute), [x])

    def compute_unit(_):
        return lax.stop_gradient(unit(lax.stop_gradient(x[0])))

    def compute_rows(i):
        def compute(_):
            if not found:
                first, u = jnp.asarray(x[0])[None], jnp.asarray(units[0])[None]
                found.extend(rows(first, u))
            return jnp.broadcast_to(found[i], several.shape)

        return auxiliary(several, CONSTANT, compute)

    def compute_scaled(k):
        return None if x[k] is None else lax.div(x[k], units[0])

    def compute(k):
        if k == 0:
            return first[0]
        moving = [j for j in orders(h.support) if j <= k and h[j] is not None]
        pairs = [(j, h[j], y[k - j]) for j in moving]
        pairs = [pair for pair in pairs if pair[-1] is not None]
        if not pairs:
            return None
        fractions = jnp.array([j / k for j, _, _ in pairs], aval.dtype)
        fractions = fractions.reshape(-1, 1, *[1] * len(aval.shape))
        # As one sum, which takes a few equations at each order, not several at each j.
        steps = _stacked([h_j[None] for _, h_j, _ in pairs])
        lower = _stacked([y_j for _, _, y_j in pairs])
        weights = slope[0][None] * fractions - offset[0][None]
        return jnp.sum(weights * steps * lower, axis=0)

    found: list[Any] = []
    support = walk.analytic_support([x])
    units = auxiliary(aval, CONSTANT, compute_unit)
    h = auxiliary(aval, x.support & ~CONSTANT, compute_scaled)
    first, slope, offset = map(compute_rows, range(3))
    y = auxiliary(several, support, compute)
    return h, units, y


def _stacked(arrays):
    joined = lax.concatenate(arrays, 0)
    return lax.reshape(joined, (len(arrays), *arrays[0].shape))


def at_least_single(*arrays):
    """In float32 at least: half precision has neither the range nor the digits."""
    dtype = jnp.float64 if arrays[0].dtype == jnp.float64 else jnp.float32
    return [x.astype(dtype) for x in arrays]


def widened(walk: Walk, eqn, x: Series) -> Series:
    """`x` in the shape of the output, since primitives broadcast axes of size 1, and in
    float32 at least."""
    shape = eqn.outvars[0].aval.shape
    double = x.aval.dtype == jnp.float64
    if x.aval.shape == shape and (double or x.aval.dtype == jnp.float32):
        return x
    [x] = read(walk, lambda x: jnp.broadcast_to(*at_least_single(x), shape), [x])
    return x
