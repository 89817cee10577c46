"""Steps along which conditions stay away from zero, by their values at some points.

The values are interpolated by a polynomial, whose coefficients in Chebyshev's basis
bound it. For a large state this takes a tenth of the instructions that the Taylor
series of a condition takes. Their number is what counts there: the program of a step is
longer than the processor's caches, and most of the time is that of loading it. (One,
three and ten distances of planets in the outer Solar System add 8, 26 and 24 % to a
step of order 20, and by their series 17, 32 and 111 %.) A small state is looked at by
series, as the arrays here would make its solve too large to be one piece of machine
code.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .error_estimate import probe_points
from .roots import NOISE


# A step is shorter than the radius of convergence by a factor of e^2, if the order
# suits the tolerance (Jorba and Zou). The coefficients of a smooth condition then fall
# by a factor of 27 each, and half as many nodes would do. This many are as near to each
# other as the points at which a condition is looked at that is not its series.
_NODES = 16
# What is not known of a condition is less than so many times the last coefficients, and
# the errors where it is compared. With coefficients that fall by a factor of q each,
# interpolation has an error of 2 q / (1 - q) of the last one: this holds to q = 8/9.
_REST = 16

_ANGLES = (np.arange(_NODES) + 0.5) * np.pi / _NODES
# Chebyshev's nodes of the first kind; and the point inside of the step at which the
# vector field is looked at as well. At the end of the step those polynomials are seen
# that vanish at the nodes, or are taken for a constant: T_16, T_32 and T_48.
POINTS: np.ndarray = np.array([*(1 + np.cos(_ANGLES)) / 2, *probe_points(1)])


def _matrix() -> np.ndarray:
    """Maps values at the nodes to coefficients, and to the values of the polynomial at
    the point inside and at the end."""
    k = np.arange(_NODES)
    to_terms = np.where(k == 0, 1, 2)[:, None] / _NODES * np.cos(np.outer(k, _ANGLES))
    others = np.arccos(2 * np.array([POINTS[-1], 1.0]) - 1)
    return np.concatenate([to_terms, np.cos(np.outer(others, k)) @ to_terms])


_MATRIX = _matrix()


def stay_away_from_zero(
    start: Float[Array, " conditions"],
    inside: Float[Array, "points conditions"],
    end: Float[Array, " conditions"],
) -> Bool[Array, " conditions"]:
    """Whether each condition is on the side of zero on which it starts, all along the
    step, by its values at the ends and at the `POINTS` inside."""
    nodes, probe = inside[:_NODES], inside[_NODES]
    products = jnp.asarray(_MATRIX, inside.dtype)[:, :, None] * nodes[None]
    found = jnp.sum(products, axis=1)
    terms, by_terms = found[:_NODES], found[_NODES:]
    sizes = jnp.abs(terms)
    errors = jnp.abs(jnp.stack([probe, end]) - by_terms)
    rest = sizes[-2] + sizes[-1] + errors[0] + errors[1]
    change = jnp.sum(sizes[1:], axis=0)
    noise = NOISE * float(jnp.finfo(inside.dtype).eps) * (sizes[0] + change)
    is_above = sizes[0] - change - _REST * rest > noise
    return is_above & (jnp.sign(start) * terms[0] > 0)
