"""Powers whose exponent is known at run time only, or is differentiated itself.

Such an exponent may be 2, and the base zero: then there is nothing to divide by, and
the series ends. So the recurrences are for arrays of which some bases are zero, and
some exponents integers.
"""

import functools as ft
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._interpreter import primal_values, Walk
from .._jax import bind
from .._series import CONSTANT, convolve, mask, orders, Series
from .._terms import add, scale, Term
from ._define import read
from ._first import choice, first, largest, real_part


def power_at_run_time(walk: Walk, eqn, inputs) -> Series:
    """The output of `eqn`, which is `x ** v`, where `x` is differentiated."""
    shape = eqn.outvars[0].aval.shape
    x, exponent = inputs
    if x.aval.shape != shape or exponent.aval.shape != shape:
        # Scalars are broadcast by the primitive, and so are axes of size 1.
        x, exponent = read(
            walk,
            lambda *args: tuple(jnp.broadcast_to(arg, shape) for arg in args),
            inputs,
        )

    def value():
        return bind(eqn, primal_values(inputs))[0]

    rule = _power if exponent.is_constant else _moving_power
    return rule(walk, eqn.outvars[0].aval, x, exponent, value)


# With h = x / x_0, and p in arrays:
#
#   y_k = Σ_{j=1..k} (p j - (k - j)) h_j y_{k-j} / k
#
# Where x_0 is zero, and p is no integer, this is done for (1 + x)^p: y_k is zero below
# order p, and where that has a coefficient of zero, as it has if x stays zero; or else
# infinite.
def _power(walk: Walk, aval, x: Series, exponent: Series, value) -> Series:
    moving = orders(x.support & mask(walk.order) & ~CONSTANT)
    at_zero, is_product, p = _kinds(walk, aval, x, exponent)
    inputs = [x, exponent]
    support = walk.analytic_support([x])
    kind = _OnLine if len(moving) == 1 else _OnCurve

    def compute_base():
        return choice(at_zero[0], 1, x[0], x[0])

    def compute_h(j):
        return None if x[j] is None else lax.div(x[j], base[0])

    def compute_multiple(j):
        return scale(p[0], j)

    def compute_lower(k):
        terms = [product.term(j, k) for j in moving if j < k]
        return _sum([term for term in terms if term is not None])

    def compute_g(k):
        if k == 0:
            # 0^p is that of a product, too.
            return choice(is_singular[0], 1, y[0], y[0])
        total = lower[k]
        if x[k] is not None:
            last = lax.mul(lax.mul(multiple[k], h[k]), g[0])
        else:
            last = None
        regular = scale(add(total, last), 1 / k)
        if regular is None:
            return None
        # The highest order of x is in what is chosen, but never in the condition.
        return lax.select(is_product[0], product(k, total), regular)

    def compute(k):
        if k == 0:
            return value()
        return None if g[k] is None else singular(k, g[k], lower[k])

    y = Series(aval, support, compute)
    is_singular = first(
        walk, inputs, aval, lambda: at_zero[0] & ~is_product[0], dtype=bool
    )
    singular = _Singular(walk, aval, p, is_singular)
    base = first(walk, inputs, aval, compute_base)
    h = walk.auxiliary(Series(aval, x.support & ~CONSTANT, compute_h), inputs)
    multiple = Series(aval, x.support & ~CONSTANT, compute_multiple)
    multiple = walk.auxiliary(multiple, inputs)
    lower = Series(aval, support & ~CONSTANT, compute_lower)
    lower = walk.auxiliary(lower, inputs)
    g = walk.auxiliary(Series(aval, support, compute_g), inputs)
    product = kind(walk, aval, x, p, is_product, h, multiple, g)
    return y


