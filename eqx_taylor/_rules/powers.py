"""Roots and powers.

If the base is zero, a power has a series for exponents 0, 1, 2, ...; and for all
positive exponents if the base stays zero, like the norm of a body at rest, or a result
of `relu`. In the latter case all coefficients are zero. So here zero over zero is zero,
and everything else over zero is infinite. Conditions depend only on coefficients 0, and
the highest coefficient enters linearly, so that sums over directions can be collapsed.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from .._core.convolution import convolve_square, convolve_weighted, disjoined
from .._core.jax import is_literal
from .._core.order import tabulated
from .._core.protocols import JaxprEqn
from .._core.recurrence import output
from .._core.rule import otherwise, register
from .._core.series import CONSTANT, mask, orders, Series
from .._core.terms import add, scale, sub, Term
from .._core.walk import Walk
from .define import rewritten
from .first import choice, factor_where, first, largest
from .products import repeated_product
from .variable_powers import power_at_run_time


# y² = x  =>  y_k = (x_k - Σ_{j=1..k-1} y_j y_{k-j}) / (2 y_0)
@register("sqrt")
def _sqrt(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    [x] = inputs
    aval = eqn.outvars[0].aval

    def compute(k):
        rest = sub(x[k], convolve_square(y, k, first=1))
        if rest is None:
            return None
        return lax.div(lax.mul(rest, factor[0]), divisor[0])

    y = output(eqn, inputs, walk.analytic_support(inputs), compute)
    most = largest(aval)
    least = float(jnp.finfo(aval.dtype).tiny)
    at_zero = first(walk, inputs, aval, lambda: x[0] == 0, bool)
    # These factors make a coefficient infinite where x is zero, unless it is zero.
    factor = first(walk, inputs, aval, lambda: factor_where(at_zero[0], most, x[0]))
    divisor = first(
        walk, inputs, aval, lambda: choice(at_zero[0], least, 2 * y[0], x[0])
    )
    return [y]


@register("rsqrt")
def _rsqrt(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    return [_negative_power(walk, eqn, inputs, -1 / 2)]


@register("cbrt")
def _cbrt(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    return [_positive_power(walk, eqn, inputs, 1 / 3)]


@register("integer_pow")
def _integer_pow(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    return [_constant_power(walk, eqn, inputs, float(eqn.params["y"]))]


@register("pow")
def _pow(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    base, exponent = inputs
    if base.is_constant:
        # y' = y log(x) v', and 0 at x = 0.
        return otherwise(walk, eqn, inputs)
    if exponent.is_constant and is_literal(eqn.invars[1]):
        value = complex(eqn.invars[1].val)
        if value.imag == 0:
            return [_constant_power(walk, eqn, inputs, value.real)]
    return [power_at_run_time(walk, eqn, inputs)]


_LARGEST_PRODUCT = 2**16


def _constant_power(
    walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series], exponent: float
) -> Series:
    if float(exponent).is_integer() and 0 <= exponent <= _LARGEST_PRODUCT:
        return rewritten(
            walk, eqn, inputs, lambda x, *_: repeated_product(x, int(exponent))
        )
    if exponent < 0:
        return _negative_power(walk, eqn, inputs, exponent)
    return _positive_power(walk, eqn, inputs, exponent)


# x y' = r x' y  =>  y_k = Σ_{j=1..k} (r j - (k - j)) x_j y_{k-j} / (k x_0)
def _weighted(exponent: float, x: Series, y: Series, k: Any) -> Term:
    return convolve_weighted(x, y, k, lambda j, k: (exponent * j - (k - j)) / k)


def _negative_power(
    walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series], exponent: float
) -> Series:
    x = inputs[0]

    def compute(k):
        total = _weighted(exponent, x, y, k)
        if total is None:
            return None
        shape = None if total.shape == x.aval.shape else x.aval.shape
        total = lax.div(total, divisor.for_products(0, shape) if shape else divisor[0])
        return disjoined(total, x, y)

    def compute_divisor():
        if float(exponent).is_integer():
            return x[0]
        # A negative zero is replaced by zero, as roots are not continued below it.
        return choice(x[0] == 0, 0, x[0], x[0])

    y = output(eqn, inputs, walk.analytic_support(inputs), compute)
    divisor = first(walk, [x], x.aval, compute_divisor)
    return y


def _positive_power(
    walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series], exponent: float
) -> Series:
    x = inputs[0]
    aval = eqn.outvars[0].aval
    most = largest(aval)

    def compute(k):
        total = _weighted(exponent, x, quotient, k)
        if total is None:
            return None
        total = disjoined(total, x, quotient)
        if exponent < 1:
            return lax.mul(total, infinite[0])
        is_below = k < exponent
        if is_below is True:
            return total
        where = at_zero[0]
        if is_below is not False:
            where = where & ~is_below.scalar(bool)
        return lax.select(where, compute_at_zero(k), total)

    # The quotient is y / x, as products x_j y_{k-j} might overflow where y does not.
    def compute_quotient(k):
        ratio = None if y[k] is None else lax.div(y[k], divisor[0])
        if k == 0 and exponent < 1:
            # Its product with x_k is infinite, or zero.
            return choice(at_zero[0], most, ratio, x[0])
        return ratio

    # If x begins at order m, y begins at order r m, and is infinite above that. So y_k
    # is infinite if x has a nonzero coefficient up to order k / r. If m is 1, the sign
    # is that of the limit, of binomial(r, k) x_1^k.
    def compute_at_zero(k):
        last = tabulated(lambda k: highest(lambda j: j <= k / exponent), k)
        if size[last] is None:
            return lax.full_like(x[0], 0)
        sign = tabulated(sign_of, k)
        term = scale(lax.mul(size[last], infinite[0]), sign)
        turn = tabulated(lambda k: -1 if k % 2 else 1, k)
        is_real = not jnp.issubdtype(aval.dtype, jnp.complexfloating)
        moves = turn != 1
        if is_real and moves is not False and x[1] is not None:
            term = lax.select(x[1] < 0, scale(term, turn), term)
        return lax.mul(term, infinite[0])

    def sign_of(k):
        return math.prod(1 if exponent > j else -1 for j in range(k))

    def highest(condition):
        """Returns the last order of x above 0 that fulfils the condition, or 0."""
        return max((j for j in moving if condition(j)), default=0)

    def compute_size(j):
        total = size[tabulated(lambda j: highest(lambda i: i < j), j)]
        if x[j] is None:
            return total
        # Coefficients that are zero or infinite have no useful derivative.
        term = lax.abs(lax.stop_gradient(x[j]))
        term = lax.convert_element_type(term, aval.dtype)
        return add(total, choice(at_zero[0], term, 0, x[0]))

    support = walk.analytic_support(inputs)
    moving = orders(x.support & mask(walk.order) & ~CONSTANT)
    y = output(eqn, inputs, support, compute)
    at_zero = first(walk, [x], aval, lambda: x[0] == 0, bool)
    divisor = first(walk, [x], aval, lambda: choice(at_zero[0], 1, x[0], x[0]))
    quotient = Series(aval, support, compute_quotient)
    infinite = first(walk, [x], aval, lambda: factor_where(at_zero[0], most, x[0]))
    if exponent > 1:
        size = Series(aval, x.support & ~CONSTANT, compute_size)
    return y
