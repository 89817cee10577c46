"""Roots and powers."""

import math

import jax.numpy as jnp
from jax import lax

from .._interpreter import (
    OTHERWISE,
    primal_values,
    register,
    RULES,
    Walk,
)
from .._jax import bind, is_literal
from .._series import convolve, convolve_square, disjoined, products, Series
from .._terms import scale, sub
from ._compose import composed, power_of_two
from ._define import read, rewritten
from .products import repeated_product


# y² = x  =>  y_k = (x_k - Σ_{j=1..k-1} y_j y_{k-j}) / (2 y_0)
@register("sqrt")
def _sqrt(walk: Walk, eqn, inputs) -> list[Series]:
    [x] = inputs

    def compute(k):
        if k == 0:
            return bind(eqn, primal_values(inputs))[0]
        rest = sub(x[k], convolve_square(y, k, first=1))
        return None if rest is None else lax.div(rest, 2 * y[0])

    y = Series(eqn.outvars[0].aval, walk.analytic_support(inputs), compute)
    return [y]


@register("rsqrt")
def _rsqrt(walk: Walk, eqn, inputs) -> list[Series]:
    return [_power(walk, eqn, inputs, -1 / 2)]


@register("cbrt")
def _cbrt(walk: Walk, eqn, inputs) -> list[Series]:
    return [_power(walk, eqn, inputs, 1 / 3)]


@register("integer_pow")
def _integer_pow(walk: Walk, eqn, inputs) -> list[Series]:
    return [_constant_power(walk, eqn, inputs, float(eqn.params["y"]))]


@register("pow")
def _pow(walk: Walk, eqn, inputs) -> list[Series]:
    base, exponent = inputs
    if base.is_constant:
        # y' = y log(x) v', and 0 at x = 0.
        return RULES[OTHERWISE](walk, eqn, inputs)
    if not exponent.is_constant:
        return [_moving_power(walk, eqn, inputs)]
    if is_literal(eqn.invars[1]):
        value = complex(eqn.invars[1].val)
        if value.imag == 0:
            return [_constant_power(walk, eqn, inputs, value.real)]
    if jnp.issubdtype(exponent.aval.dtype, jnp.complexfloating):
        return RULES[OTHERWISE](walk, eqn, inputs)
    return _power_at_run_time(walk, eqn, inputs)


_LARGEST_PRODUCT = 2**16


def _constant_power(walk: Walk, eqn, inputs, exponent: float) -> Series:
    if float(exponent).is_integer() and 0 <= exponent <= _LARGEST_PRODUCT:
        return rewritten(
            walk, eqn, inputs, lambda x, *_: repeated_product(x, int(exponent))
        )
    return _power(walk, eqn, inputs, exponent)


# x y' = r x' y  =>  y_k = Σ_{j=1..k} (r j - (k - j)) x_j y_{k-j} / (k x_0)
#
# At x_0 = 0 orders below r are zero, as the sums are. The first above r is not finite;
# the others follow from it.
def _power(walk: Walk, eqn, inputs, exponent: float) -> Series:
    x = inputs[0]
    aval = eqn.outvars[0].aval
    is_integer = float(exponent).is_integer()
    singular = math.floor(exponent) + 1

    def divide(term, k):
        x_0 = x[0] if term.shape == x.aval.shape else x.factor(0, x.aval.shape)
        if k < exponent:
            return lax.div(term, jnp.where(x_0 == 0, 1, x_0))
        # Roots do not go on below a negative zero.
        return lax.div(term, x_0 if is_integer else jnp.where(x_0 == 0, 0, x_0))

    def compute(k):
        if k == 0:
            return bind(eqn, primal_values(inputs))[0]
        weights = ((j, k - j, (exponent * j - (k - j)) / k) for j in range(1, k + 1))
        total = products(x, factor, (pair for pair in weights if pair[-1] != 0))
        if total is None:
            return None
        if exponent < 0:
            total = divide(total, k)
        total = disjoined(total, x, factor)
        if k != singular or x[1] is None or jnp.iscomplexobj(x[1]):
            return total
        # binomial(r, k) x_1^k x_0^(r-k), where the binomial coefficient is positive.
        sign = lax.sign(x[1]) if k % 2 else lax.abs(lax.sign(x[1]))
        return jnp.where(x[0] == 0, sign * math.inf, total)

    def compute_quotient(k):
        return None if y[k] is None else divide(y[k], k)

    support = walk.analytic_support(inputs)
    y = Series(aval, support, compute)
    if exponent < 0:
        factor = y
    else:
        # y / x, in whose place x_j y_{k-j} might overflow where y does not.
        factor = walk.auxiliary(Series(aval, support, compute_quotient), [x])
    return y


# y = exp(w), w = v log(x), y' = y w'. But not y_0, which would be wrong by w roundings.
def _moving_power(walk: Walk, eqn, inputs) -> Series:
    [w] = read(walk, lambda x, v: v * lax.log(x), inputs)

    def compute(k):
        if k == 0:
            return bind(eqn, primal_values(inputs))[0]
        return scale(convolve(lax.mul, w.derivative, y, k - 1), 1 / k)

    y = Series(eqn.outvars[0].aval, walk.analytic_support(inputs), compute)
    return y


# The exponent may be 2, and x zero: then there is nothing to divide by, and the series
# ends. So the coefficients of the power function itself, binomial(r, n) x^(r-n), are
# composed with the series of x.
def _power_at_run_time(walk: Walk, eqn, inputs) -> list[Series]:
    x, exponent = inputs

    def unit(x):
        size = lax.abs(x)
        return power_of_two(jnp.where(size == 0, 1, size)).astype(x.dtype)

    def outer(x, u, n):
        r = jnp.broadcast_to(exponent[0], x.shape).astype(n.dtype)
        binomial = jnp.cumprod((r + 1 - n) / n, axis=0)
        elsewhere = x**r * (u / jnp.where(x == 0, 1, x)) ** n
        terms = binomial * jnp.where(x == 0, x ** (r - n), elsewhere)
        return jnp.where(binomial == 0, 0, terms)

    return composed(walk, eqn, inputs, x, unit, outer)
