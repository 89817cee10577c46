"""Elementwise functions: most are a differential equation each."""

import functools as ft
import math

import jax.numpy as jnp
from jax import lax

from .._interpreter import (
    constant_rule,
    OTHERWISE,
    primal_values,
    register,
    RULES,
    Walk,
)
from .._jax import bind, is_literal
from .._series import add, convolve, convolve_square, scale, Series, sub
from ._define import (
    define_derivative,
    define_piecewise_linear,
    define_rewrite,
    piecewise_linear_rule,
    rewritten,
)
from .products import repeated_product


# -- y' = g(x, y) x'

define_derivative("exp", lambda y, x, dx: dx * y)
define_derivative("exp2", lambda y, x, dx: dx * (math.log(2) * y))
define_derivative("log", lambda y, x, dx: dx / x)
define_derivative("log2", lambda y, x, dx: dx / (math.log(2) * x))
define_derivative("log1p", lambda y, x, dx: dx / (1 + x))

define_derivative("sin", lambda y, x, dx: dx * lax.cos(x))
define_derivative("cos", lambda y, x, dx: -dx * lax.sin(x))
define_derivative("tan", lambda y, x, dx: dx * (1 + y * y))
define_derivative("sinh", lambda y, x, dx: dx * lax.cosh(x))
define_derivative("cosh", lambda y, x, dx: dx * lax.sinh(x))

define_derivative("asin", lambda y, x, dx: dx / lax.sqrt((1 - x) * (1 + x)))
define_derivative("acos", lambda y, x, dx: -dx / lax.sqrt((1 - x) * (1 + x)))
define_derivative("atan", lambda y, x, dx: dx / (1 + x * x))
define_derivative("asinh", lambda y, x, dx: dx / lax.sqrt(1 + x * x))
define_derivative("acosh", lambda y, x, dx: dx / (lax.sqrt(x - 1) * lax.sqrt(x + 1)))
define_derivative("atanh", lambda y, x, dx: dx / ((1 - x) * (1 + x)))
define_derivative(
    "atan2", lambda angle, y, x, dy, dx: (x * dy - y * dx) / (x * x + y * y)
)

_TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)
define_derivative("erf", lambda y, x, dx: _TWO_OVER_SQRT_PI * dx * lax.exp(-x * x))
define_derivative("erfc", lambda y, x, dx: -_TWO_OVER_SQRT_PI * dx * lax.exp(-x * x))
define_derivative("erf_inv", lambda y, x, dx: dx * lax.exp(y * y) / _TWO_OVER_SQRT_PI)

# The missing constant would be seen by coefficient 0 only, which is the primitive's.
define_rewrite("expm1", lambda x, **_: lax.exp(x))


# -- sigmoids: y' = e x', where e is a quadratic polynomial in y

# tanh:      e = 1 - y²   =>  e_k = -2 y_0 y_k      - Σ_{j=1..k-1} y_j y_{k-j}
# logistic:  e = y - y²   =>  e_k = (1 - 2 y_0) y_k - Σ_{j=1..k-1} y_j y_{k-j}
# e_0 has a formula of its own, which does not cancel where y is saturated.


@register("tanh")
def _tanh(walk: Walk, eqn, inputs) -> list[Series]:
    def first_slope(x, y):
        if jnp.iscomplexobj(x):
            return 1 - y * y
        q = lax.exp(-2 * lax.abs(x))
        return 4 * q / ((1 + q) * (1 + q))

    return _sigmoid(walk, eqn, inputs, first_slope, lambda y: -2 * y)


@register("logistic")
def _logistic(walk: Walk, eqn, inputs) -> list[Series]:
    def first_slope(x, y):
        return y * lax.logistic(-x)

    return _sigmoid(walk, eqn, inputs, first_slope, lambda y: 1 - 2 * y)


def _sigmoid(walk: Walk, eqn, inputs, first_slope, linear_factor) -> list[Series]:
    [x] = inputs
    aval = eqn.outvars[0].aval
    support = walk.analytic_support(inputs)

    def compute_e(k):
        if k == 0:
            return first_slope(x[0], y[0])
        linear = None if y[k] is None else lax.mul(linear_factor(y[0]), y[k])
        return sub(linear, convolve_square(y, k, first=1))

    def compute_y(k):
        if k == 0:
            return bind(eqn, primal_values(inputs))[0]
        return scale(convolve(lax.mul, x.derivative, e, k - 1), 1 / k)

    y = Series(aval, support, compute_y)
    e = walk.file(Series(aval, support, compute_e), x.closed)
    return [y]


# -- powers


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


@register("pow")
def _pow(walk: Walk, eqn, inputs) -> list[Series]:
    base, exponent = inputs
    if base.is_constant:
        # y' = y log(x) v', and 0 at x = 0.
        return RULES[OTHERWISE](walk, eqn, inputs)
    if not exponent.is_constant:
        return [rewritten(walk, eqn, inputs, lambda x, v: lax.exp(v * lax.log(x)))]
    if not is_literal(eqn.invars[1]):
        # An exponent known only at run time, perhaps 2: JAX's own rule lowers it by one
        # with each derivative, and is right where the base is zero.
        return RULES[OTHERWISE](walk, eqn, inputs)
    value = complex(eqn.invars[1].val)
    if value.imag != 0:
        return RULES[OTHERWISE](walk, eqn, inputs)
    value = value.real
    if value.is_integer() and 0 <= value <= _LARGEST_PRODUCT:
        return [
            rewritten(walk, eqn, inputs, lambda x, _: repeated_product(x, int(value)))
        ]
    return [_power(walk, eqn, inputs, value)]


_LARGEST_PRODUCT = 2**16


# x y' = r x' y  =>  y_k = Σ_{j=1..k} (r j - (k - j)) x_j y_{k-j} / (k x_0)
def _power(walk: Walk, eqn, inputs, exponent: float) -> Series:
    x = inputs[0]

    @ft.cache
    def nonzero():
        return jnp.where(x[0] == 0, 1, x[0])

    def compute(k):
        if k == 0:
            return bind(eqn, primal_values(inputs))[0]
        total = None
        for j in range(1, k + 1):
            weight = (exponent * j - (k - j)) / k
            if weight != 0 and x[j] is not None and y[k - j] is not None:
                total = add(total, lax.mul(scale(x[j], weight), y[k - j]))
        if total is None:
            return None
        # At x_0 = 0 the first derivatives are zero, as the sum is; then they are not
        # finite.
        return lax.div(total, nonzero() if k < exponent else x[0])

    y = Series(eqn.outvars[0].aval, walk.analytic_support(inputs), compute)
    return y


# -- kinks and steps

define_piecewise_linear("clamp", "max", "min", "rem")


@register("abs")
def _abs(walk: Walk, eqn, inputs) -> list[Series]:
    if jnp.issubdtype(inputs[0].aval.dtype, jnp.complexfloating):
        return RULES[OTHERWISE](walk, eqn, inputs)
    return piecewise_linear_rule(walk, eqn, inputs)


for _name in ("ceil", "floor", "round", "stop_gradient"):
    RULES[_name] = constant_rule


@register("sign")
def _sign(walk: Walk, eqn, inputs) -> list[Series]:
    if jnp.issubdtype(inputs[0].aval.dtype, jnp.complexfloating):
        return RULES[OTHERWISE](walk, eqn, inputs)
    return constant_rule(walk, eqn, inputs)
