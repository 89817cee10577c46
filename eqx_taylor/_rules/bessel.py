"""The scaled modified Bessel functions `i0e` and `i1e`."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jax.scipy.special as jss
import numpy as np
from jax import lax

from .._core.jax import trace
from .._core.protocols import JaxprEqn
from .._core.rule import register
from .._core.series import CONSTANT, orders, Series
from .._core.units import power_of_two
from .._core.walk import Walk
from .compose import composed
from .define import rewritten
from .rows import at_least_single, sum_of_rows, widened
from .within import register_within


# i0e contains |x|, and i1e x |x|. At 0 they have JAX's derivatives, in which the slope
# of |x| is zero: those of I_0 and I_1. But if JAX defines I_0 as `exp(abs(x)) *
# i0e(x)`, with the slope of `abs` from the right, i0e and i1e have that slope, too, as
# otherwise the product would be wrong.

FROM_THE_RIGHT = any(
    eqn.primitive.name == "bessel_i0e"
    for eqn in trace(
        lambda x: [jss.i0(x)], jax.ShapeDtypeStruct((), jnp.float32)
    ).jaxpr.eqns
)

# Up to this order, composition is as accurate along curves as the sums, and takes a
# tenth of their time and memory.
_LOW = 4


@register("bessel_i0e", "bessel_i1e")
def _bessel(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    order = int(eqn.primitive.name == "bessel_i1e")
    [x] = inputs
    # Along a line there is a single power of the step at each order, so nothing
    # cancels.
    if walk.order <= _LOW or len(orders(x.support & ~CONSTANT)) == 1:
        return _composed(walk, eqn, inputs, order)
    return [_summed(walk, eqn, inputs, order)]


def _unit(x):
    return power_of_two(lax.max(lax.abs(x), jnp.ones_like(x)))


# -- by composition

# For x > 0 (DLMF 10.32.2, with v = 1 - cos θ)
#
#   i0e(x + h) = Σ_n (-h)^n / n! M_n,             M_n = (1/π) ∫ v^n e^(-x v) dθ
#   i1e(x + h) = Σ_n (-h)^n / n! (M_n - M_{n+1})
#
# This avoids i0e' = i1e - i0e, which cancels for large x. The moments satisfy
# x M_{n+2} = (n + 1 + 2 x) M_{n+1} - (2 n + 1) M_n. They are the minimal solution,
# which is computed from ratios downwards, as a continued fraction.


def _composed(
    walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series], order: int
) -> list[Series]:
    def outer(x, u, n):
        x, u, n = at_least_single(x, u, n)
        # M_{n+1} / M_n from n = 0 on.
        ratios = _moment_ratios(lax.abs(x[0]), walk.order + 1)
        moments = lax.bessel_i0e(x) * jnp.cumprod(ratios[:-1] * u / n, axis=0)
        sign = lax.sign(x)
        if FROM_THE_RIGHT:
            sign = jnp.where(x == 0, 1, sign)
        if order:
            moments = moments * (1 - ratios[1:]) * sign
        moments = moments * jnp.where(n % 2 == 0, 1, -sign)
        if FROM_THE_RIGHT:
            return moments
        # At zero the slope of |x| counts as zero, which leaves I_0 and I_1.
        k = (n - order) / 2
        log_factorials = lax.lgamma(k + 1) + lax.lgamma(k + 1 + order)
        at_zero = 0.5**n * lax.exp(-log_factorials)
        at_zero = jnp.where(n % 2 == order, at_zero, 0) * u**n
        return jnp.where(x == 0, at_zero, moments)

    return composed(walk, eqn, inputs, inputs[0], _unit, outer)


def _moment_ratios(x, number: int):
    """Computes the ratios `M_{n+1} / M_n` for n = 0, ..., `number - 1`."""
    first = number + 80
    start = jnp.where(x < first / 2, 2, (first + 0.5) / lax.max(x, jnp.ones_like(x)))

    def step(ratio, n):
        ratio = (2 * n + 1) / (n + 1 + x * (2 - ratio))
        return ratio, ratio

    numbers = jnp.arange(first, dtype=x.dtype)
    _, ratios = lax.scan(step, lax.stop_gradient(start), numbers, reverse=True)
    return ratios[:number]


# -- along curves

# For 0 <= x < 60 the integral over a period (DLMF 10.32.1, 10.32.3, with v = 1 - cos θ)
# is its trapezoidal sum, a sum of exponentials, whose error for N points is 2 I_N(x).
# For larger x it is the asymptotic series (DLMF 10.40.1), a sum of powers:
#
#   i0e(x) = (1/π) ∫ e^(-x v) dθ,          i1e(x) = (1/π) ∫ cos θ e^(-x v) dθ
#   iνe(x) = Σ_n a_n(ν) x^(-n-1/2) / √2π,  a_n = Π_{m=1..n} ((2m-1)² - 4ν²) / (8m)
#
# No large terms cancel, unlike in i0e' = i1e - i0e. At 60, where both sums have their
# largest error, it is below a rounding of the coefficients on the scale of x, up to
# order 20 for 128 points.


def _summed(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series], order: int) -> Series:
    # The other half of the points is a mirror image.
    angles = 2 * np.pi * np.arange(_POINTS // 2 + 1) / _POINTS

    def rows(x, u):
        return _rows(x, u, order, angles)

    x = widened(walk, eqn, inputs[0])
    return sum_of_rows(walk, eqn, inputs, x, len(angles) + _TERMS, _unit, rows)


_POINTS = 128
_TERMS = 45
# For larger x the error of the series is below a rounding of coefficient 20.
_FAR = 60


def _rows(x, u, order: int, angles: np.ndarray):
    column = (-1, *[1] * (x.ndim - 1))
    turn = jnp.where(x < 0, -1, jnp.ones_like(x))
    sign = turn if order else 1
    size, far = lax.abs(x), lax.abs(x) >= _FAR
    # 1 - cos θ, in a form that does not cancel. The ends are their own mirror images.
    v = (2 * np.sin(angles / 2) ** 2).astype(x.dtype).reshape(column)
    cosine = np.cos(angles).astype(x.dtype).reshape(column)
    weights = np.cos(angles) ** order / (len(angles) - 1)
    weights[[0, -1]] /= 2
    weights = weights.astype(x.dtype).reshape(column)
    rate = -v * (turn * u)
    if not FROM_THE_RIGHT:
        rate = jnp.where(x == 0, cosine * u, rate)
    near = sign * weights * rate * lax.exp(-v * jnp.where(far, 0, size))
    m = np.arange(1, _TERMS)
    terms = np.cumprod(((2 * m - 1) ** 2 - 4 * order) / (8 * m * _FAR))
    terms = np.concatenate([[1], terms]).astype(x.dtype).reshape(column)
    n = np.arange(_TERMS).astype(x.dtype).reshape(column)
    base = jnp.where(far, size, _FAR)
    q = turn * u / base
    beyond = sign * terms * (-(n + 0.5) * q) * (_FAR / base) ** n
    beyond = beyond * lax.rsqrt(2 * math.pi * base)
    slope = [jnp.where(far, 0, near), jnp.where(far, beyond, 0)]
    offset = [jnp.zeros_like(rate), jnp.broadcast_to(q, beyond.shape)]
    linear = [rate, (0.5 - n) * q]
    slope, linear, offset = map(jnp.concatenate, (slope, linear, offset))
    return slope, linear, offset


# -- I_0 and I_1, which have a `custom_jvp`: those of `jax.scipy` on newer JAX only
#
# At zero |x| has the same slope in both factors, which cancels.


def _define_bessel(fun, scaled):
    @register_within(fun)
    def bessel(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
        def product(x, **_):
            size = lax.abs(x) if FROM_THE_RIGHT else x * lax.sign(x)
            return lax.exp(size) * scaled(x)

        return [rewritten(walk, eqn, inputs, product)]


_define_bessel(jss.i0, lax.bessel_i0e)
_define_bessel(jnp.i0, lax.bessel_i0e)
_define_bessel(jss.i1, lax.bessel_i1e)
