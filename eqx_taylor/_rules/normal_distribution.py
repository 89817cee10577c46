"""The logarithm of the normal distribution function."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import jax.scipy.special as jss
from jax import lax

from .._core.protocols import JaxprEqn
from .._core.series import Series
from .._core.units import power_of_two
from .._core.walk import Walk
from .compose import composed
from .rows import at_least_single
from .special import gaussian
from .within import register_within


# With X = -x, and Mills' ratio (DLMF 7.8.1)
#
#   Φ(x) = e^(-x²/2) / √2π M_0,       M_n = ∫_0^∞ s^n e^(-X s - s²/2) ds
#   M_0(X - h) = Σ_n h^n M_n / n!
#
# where for X > 0 the M_n are the minimal solution of M_{n+1} = n M_{n-1} - X M_n, which
# is computed downwards: M_n / M_{n-1} = n / (X + M_{n+1} / M_n). For other X the series
# is that of Φ itself. The logarithm of either series has a recurrence.


@register_within(jss.log_ndtr)
def _log_ndtr(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    def outer(x, u, n):
        x, u, n = at_least_single(x, u, n)
        far = x < -1.5
        mills = jnp.cumprod(
            _mills_ratios(jnp.where(far, -x, 1.5)[0], len(n)) * u / n, 0
        )
        phi = _normal_terms(jnp.where(far, 0, x)[0], u[0], len(n))
        logarithm = _logarithm(jnp.where(far, mills, phi))
        square = jnp.where(n == 1, -x * u, jnp.where(n == 2, -u * u / 2, 0))
        return logarithm + jnp.where(far, square, 0)

    def unit(x):
        return power_of_two(lax.max(lax.abs(x), jnp.ones_like(x)))

    [x] = inputs
    return composed(walk, eqn, inputs, x, unit, outer)


def _mills_ratios(x, number: int):
    """Computes the ratios `M_n / M_{n-1}` for n = 1, ..., `number`."""
    first = number + 200
    start = lax.stop_gradient(2 * first / (x + lax.sqrt(x * x + 4 * first)))

    def step(ratio, n):
        ratio = n / (x + ratio)
        return ratio, ratio

    numbers = 1 + jnp.arange(first, dtype=x.dtype)
    return lax.scan(step, start, numbers, reverse=True)[1][:number]


def _normal_terms(x, u, number: int):
    """Computes coefficients 1 to `number` of `Φ(x + u h) / Φ(x)`: (n + 1) n c_{n+1} =
    -u n x c_n - u² (n - 1) c_{n-1}."""
    value = 0.5 * lax.erfc(-x * math.sqrt(0.5))
    density = gaussian(x * math.sqrt(0.5)) / math.sqrt(2 * math.pi)
    terms = [jnp.zeros_like(x), u * density / value]
    for n in range(1, number):
        rest = x * (n * terms[n]) + u * ((n - 1) * terms[n - 1])
        terms.append(-u * rest / (n * (n + 1)))
    return jnp.stack(terms[1:])


def _logarithm(terms):
    """Computes coefficients of the logarithm of a series that begins with 1."""
    logs = []
    for n, term in enumerate(terms, 1):
        rest = [(j / n) * log * terms[n - j - 1] for j, log in enumerate(logs, 1)]
        logs.append(term - sum(rest))
    return jnp.stack(logs)
