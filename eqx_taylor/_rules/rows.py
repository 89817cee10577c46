"""Sums of powers and of exponentials of a series, with a recurrence for each term."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._core.protocols import JaxprEqn
from .._core.recurrence import output
from .._core.series import CONSTANT, orders, Series
from .._core.walk import Walk
from .define import read


# A row is a power, a logarithm or an exponential. With h = (x - x_0) / u
#
#   y' = D (1 + q h)^(a - 2) h'   =>   y_k = D h_k + Σ_{j<k} (a j / k - 1) q h_j y_{k-j}
#   y' = D exp(c h) h'            =>   y_k = D h_k + Σ_{j<k} (j / k) c h_j y_{k-j}
#
# where y_0 does not occur. So the factor is (A j / k - B) h_j with A = a q, B = q, or
# A = c, B = 0. There are no powers of h, which would cancel on a curve.
def sum_of_rows(
    walk: Walk,
    eqn: JaxprEqn,
    inputs: Sequence[Series],
    x: Series,
    number: int,
    unit: Callable[[Any], Any],
    rows: Callable[[Any, Any], tuple[Any, ...]],
    factor: Callable[[Any, Any], Any] | None = None,
) -> Series:
    """Makes the output of `eqn`, which is `factor(x_0, u)` times a sum of rows.

    `unit(x_0)` is the u above, a power of two. `rows(x_0, u)` returns D, A and B for
    each of the `number` rows, along the first axis; x_0 and u have an axis of length 1
    there. `x` is one of the inputs, `widened`.
    """
    aval = eqn.outvars[0].aval
    single = jax.ShapeDtypeStruct((1, *x.aval.shape), x.aval.dtype)
    several = jax.ShapeDtypeStruct((number, *x.aval.shape), x.aval.dtype)

    def compute_unit(_):
        return lax.stop_gradient(unit(lax.stop_gradient(x[0])))

    def compute_rows(i):
        def compute(_):
            if not found:
                first, u = jnp.asarray(x[0])[None], jnp.asarray(units[0])[None]
                found.extend(rows(first, u))
            return jnp.broadcast_to(found[i], several.shape)

        return Series(several, CONSTANT, compute)

    def compute_scaled(k):
        if x[k] is None:
            return None
        return lax.expand_dims(lax.div(x[k], units[0]), [0])

    def compute_several(k):
        pairs = [(j, h[j], y[k - j]) for j in orders(h.support) if 0 < j < k]
        pairs = [(j, a, b) for j, a, b in pairs if a is not None and b is not None]
        total = None if h[k] is None else slope[0] * h[k]
        if not pairs:
            return total
        # A single sum takes a few equations at each order, instead of several at each
        # j.
        steps = stacked([h_j for _, h_j, _ in pairs])
        lower = stacked([y_j for *_, y_j in pairs])
        weights = np.array([j / k for j, *_ in pairs], x.aval.dtype)
        weights = weights.reshape(-1, 1, *[1] * len(x.aval.shape))
        products = (linear[0][None] * weights - offset[0][None]) * steps * lower
        rest = jnp.sum(products, axis=0)
        return rest if total is None else total + rest

    def compute(k):
        if y[k] is None:
            return None
        total = jnp.sum(y[k], axis=0)
        if factor is not None:
            total = total * factors[0]
        return lax.convert_element_type(total, aval.dtype)

    def compute_factor(_):
        assert factor is not None
        return factor(x[0], units[0])

    found: list[Any] = []
    support = walk.analytic_support([x])
    units = Series(x.aval, CONSTANT, compute_unit)
    factors = Series(x.aval, CONSTANT, compute_factor)
    h = Series(single, x.support & ~CONSTANT, compute_scaled)
    slope, linear, offset = map(compute_rows, range(3))
    y = Series(several, support & ~CONSTANT, compute_several)
    return output(eqn, inputs, support, compute)


def stacked(arrays):
    """Stacks arrays with at least one axis, by two equations."""
    joined = arrays[0] if len(arrays) == 1 else lax.concatenate(arrays, 0)
    return lax.reshape(joined, (len(arrays), *arrays[0].shape))


def at_least_single(*arrays):
    """Converts arrays to float32 at least, as half precision has neither the range nor
    the digits."""
    dtype = jnp.float64 if arrays[0].dtype == jnp.float64 else jnp.float32
    return [x.astype(dtype) for x in arrays]


def widened(walk: Walk, eqn: JaxprEqn, x: Series) -> Series:
    """Broadcasts axes of size 1 of `x` to the shape of the output, as primitives do,
    and converts it to float32 at least."""
    shape = eqn.outvars[0].aval.shape
    if x.aval.shape == shape and x.aval.dtype in (jnp.float32, jnp.float64):
        return x
    [x] = read(walk, lambda x: jnp.broadcast_to(at_least_single(x)[0], shape), [x])
    return x