class _OnLine:
    """The part of the recurrence with arrays, along `x = x_0 + x_m t^m`."""

    def __init__(self, walk: Walk, aval, x, p, is_product, h, multiple, g):
        self.p, self.h, self.multiple, self.g = p, h, multiple, g
        [m] = orders(x.support & mask(walk.order) & ~CONSTANT)

        def compute(k):
            if k == 0:
                return choice(is_product[0], x.dense(m), 0, p[0])
            # x_m^(k/m)
            return lax.mul(powers[k - m], powers[0]) if k > m else powers[0]

        self.m = m
        powers = Series(aval, g.support, compute)
        self.powers = walk.auxiliary(powers, [x, p])

    def term(self, j: int, k: int) -> Term:
        i = k - j
        h_j, g_i = self.h.factor(j), self.g.factor(i) if i > 0 else None
        if h_j is None or g_i is None:
            return None
        return lax.mul(lax.mul(self.multiple[j] - i, h_j), g_i)

    def __call__(self, k: int, total: Term) -> Any:
        """Where x_0 is zero, and p an integer."""
        return choice(self.p[0] == k // self.m, self.powers[k], 0, self.p[0])


# If p is 0, 1, 2, ..., and x = t^m z, then y begins with z_0^p at order s = p m, and
#
#   y_k = Σ_{j=1..k-1} (p j - (k - j - s)) z_j y_{k-j} / ((k - s) z_0)
#
# What is needed there of z is known by order k, as s is at least 2 m. (But if p is 1,
# when y is x.) Where x_0 is not zero, m is zero, z_0 is one and z_j is h_j.
class _OnCurve:
    """The part of the recurrence with arrays, along any curve."""

    def __init__(self, walk: Walk, aval, x, p, is_product, h, multiple, g):
        self.x, self.p, self.multiple, self.g = x, p, multiple, g
        self.half = half = walk.order // 2
        integers = jax.ShapeDtypeStruct(aval.shape, jnp.int32)
        flags = jax.ShapeDtypeStruct(aval.shape, bool)

        # Whether x is zero up to this order, and p an integer.
        def compute_empty(j):
            if j == 0:
                return is_product[0]
            return empty[j - 1] if x[j] is None else empty[j - 1] & (x[j] == 0)

        def compute_begins(j):
            if j == 0 or x[j] is None:
                return None
            return lax.ne(empty[j - 1], empty[j])

        def compute_m(k):
            if k == 0:
                return lax.full_like(p[0], 0, jnp.int32)
            return (
                m[k - 1] if x[k] is None else choice(begins[k], k, m[k - 1], m[k - 1])
            )

        def compute_s(k):
            if k > 0 and m[k] is m[k - 1]:
                return s[k - 1]
            return lax.mul(p[0], lax.convert_element_type(m[k], aval.dtype))

        def compute_rest(k):
            return k - s[min(k, half)]

        # Of z, where m is at most this.
        def compute_z(m):
            def compute(j):
                if m == 0:
                    return lax.full_like(p[0], 1) if j == 0 else h[j]
                lower, higher = z[m - 1][j], x[j + m]
                if begins[m] is None or lower is None and higher is None:
                    return lower
                zero = lax.full_like(p[0], 0)
                higher = zero if higher is None else higher
                return lax.select(begins[m], higher, zero if lower is None else lower)

            return compute

        # z_0^(k/m), where that is an integer.
        def compute_power(k):
            if k == 0:
                return lax.full_like(p[0], 1)
            m_k = m[min(k, half)]
            is_multiple = lax.rem(lax.full_like(m_k, k), m_k) == 0
            return choice(is_multiple, power[k - 1] * self.z_0(k), power[k - 1], p[0])

        def auxiliary(series, highest, compute):
            return walk.auxiliary(Series(series, mask(highest), compute), [x, p])

        empty = auxiliary(flags, half, compute_empty)
        begins = auxiliary(flags, half, compute_begins)
        m, s = auxiliary(integers, half, compute_m), auxiliary(aval, half, compute_s)
        self.s, self.rest = s, auxiliary(aval, walk.order, compute_rest)
        z = [auxiliary(aval, walk.order, compute_z(m)) for m in range(half + 1)]
        for ahead, series in enumerate(z):
            series.depend_on([x], ahead=ahead)
        self.z = z
        power = self.power = auxiliary(aval, walk.order, compute_power)
        self.is_one = first(
            walk, [x, p], aval, lambda: is_product[0] & (p[0] == 1), dtype=bool
        )

    def z_0(self, k: int) -> Any:
        return self.z[min(k, self.half)][0]

    def term(self, j: int, k: int) -> Term:
        i = k - j
        g_i = self.g.factor(i) if i > 0 else None
        # A series that begins at order m has a power that begins at 2 m or above.
        z_j = None if g_i is None else self.z[i // 2].factor(j)
        if z_j is None or g_i is None:
            return None
        return lax.mul(lax.mul(lax.sub(self.multiple[j], self.rest[i]), z_j), g_i)

    def __call__(self, k: int, total: Term) -> Any:
        """Where x_0 is zero, and p an integer."""
        begins = self.s[min(k, self.half)] == k
        divisor = lax.mul(self.rest[k], self.z_0(k))
        total = lax.full_like(divisor, 0) if total is None else total
        total = lax.div(total, choice(begins, 1, divisor, divisor))
        power = lax.select(begins, self.power[k], total)
        return lax.select(self.is_one[0], self.x.dense(k), power)


# y = exp(w), w = v log(x), y' = y w'. But not y_0, which would be wrong by w roundings.
#
# Where x_0 is zero, log(1 + x) takes the place of log(x). If v_0 is 0, 1, 2, ..., it is
# the exponent up to order v_0 + l, if v begins to move at order l: t^v_0 t^l log(t) is
# not smooth.
def _moving_power(walk: Walk, aval, x: Series, exponent: Series, value) -> Series:
    inputs = [x, exponent]

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
        if k == 0:
            return value()
        if g[k] is None:
            return None
        is_power = is_product[0] & (singular.r[0] + still[k] > k)
        other = singular(k, g[k], lower[k])
        # Not infinite, as there is a logarithm in it; but zero where x stays so.
        other = lax.select(is_product[0], lax.sub(other, other), other)
        return lax.select(is_power, power.dense(k), other)

    # For each order the l above, by the exponent's coefficients of lower order: so many
    # orders as it is known to rest, and one more.
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

    y = Series(aval, walk.analytic_support(inputs), compute)
    at_zero, is_product, p = _kinds(walk, aval, x, exponent)
    singular = _Singular(walk, aval, p, at_zero)
    power = _power(walk, aval, x, p, lambda: y[0])
    base = Series(aval, x.support | CONSTANT, compute_base)
    base = walk.auxiliary(base, inputs)
    [w] = read(walk, lambda x, v: v * lax.log(x), [base, exponent])
    lower = Series(aval, y.support & ~CONSTANT, compute_lower)
    lower = walk.auxiliary(lower, inputs)
    g = walk.auxiliary(Series(aval, y.support, compute_g), inputs)
    every = mask(walk.order)
    rests = walk.auxiliary(Series(aval, every, compute_rests), inputs)
    still = walk.auxiliary(Series(aval, every, compute_still), inputs)
    return y


def _kinds(walk: Walk, aval, x: Series, exponent: Series) -> tuple[Series, ...]:
    """Whether the base is zero and the exponent is not negative; whether moreover it is
    an integer; and the exponent."""

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
    """What coefficients become where the base is zero: zero below the order that is the
    exponent, and infinite above, unless they are zero."""

    def __init__(self, walk: Walk, aval, p: Series, where: Series):
        most = largest(aval)

        def array(compute, dtype=None):
            return first(walk, [p, where], aval, compute, dtype)

        self.r = array(lambda: real_part(p[0]))
        self.is_root = array(lambda: where[0] & (self.r[0] < 1), bool)
        self.is_other = array(lambda: where[0] & (self.r[0] >= 1), bool)
        self.of_root = array(lambda: choice(self.is_root[0], most, 1, p[0]))
        self.above = array(lambda: choice(self.is_other[0], most, 1, p[0]))
        self.below = array(lambda: choice(self.is_other[0], 0, 1, p[0]))

    def __call__(self, k: int, term: Any, lower: Term) -> Any:
        """Of a coefficient, and what of it is made without the highest order of x."""
        term = lax.mul(lax.mul(term, self.of_root[0]), self.of_root[0])
        if lower is None:
            return choice(self.is_other[0], 0, term, term)
        factor = lax.select(self.r[0] < k, self.above[0], self.below[0])
        # Nobody wants the derivative of what is zero or infinite.
        lower = lax.mul(lax.mul(lax.stop_gradient(lower), factor), self.above[0])
        return lax.select(self.is_other[0], lower, term)


def _sum(terms: list[Any]) -> Term:
    """Four sums side by side, as those of `products` are."""
    return ft.reduce(add, [ft.reduce(add, terms[i::4], None) for i in range(4)], None)
