"""Powers whose exponent is known only at run time, or is differentiated itself.

Such an exponent may be 2 while the base is zero: then nothing can be divided by the
base, and the series ends. So the recurrences are for arrays in which some bases are
zero, and some exponents are integers.
"""

import functools as ft
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from .._core.convolution import convolve
from .._core.protocols import JaxprEqn
from .._core.recurrence import output
from .._core.series import CONSTANT, mask, orders, Series
from .._core.terms import add, scale, Term
from .._core.units import power_of_two
from .._core.walk import Walk
from .compose import composed
from .define import read
from .first import choice, factor_where, first, largest, real_part


def power_at_run_time(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> Series:
    """Makes the output of `eqn`, which is `x ** v`, where `x` is differentiated."""
    shape = eqn.outvars[0].aval.shape
    x, exponent = inputs
    if x.aval.shape != shape or exponent.aval.shape != shape:
        # The primitive broadcasts scalars, and axes of size 1.
        x, exponent = read(
            walk,
            lambda *args: tuple(jnp.broadcast_to(arg, shape) for arg in args),
            inputs,
        )

    rule = _power if exponent.is_constant else _moving_power
    return rule(walk, eqn, inputs, x, exponent)


# With h = x / x_0, and p in arrays:
#
#   y_k = Σ_{j=1..k} (p j - (k - j)) h_j y_{k-j} / k
#
# Where x_0 is zero, this recurrence is applied to (1 + x)^p. If p is 0, 1, 2, ..., the
# coefficients of the power function, binomial(p, n) x_0^(p-n), are composed with the
# series of x instead, so that derivatives with respect to x_0 are correct, too. Values
# for p up to 7 elsewhere are also composed, as the recurrence loses ((p + 2) / p)^k
# roundings along a curve; but their derivatives, which may be with respect to p, are
# those of the recurrence. If p is not an integer, y_k is zero below order p, and where
# (1 + x)^p has a zero coefficient, as it has if x stays zero; otherwise it is infinite.
def _power(
    walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series], x: Series, exponent: Series
) -> Series:
    aval = eqn.outvars[0].aval
    moving = orders(x.support & mask(walk.order) & ~CONSTANT)
    at_zero, is_product, p = _kinds(walk, aval, x, exponent)
    both = [x, exponent]
    support = walk.analytic_support([x])

    def compute_base():
        return choice(at_zero[0], 1, x[0], x[0])

    def compute_h(j):
        return None if x[j] is None else lax.div(x[j], base[0])

    def compute_multiple(j):
        return scale(p[0], j)

    def term(j, k):
        h_j, g_i = h.for_products(j), g.for_products(k - j)
        if h_j is None or g_i is None:
            return None
        return lax.mul(lax.mul(multiple[j] - (k - j), h_j), g_i)

    def compute_lower(k):
        terms = [term(j, k) for j in moving if j < k]
        return _sum([term for term in terms if term is not None])

    def compute_g(k):
        if k == 0:
            return choice(at_zero[0], 1, y[0], y[0])
        last = None
        if x[k] is not None:
            last = lax.mul(lax.mul(multiple[k], h[k]), g[0])
        return scale(add(lower[k], last), 1 / k)

    def compute(k):
        if g[k] is None:
            return None
        by_recurrence = singular(k, g[k], lower[k])
        exact = product.dense(k)
        rest = lax.stop_gradient(exact - by_recurrence)
        rest = lax.select(is_polynomial[0], rest, nothing[0])
        return lax.select(is_product[0], exact, lax.add(by_recurrence, rest))

    def compute_is_polynomial():
        r = real_part(p[0])
        found = (r == lax.floor(r)) & (r >= 0) & (r <= 7) & ~at_zero[0]
        return found & (lax.imag(p[0]) == 0) if jnp.iscomplexobj(p[0]) else found

    def unit(x):
        size = lax.abs(x)
        return power_of_two(jnp.where(size == 0, 1, size)).astype(x.dtype)

    # Coefficients that are not used must not overflow, either.
    def outer(x, u, n):
        r, is_used = p[0][None], (is_product[0] | is_polynomial[0])[None]
        binomial = jnp.cumprod((r + 1 - n) / n, axis=0)
        left = jnp.where(is_used, real_part(r) - real_part(n), 0)
        # The power is a product, so that JAX has all of its derivatives. For powers
        # above the seventh, the derivatives at zero from the seventh on are wrong: they
        # are those of the seventh power.
        left = jnp.clip(left, 0, 7).astype(jnp.int32)
        factor, power = jnp.where(is_used, x, 1), jnp.ones_like(n * x)
        for bit in range(3):
            power = jnp.where((left >> bit) & 1 == 1, power * factor, power)
            factor = factor * factor
        return jnp.where(is_used & (binomial != 0), binomial * power * u**n, 0)

    y = output(eqn, inputs, support, compute)
    is_singular = first(
        walk, both, aval, lambda: at_zero[0] & ~is_product[0], dtype=bool
    )
    singular = _Singular(walk, aval, p, is_singular)
    is_polynomial = first(walk, both, aval, compute_is_polynomial, dtype=bool)
    nothing = first(walk, both, aval, lambda: lax.full_like(p[0], 0))
    base = first(walk, both, aval, compute_base)
    h = Series(aval, x.support & ~CONSTANT, compute_h)
    multiple = Series(aval, x.support & ~CONSTANT, compute_multiple)
    lower = Series(aval, support & ~CONSTANT, compute_lower)
    g = Series(aval, support, compute_g)
    [product] = composed(walk, eqn, inputs, x, unit, outer)
    return y


