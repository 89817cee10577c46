"""What a step of `TaylorSolver` says of its error, and of the series behind it."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Real, Shaped

from ._custom_types import RealScalarLike


# The rounding errors of the defect, with room to spare, in units of the last place of
# the step's increment.
_NOISE = 4


class ErrorEstimate(eqx.Module):
    """The error of a step in one leaf of the state; and the last coefficients of the
    series at its end, which [`eqx_taylor.TaylorController`][] chooses the next step by.

    Diffrax hands the error of a step, and nothing else, from the solver to the step
    size controller. To every other controller this is an array, the error.

    **Fields:**

    - `error`: the estimate, of the shape of the leaf; real.
    - `last`: coefficients $K - 1$ and $K$ of the series at the end of the step.
    - `unit`: of time, for these coefficients; positive.
    """

    error: Real[Array, "*y"]
    last: Shaped[Array, "2 *y"]  # noqa: F821
    unit: RealScalarLike

    def __jax_array__(self) -> Array:
        return self.error


def defect(increment: Array, slope: Array, order: int) -> Real[Array, "*y"]:
    r"""The local error, to leading order, of a polynomial of this order.

    `increment` is what the vector field makes of the step at its end,
    $h f(t_1, p(t_1))$, and `slope` what the polynomial does, $h p'(t_1)$. Where
    $p = y - \epsilon$, and $\epsilon$ grows like $(t - t_0)^{K + 1}$, the difference of
    the two is $h\epsilon'(t_1) = (K + 1)\,\epsilon(t_1)$.
    """
    difference = jnp.abs(increment - slope)
    # What is below its rounding errors is not known, and must not steer: adjoints run
    # steps again, in another program, and would come to other steps by it.
    noise = _NOISE * jnp.finfo(increment.dtype).eps * jnp.abs(increment)
    return jnp.maximum(difference, noise) / (order + 1)


def probe_points(number: int) -> list[float]:
    """Points between 0 and 1, far from each other and from the ends, however many, and
    where nothing that is regular has its period: multiples of the golden ratio, less
    whole numbers."""
    golden = (math.sqrt(5) - 1) / 2
    return [i * golden % 1 for i in range(1, number + 1)]
