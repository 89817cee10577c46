"""Error functions, gamma functions and beta functions."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._core.convolution import convolve
from .._core.protocols import JaxprEqn
from .._core.recurrence import output
from .._core.rule import otherwise, register, RULES
from .._core.series import CONSTANT, orders, product_support, Series
from .._core.terms import add, scale
from .._core.units import power_of_two
from .._core.walk import Walk
from .define import define_derivative
from .elementwise import bounded
from .rows import at_least_single, stacked, sum_of_rows, widened


# Functions that occur in slopes. Their bodies compute only coefficient 0. The others
# follow from the derivative in `defjvps`, which is a recurrence, as it calls the
# function.


@jax.custom_jvp
def gaussian(x):
    """Computes `exp(-x²)`. The error of `exp(-x * x)` would be about x² roundings."""
    info = jnp.finfo(x.dtype)
    # The high part has so few digits that its square is exact.
    high = lax.reduce_precision(x, info.nexp, info.nmant // 2 - 1)
    rest = (x - high) * (x + high)
    # For larger x the exponential is zero, and the square may overflow.
    rest = jnp.where(lax.abs(x) < 1e3, rest, 0)
    # XLA would replace a product of exponentials by the exponential of a sum.
    near = lax.exp(-high * high)
    return near + near * lax.expm1(-rest)


# g' = -2 x x' g, and 0 at infinity
gaussian.defjvps(lambda dx, g, x: -2 * (bounded(x) * (dx * gaussian(x))))


# -- error functions

_TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)

define_derivative("erf", lambda y, x, dx: _TWO_OVER_SQRT_PI * (dx * gaussian(x)))
define_derivative("erfc", lambda y, x, dx: -_TWO_OVER_SQRT_PI * (dx * gaussian(x)))


@jax.custom_jvp
def erf_inv_slope(x):
    """Computes `exp(y²) √π / 2` for y = `erf_inv(x)`, with a step of Newton's method,
    as the exponential amplifies the rounding error of y."""
    y = lax.erf_inv(x)
    size, far = lax.abs(y), lax.abs(x) > 0.5
    slope = 1 / (_TWO_OVER_SQRT_PI * gaussian(y))
    distance = lax.abs(x)
    excess = jnp.where(far, (1 - distance) - lax.erfc(size), lax.erf(size) - distance)
    refined = slope * (1 - 2 * size * (excess * slope))
    return jnp.where(lax.abs(x) < 1, refined, slope)


# s' = 2 y y' s, y' = s x'
erf_inv_slope.defjvps(
    lambda dx, s, x: 2 * (lax.erf_inv(x) * erf_inv_slope(x)) * (dx * erf_inv_slope(x))
)
define_derivative("erf_inv", lambda y, x, dx: dx * erf_inv_slope(x))


# -- incomplete gamma functions, in x


# The slope is g = x^(a-1) e^(-x) / Γ(a) (DLMF 8.8.13), for which
#
#   x g' = (a - 1 - x) x' g
#   k x_0 g_k = Σ_{j=1..k} (v_{j-1} - (k - j) x_j) g_{k-j},    v = (a - 1 - x) x'
#
# If a is an integer, this cancels for small x. Then g is entire, and is the first of
#
#   G_i = x^(a-1-i) e^(-x) / Γ(a-i),    G_i' = (G_{i+1} - G_i) x'
@register("igamma", "igammac")
def _igamma(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    a, x = inputs
    if not a.is_constant:
        return otherwise(walk, eqn, inputs)
    x = widened(walk, eqn, x)
    aval = eqn.outvars[0].aval
    number = walk.order
    row, rows = (
        jax.ShapeDtypeStruct((n, *x.aval.shape), x.aval.dtype) for n in (1, number)
    )
    sign = 1 if eqn.primitive.name == "igamma" else -1

    def first_operand():
        return jnp.broadcast_to(a[0], x.aval.shape).astype(x.aval.dtype)

    def is_entire():
        # For x of 8 and above the recurrence does not cancel, up to order 20 and
        # beyond.
        return (first_operand() == jnp.floor(first_operand())) & (x[0] < 8)

    def compute_densities(_):
        b = jnp.arange(number, dtype=x.aval.dtype)
        b = first_operand()[None] - b.reshape(-1, *[1] * x.aval.ndim)
        g = _gamma_density(b, jnp.asarray(x[0])[None])
        return jnp.concatenate([g[:1], jnp.where(is_entire()[None], g[1:], 0)])

    def compute_distance(k):
        if k > 0:
            return scale(x[k], -1)
        # The slope is zero at infinity, whatever its factors are.
        return jnp.where(jnp.isinf(x[0]), 0, first_operand() - 1 - x[0])

    def compute_velocity(k):
        term = convolve(lax.mul, x.derivative, distance, k)
        return None if term is None else lax.expand_dims(term, [0])

    def compute_step(k):
        return None if x[k] is None else lax.expand_dims(x[k], [0])

    def compute_scale(_):
        return jnp.where(is_entire() | jnp.isinf(x[0]), 1, x[0])

    # One sum at each order takes few equations.
    def compute_entire(k):
        if k == 0:
            return densities[0]
        moving = [j for j in orders(x.support) if 0 < j <= k]
        moving = [j for j in moving if x[j] is not None and lowered[k - j] is not None]
        if not moving:
            return None
        lower = stacked([lowered[k - j] for j in moving])
        steps = weighted(stacked([h[j] for j in moving]), [j / k for j in moving])
        return jnp.sum(lower * steps, axis=0)

    def compute_lowered(k):
        if entire[k] is None:
            return None
        # The row after the last one is missing. It affects no coefficient that is
        # needed.
        return lax.sub(lax.concatenate([entire[k][1:], entire[k][-1:]], 0), entire[k])

    def compute_singular(k):
        if k == 0:
            return densities[0][:1]
        total = None
        for factor, ahead in (velocity, 1), (h, 0):
            moving = [j for j in range(1, k + 1) if factor[j - ahead] is not None]
            moving = [j for j in moving if singular[k - j] is not None]
            if moving:
                weights = [1 / k if ahead else (j - k) / k for j in moving]
                steps = stacked([factor[j - ahead] for j in moving])
                lower = stacked([singular[k - j] for j in moving])
                term = jnp.sum(weighted(steps, weights) * lower, axis=0)
                total = add(total, term / scales[0][None])
        return total

    def weighted(steps, weights):
        weights = np.array(weights, steps.dtype)
        return steps * weights.reshape(-1, *[1] * (steps.ndim - 1))

    def compute_slope(k):
        if singular[k] is None or entire[k] is None:
            return None
        return jnp.where(is_entire(), entire[k][0], singular[k][0])

    def compute(k):
        total = convolve(lax.mul, x.derivative, slope, k - 1)
        if total is None:
            return None
        return lax.convert_element_type(scale(total, sign / k), aval.dtype)

    support = walk.analytic_support([x])
    densities = Series(rows, CONSTANT, compute_densities)
    velocities = product_support(x.support >> 1, x.support, walk.order)
    distance = Series(x.aval, x.support, compute_distance)
    velocity = Series(row, velocities, compute_velocity)
    h = Series(row, x.support, compute_step)
    scales = Series(x.aval, CONSTANT, compute_scale)
    entire = Series(rows, support, compute_entire)
    lowered = Series(rows, support, compute_lowered)
    singular = Series(row, support, compute_singular)
    slope = Series(x.aval, support, compute_slope)
    return [output(eqn, inputs, support, compute)]


def _gamma_density(b, x):
    """Computes `x^(b-1) e^(-x) / Γ(b)`, zero at the poles of Γ."""
    small = b < 10
    pole = (b <= 0) & (b == jnp.floor(b))
    decay = lax.exp(-x)
    regular = jnp.where(pole | ~small, 1, b)
    near = x ** (regular - 1) * decay * lax.exp(-lax.lgamma(regular))
    near = jnp.where(pole | (decay == 0), 0, near)
    # For large b these would cancel. With x = b (1 + m), the result is
    # exp(b (log(1 + m) - m) - (Stirling's correction)) √(b / 2π) / x.
    b = jnp.where(small, 10, b)
    m = (x - b) / b
    nonzero = jnp.where(x == 0, 1, x)
    close = _log1p_less(jnp.where(lax.abs(m) < 0.5, m, 0))
    exponent = b * jnp.where(lax.abs(m) < 0.5, close, lax.log(nonzero / b) - m)
    far = lax.exp(exponent - _stirling(b)) * lax.sqrt(b / (2 * math.pi)) / nonzero
    return jnp.where(small, near, jnp.where(x == 0, 0, far))


# -- incomplete beta function, in x


# The slope is x^(a-1) (1 - x)^(b-1) / B(a, b) (DLMF 8.17.1).
def _betainc_slope(y, a, b, x, da, db, dx):
    a, b, x = at_least_single(a, b, x)
    log_beta = lax.lgamma(a) + lax.lgamma(b) - lax.lgamma(a + b)
    powers = lax.pow(x, a - 1) * (lax.pow(1 - x, b - 1) * lax.exp(-log_beta))
    # If powers underflow, logarithms are used instead. They are less accurate, and not
    # finite at 0.
    logarithm = (a - 1) * lax.log(x) + (b - 1) * lax.log1p(-x)
    large = a + b > _LARGEST_POWERS
    density = jnp.where(large, lax.exp(logarithm - log_beta), powers)
    return dx * density.astype(dx.dtype)


_LARGEST_POWERS = 100

define_derivative("regularized_incomplete_beta", _betainc_slope)
_in_last_operand = RULES["regularized_incomplete_beta"].read


@register("regularized_incomplete_beta")
def _betainc(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    fixed = all(series.is_constant for series in inputs[:-1])
    return (_in_last_operand if fixed else otherwise)(walk, eqn, inputs)


def _log1p_less(m):
    """Computes `log(1 + m) - m` for |m| < 1/2. With r = m / (2 + m), log(1 + m) is
    2 artanh r, so the result is r (2 r² (1/3 + r²/5 + ...) - m)."""
    r = m / (2 + m)
    square = r * r
    total = jnp.zeros_like(m)
    for k in range(16, 0, -1):
        total = square * (total + 1 / (2 * k + 1))
    return r * (2 * total - m)


def _stirling(a):
    """Computes `log Γ(a) - (a - 1/2) log a + a - log(2π) / 2` for a >= 10 (DLMF
    5.11.1)."""
    total = jnp.zeros_like(a)
    for k in range(9, 0, -1):
        total = total / (a * a) + _BERNOULLI[k - 1] / (2 * k * (2 * k - 1))
    return total / a


# B_2, B_4, ... , B_24
_BERNOULLI = [
    *(1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510),
    *(43867 / 798, -174611 / 330, 854513 / 138, -236364091 / 2730),
]


# -- gamma functions

# All are Hurwitz's zeta function, up to a constant (DLMF 5.15.1, 25.11.12):
#
#   lgamma' = ψ,   ψ^(m) = (-1)^(m+1) Γ(m+1) ζ(m+1, x)
#
# This is a sum of powers of x + i, with a recurrence for each of them. It is scaled by
# u^s, with u near x, as u^s ζ(s, x) neither overflows nor vanishes.

define_derivative("lgamma", lambda y, x, dx: dx * lax.digamma(x))


@register("digamma")
def _digamma(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    return [
        _zeta_series(walk, eqn, inputs, jnp.ones_like, lambda s, u: -jnp.ones_like(u))
    ]


@register("polygamma")
def _polygamma(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    m, _ = inputs
    if not m.is_constant:
        return otherwise(walk, eqn, inputs)

    def exponent(x):
        return 1 + jnp.broadcast_to(m[0], x.shape).astype(x.dtype)

    def factor(s, u):
        return _sign(s) * lax.exp(lax.lgamma(s)) * (1 / u) ** (s - 1)

    return [_zeta_series(walk, eqn, inputs, exponent, factor)]


@register("zeta")
def _zeta(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    s, _ = inputs
    if not s.is_constant:
        return otherwise(walk, eqn, inputs)

    def exponent(x):
        return jnp.broadcast_to(s[0], x.shape).astype(x.dtype)

    def factor(s, u):
        return (1 / u) ** (s - 1)

    return [_zeta_series(walk, eqn, inputs, exponent, factor)]


def _zeta_series(
    walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series], exponent, factor
) -> Series:
    """Makes the output of `eqn`: `factor(s, u) u^(s-1) ζ(s, x)`, s = `exponent(x)`."""

    def rows(x, u):
        slope, linear, offset = _scaled_zeta(exponent(x), x, u)
        return slope / u, linear, offset

    def whole_factor(x, u):
        return factor(exponent(x), u)

    x = widened(walk, eqn, inputs[-1])
    number, unit = 3 * _ZETA_ROWS + 1, _distance_to_pole
    return sum_of_rows(walk, eqn, inputs, x, number, unit, rows, whole_factor)


def _sign(n):
    return jnp.where(n % 2 == 0, 1, -1).astype(n.dtype)


def _distance_to_pole(x):
    distance = jnp.where(x > 0, x, lax.abs(x - lax.round(x)))
    return power_of_two(jnp.where((distance == 0) | jnp.isinf(x), 1, distance))


# By Euler and Maclaurin's formula (DLMF 25.11.28), for x > 0
#
#   ζ(s, x) = Σ_{i<N} (x + i)^-s + w^(1-s) / (s - 1) + w^-s / 2
#             + Σ_j B_2j / (2j)! (s)_(2j-1) w^(-s-2j+1),        w = x + N
#
# where for s = 1 the second term is -log(w) up to a constant. With N = 8 and 11 terms
# of the last sum, the truncation error is below a rounding of the rest.
_SHIFT = 8
_TAIL = np.array([b / math.factorial(2 * j) for j, b in enumerate(_BERNOULLI[:11], 1)])
# Differences between the exponents and s.
_LOWER = np.concatenate(
    [np.zeros(_SHIFT), [-1, 0], 2 * np.arange(1, len(_TAIL) + 1) - 1]
)
_ZETA_ROWS = len(_LOWER)


def _scaled_zeta(s, x, u):
    """Computes the rows of `u^s ζ(s, x)` for s > 0, or for integers s if x < 0.

    For x < 0 it is the sum over all integers, which is one around the nearest pole at
    the distance d, minus the terms on the other side (DLMF 5.15.6).
    """
    negative = x < 0
    d = jnp.where(negative, x - lax.round(x), 0.25)
    sign = jnp.where(negative, _sign(s), 0)
    one = jnp.ones_like(x)
    turn, nearby = jnp.where(negative, -1, one), jnp.where(negative, u, 0.25)
    points = jnp.stack([jnp.where(negative, 1 - x, x), 1 + d, 1 - d], axis=1)
    units = jnp.stack([u, nearby, nearby], axis=1)
    turns = jnp.stack([turn, one, -one], axis=1)
    weights = jnp.stack(
        [jnp.where(negative, sign, 1), jnp.where(negative, one, 0), -sign], axis=1
    )
    column = (-1, *[1] * x.ndim)
    s = s[:, None]
    w = points + _SHIFT
    n = np.arange(1, len(_TAIL) + 1).astype(x.dtype).reshape(column)
    tail = lax.cumprod((s + (2 * n - 2)) / w * ((s + (2 * n - 1)) / w), axis=0)
    tail = _TAIL.astype(x.dtype).reshape(column) * (w * tail)
    shifts = np.arange(_SHIFT).astype(x.dtype).reshape(column)
    near, far = units / (points + shifts), units / w
    slope = [s * near ** (s + 1)]
    slope += [far ** (s + 1) * jnp.concatenate([w, s / 2 + 0 * w, tail])]
    slope = -weights * jnp.concatenate(slope)
    far = jnp.broadcast_to(far, (_ZETA_ROWS - _SHIFT, *far.shape[1:]))
    offset = turns * jnp.concatenate([near, far])
    linear = ((1 - s) - _LOWER.astype(x.dtype).reshape(column)) * offset
    # The term of the pole itself.
    s, q = s[:, 0], u / d
    pole = [jnp.where(negative, -s * q ** (s + 1), 0), (1 - s) * q, q]
    return tuple(
        jnp.concatenate([lax.collapse(rows, 0, 2), row])
        for rows, row in zip((slope, linear, offset), pole)
    )