# y = exp(w), w = v log(x), y' = y w'. y_0 is the primitive's own value, as that of
# exp(w) has an error of w roundings.
#
# Where x_0 is zero, log(1 + x) replaces log(x). If v_0 is 0, 1, 2, ..., and v is
# constant below order l, the exponent is v_0 up to order v_0 + l: t^v_0 t^l log(t) is
# not smooth.
def _moving_power(
    walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series], x: Series, exponent: Series
) -> Series:
    aval = eqn.outvars[0].aval
    both = [x, exponent]

    def compute_base(k):
        return x[k] if k > 0 else choice(at_zero[0], 1, x[0], x[0])

    def compute_g(k):
        if k == 0:
            return choice(at_zero[0], 1, y[0], y[0])
        slope = w.derivative[k - 1]
        last = None if slope is None else lax.mul(g[0], slope)
        return scale(add(lower[k], last), 1 / k)

    def compute_lower(k):
        return convolve(lax.mul, g, w.derivative, k - 1, first=1)

    def compute(k):
        if g[k] is None:
            return None
        is_power = is_product[0] & (singular.r[0] + still[k] > k)
        other = singular(k, g[k], lower[k])
        # It contains a logarithm, so it is NaN, not infinite; or zero if x stays zero.
        other = lax.select(is_product[0], lax.sub(other, other), other)
        return lax.select(is_power, power.dense(k), other)

    # The l above, for each order, from the exponent's coefficients of lower order: one
    # more than the number of orders that are known to be zero.
    def compute_still(k):
        if k < 2:
            return lax.full_like(singular.r[0], k)
        return lax.add(still[k - 1], rests[k - 1])

    def compute_rests(k):
        if k == 0:
            return lax.full_like(singular.r[0], 1)
        if exponent[k] is None:
            return rests[k - 1]
        return choice(exponent[k] == 0, rests[k - 1], 0, rests[k - 1])

    y = output(eqn, inputs, walk.analytic_support(both), compute)
    at_zero, is_product, p = _kinds(walk, aval, x, exponent)
    singular = _Singular(walk, aval, p, at_zero)
    power = _power(walk, eqn, inputs, x, p)
    # The series is kept at once, as it is read here.
    base = walk.auxiliary(Series(aval, x.support | CONSTANT, compute_base), both)
    [w] = read(walk, lambda x, v: v * lax.log(x), [base, exponent])
    lower = Series(aval, y.support & ~CONSTANT, compute_lower)
    g = Series(aval, y.support, compute_g)
    every = mask(walk.order)
    rests = Series(aval, every, compute_rests)
    still = Series(aval, every, compute_still)
    return y


def _kinds(walk: Walk, aval, x: Series, exponent: Series) -> tuple[Series, ...]:
    """Returns whether the base is zero and the exponent is not negative; whether the
    exponent is an integer as well; and the exponent."""

    def compute_p():
        return lax.convert_element_type(exponent[0], aval.dtype)

    def compute_at_zero():
        return (x[0] == 0) & (real_part(p[0]) >= 0)

    def compute_is_product():
        r = real_part(p[0])
        is_integer = r == lax.floor(r)
        if jnp.iscomplexobj(p[0]):
            is_integer = is_integer & (lax.imag(p[0]) == 0)
        return at_zero[0] & is_integer

    inputs = [x, exponent]
    p = first(walk, inputs, aval, compute_p)
    at_zero = first(walk, inputs, aval, compute_at_zero, dtype=bool)
    return at_zero, first(walk, inputs, aval, compute_is_product, dtype=bool), p


class _Singular:
    """The change of coefficients where the base is zero. Those of orders below the
    exponent become zero, and others infinite, unless they are zero."""

    def __init__(self, walk: Walk, aval, p: Series, where: Series):
        most = largest(aval)

        def array(compute, dtype=None):
            return first(walk, [p, where], aval, compute, dtype)

        self.r = array(lambda: real_part(p[0]))
        self.is_root = array(lambda: where[0] & (self.r[0] < 1), bool)
        self.is_other = array(lambda: where[0] & (self.r[0] >= 1), bool)
        self.of_root = array(lambda: factor_where(self.is_root[0], most, p[0]))
        self.above = array(lambda: factor_where(self.is_other[0], most, p[0]))
        self.below = array(lambda: choice(self.is_other[0], 0, 1, p[0]))

    def __call__(self, k: Any, term: Any, lower: Term) -> Any:
        """Changes coefficient `k`, which is `term`. `lower` is the part of it without
        the highest order of x."""
        term = lax.mul(lax.mul(term, self.of_root[0]), self.of_root[0])
        if lower is None:
            return choice(self.is_other[0], 0, term, term)
        factor = lax.select(self.r[0] < k, self.above[0], self.below[0])
        # Coefficients that are zero or infinite have no useful derivative.
        lower = lax.mul(lax.mul(lax.stop_gradient(lower), factor), self.above[0])
        return lax.select(self.is_other[0], lower, term)


def _sum(terms: list[Any]) -> Term:
    """Adds terms in four sums side by side, as `products` does."""
    return ft.reduce(add, [ft.reduce(add, terms[i::4], None) for i in range(4)], None)
