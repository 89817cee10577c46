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
from jaxtyping import Array, Bool, Float

from .interpolated import interpolate
from .roots import NOISE


# What is not known of a condition is less than so many times the last coefficients, and
# the errors where it is compared. With coefficients that fall by a factor of q each,
# interpolation has an error of 2 q / (1 - q) of the last one: this holds to q = 8/9.
REST = 16


def stay_away_from_zero(
    start: Float[Array, " conditions"],
    inside: Float[Array, "points conditions"],
    end: Float[Array, " conditions"],
) -> Bool[Array, " conditions"]:
    """Whether each condition is on the side of zero on which it starts, all along the
    step, by its values at the ends and at the `POINTS` inside."""
    terms, errors = interpolate(inside, end)
    sizes = jnp.abs(terms)
    rest = sizes[-2] + sizes[-1] + errors[0] + errors[1]
    change = jnp.sum(sizes[1:], axis=0)
    noise = NOISE * float(jnp.finfo(inside.dtype).eps) * (sizes[0] + change)
    is_above = sizes[0] - change - REST * rest > noise
    return is_above & (jnp.sign(start) * terms[0] > 0)
