"""Polynomials that interpolate conditions at Chebyshev's nodes.

The solution of a step is a polynomial `p`. A condition `g` along it is `g(p(x))`, which
is not the Taylor series of `g`, cut off at the order of `p`: a product of two entries
has twice the order. The tolerances are the size of the difference, and a root of the
one may be none of the other. The interpolating polynomial is `g(p(x))` up to rounding
errors, if its last coefficients are: otherwise the part of the step has to be shorter.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .error_estimate import probe_points
from .roots import NOISE, noise_of, normalised


# A step is shorter than the radius of convergence by a factor of e^2, if the order
# suits the tolerance (Jorba and Zou). The coefficients of a smooth condition then fall
# by a factor of 27 each, and half as many nodes would do. This many are as near to each
# other as the points at which a condition was looked at that is not smooth.
NODES = 16
_ANGLES = (np.arange(NODES) + 0.5) * np.pi / NODES
# Chebyshev's nodes of the first kind; and the point inside of the step at which the
# vector field is looked at as well. At the end of the step those polynomials are seen
# that vanish at the nodes, or are taken for a constant: T_16, T_32 and T_48.
POINTS: np.ndarray = np.array([*(1 + np.cos(_ANGLES)) / 2, *probe_points(1)])
# What is not known of a condition is taken for rounding errors if it is less than so
# many times these: chosen.
_RESOLVED = 4


def _matrix() -> np.ndarray:
    """Maps values at the nodes to coefficients, and to the values of the polynomial at
    the point inside and at the end."""
    k = np.arange(NODES)
    to_terms = np.where(k == 0, 1, 2)[:, None] / NODES * np.cos(np.outer(k, _ANGLES))
    others = np.arccos(2 * np.array([POINTS[-1], 1.0]) - 1)
    return np.concatenate([to_terms, np.cos(np.outer(others, k)) @ to_terms])


def _powers() -> np.ndarray:
    """The coefficients, in powers, of Chebyshev's polynomials on `[0, 1]`: a row for
    each polynomial. They are integers."""
    rows = np.zeros((NODES, NODES))
    rows[0, 0], rows[1, :2] = 1, [-1, 2]
    for k in range(2, NODES):
        # T_k = 2 (2 x - 1) T_{k-1} - T_{k-2}
        rows[k, 1:] = 4 * rows[k - 1, :-1]
        rows[k] -= 2 * rows[k - 1] + rows[k - 2]
    return rows


_MATRIX, _POWERS = _matrix(), _powers()


def interpolate(
    inside: Float[Array, "points conditions"], end: Float[Array, " conditions"]
) -> tuple[Float[Array, "nodes conditions"], Float[Array, "2 conditions"]]:
    """Returns the coefficients in Chebyshev's basis, and the errors at the two points
    that are no nodes, by values at the `POINTS` and at the end."""
    nodes, probe = inside[:NODES], inside[NODES]
    products = jnp.asarray(_MATRIX, inside.dtype)[:, :, None] * nodes[None]
    found = jnp.sum(products, axis=1)
    return found[:NODES], jnp.abs(jnp.stack([probe, end]) - found[NODES:])


class Interpolated(NamedTuple):
    """Conditions as polynomials on `[0, 1]`.

    **Fields:**

    - `rows`: the coefficients, multiplied by powers of two, as by `normalised`.
    - `noise`: bounds on what the polynomials and the conditions differ by.
    - `is_resolved`: whether that is little more than rounding errors. A condition for
        which it is not has a kink, or changes too quickly.
    """

    rows: Float[Array, "conditions nodes"]
    noise: Float[Array, " conditions"]
    is_resolved: Bool[Array, " conditions"]


def interpolated(
    values: Callable[[Array], Array], least: Float[Array, " conditions"]
) -> Interpolated:
    """Interpolates functions on `[0, 1]`, whose values have rounding errors of `least`
    besides those that are relative to the values."""
    dtype = least.dtype
    points = jnp.asarray(np.append(POINTS, 1.0), dtype)
    there, factors = normalised(jax.vmap(values)(points).T)
    terms, errors = interpolate(there.T[:-1], there.T[-1])
    sizes = jnp.abs(terms)
    eps = float(jnp.finfo(dtype).eps)
    # The powers of T_k have coefficients of up to (3 + 2 sqrt 2)^k, which amplify
    # rounding errors: those of a single rounding have to stay below 1. (In float64 this
    # leaves all terms, in float32 ten.)
    kept = 1 + int(-math.log(eps) / math.log(3 + 2 * math.sqrt(2)))
    rest = jnp.sum(sizes[min(kept, NODES - 2) :], axis=0) + errors[0] + errors[1]
    size = jnp.sum(sizes, axis=0)
    # Coefficients of rounding errors would be large ones of powers.
    is_kept = jnp.asarray(np.arange(NODES) < kept)[:, None]
    terms = jnp.where(is_kept & (sizes > eps * size[None]), terms, 0)
    products = terms.T[:, :, None] * jnp.asarray(_POWERS, dtype)[None]
    rows, again = normalised(jnp.sum(products, axis=1))
    noise = noise_of(rows) + (rest + least * factors) * again
    is_resolved = rest <= _RESOLVED * (NOISE * eps * size + least * factors)
    return Interpolated(rows, noise, is_resolved)
