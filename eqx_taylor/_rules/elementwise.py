"""Elementwise functions, most of which have a differential equation."""

import functools as ft
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from .._core.convolution import convolve, convolve_square
from .._core.jax import bind
from .._core.protocols import JaxprEqn
from .._core.recurrence import output
from .._core.rule import Cost, otherwise, register, RULES, with_cost
from .._core.series import Series
from .._core.terms import scale, sub
from .._core.units import power_of_two
from .._core.walk import constant_rule, Walk
from .define import define_derivative, define_rewrite, rewritten
from .kinks import define_piecewise_linear, piecewise_linear_rule


# Infinity is replaced by the largest number where slopes vanish, as quotients or
# products with an infinity would be NaN. Only coefficient 0 is changed.
@jax.custom_jvp
def bounded(x):
    largest = float(jnp.finfo(x.dtype).max)
    return jnp.clip(x, -largest, largest)


bounded.defjvps(lambda dx, y, x: dx)
define_piecewise_linear(bounded)


# -- y' = g(x, y) x'

define_derivative("exp", lambda y, x, dx: dx * y)
define_derivative("exp2", lambda y, x, dx: dx * (math.log(2) * y))
define_derivative("log", lambda y, x, dx: dx / x)
define_derivative("log2", lambda y, x, dx: dx / (math.log(2) * x))
define_derivative("log1p", lambda y, x, dx: dx / (1 + x))

define_derivative("sin", lambda y, x, dx: dx * lax.cos(x))
define_derivative("cos", lambda y, x, dx: -dx * lax.sin(x))
define_derivative("sinh", lambda y, x, dx: dx * lax.cosh(x))
define_derivative("cosh", lambda y, x, dx: dx * lax.sinh(x))

# The missing constant affects only coefficient 0, which is the primitive's own value.
define_rewrite("expm1", lambda x, **_: lax.exp(x))


# -- inverse functions: y' = x' / r

# The slopes are written as factors, which do not cancel near the singularities. As
# squares of large numbers overflow, x is multiplied by a power of two s, with s x near
# 1.


def _asin_slope(y, x, dx):
    if jnp.iscomplexobj(x):
        return dx / (lax.sqrt(1 - x) * lax.sqrt(1 + x))
    return dx / lax.sqrt((1 - x) * (1 + x))


def _atan_slope(y, x, dx):
    x = x if jnp.iscomplexobj(x) else bounded(x)
    s = _reciprocal(x, jnp.ones_like(x))
    if jnp.iscomplexobj(x):
        slope = s * (s * dx) / ((s - 1j * (s * x)) * (s + 1j * (s * x)))
        return jnp.where(jnp.isinf(x), 0, slope)
    return s * (s * dx) / (s * s + lax.square(s * x))


def _asinh_slope(y, x, dx):
    if jnp.iscomplexobj(x):
        return dx / (lax.sqrt(1 - 1j * x) * lax.sqrt(1 + 1j * x))
    s = _reciprocal(x, jnp.ones_like(x))
    return s * dx / lax.sqrt(s * s + lax.square(s * x))


def _acosh_slope(y, x, dx):
    x = x if jnp.iscomplexobj(x) else bounded(x)
    return dx / (lax.sqrt(x - 1) * lax.sqrt(x + 1))


def _atanh_slope(y, x, dx):
    if jnp.iscomplexobj(x):
        s = _reciprocal(x, jnp.ones_like(x))
        slope = s * (s * dx) / ((s - s * x) * (s + s * x))
        return jnp.where(jnp.isinf(x), 0, slope)
    return dx / ((1 - x) * (1 + x))


def _atan2_slope(angle, y, x, dy, dx):
    s = _reciprocal(x, y)
    y, x = s * y, s * x
    return s * (x * dy - y * dx) / (x * x + y * y)


def _reciprocal(*values):
    """Computes a power of two near the reciprocal of the largest, as a constant."""
    sizes = []
    for x in map(lax.stop_gradient, values):
        parts = (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)
        sizes.extend(map(lax.abs, parts))
    return power_of_two(1 / ft.reduce(lax.max, sizes)).astype(values[0].dtype)


define_derivative("asin", _asin_slope)
define_derivative("acos", lambda y, x, dx: -_asin_slope(y, x, dx))
define_derivative("atan", _atan_slope)
define_derivative("atan2", _atan2_slope)
define_derivative("asinh", _asinh_slope)
define_derivative("acosh", _acosh_slope)
define_derivative("atanh", _atanh_slope)


# -- sigmoids: y' = e x', where e is a quadratic polynomial in y

# tanh:      e = 1 - y²   =>  e_k = -2 y_0 y_k      - Σ_{j=1..k-1} y_j y_{k-j}
# logistic:  e = y - y²   =>  e_k = (1 - 2 y_0) y_k - Σ_{j=1..k-1} y_j y_{k-j}
# e_0 has a formula of its own, which does not cancel if y is saturated.


@register("tanh")
def _tanh(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    def first_slope(x, y):
        q = lax.exp(-2 * lax.abs(x.real))
        if not jnp.iscomplexobj(x):
            return 4 * q / ((1 + q) * (1 + q))
        # Near the poles, where q is -1, the other formula does not cancel.
        q = jnp.where(x.real < 0, x, -x)
        q = lax.exp(q + q)  # Not `2 * q`: infinity times a complex 2 is NaN.
        near = lax.abs(x.real) < 1
        q = jnp.where(near, 0, q)
        return jnp.where(near, 1 - y * y, 4 * q / ((1 + q) * (1 + q)))

    return _sigmoid(walk, eqn, inputs, first_slope, lambda y: -2 * y)


# y' = (1 + y²) x'
define_derivative("tan", lambda y, x, dx: dx * (1 + y * y))
_tan_of_reals = RULES["tan"].read


@register("tan", kind="differential equation")
def _tan(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    if jnp.issubdtype(inputs[0].aval.dtype, jnp.complexfloating):
        return [rewritten(walk, eqn, inputs, lambda x, **_: -1j * lax.tanh(1j * x))]
    return _tan_of_reals(walk, eqn, inputs)


@register("logistic")
def _logistic(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    def first_slope(x, y):
        return y * lax.logistic(-x)

    return _sigmoid(walk, eqn, inputs, first_slope, lambda y: 1 - 2 * y)


def _sigmoid(
    walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series], first_slope, linear_factor
) -> list[Series]:
    [x] = inputs
    aval = eqn.outvars[0].aval
    support = walk.analytic_support(inputs)

    def compute_e(k):
        if k == 0:
            return first_slope(x[0], y[0])
        linear = None if y[k] is None else lax.mul(linear_factor(y[0]), y[k])
        return sub(linear, convolve_square(y, k, first=1))

    def compute_y(k):
        return scale(convolve(lax.mul, x.derivative, e, k - 1), 1 / k)

    y = output(eqn, inputs, support, compute_y)
    e = Series(aval, support, compute_e)
    return [y]


# -- kinks and steps

define_piecewise_linear("clamp", "max", "min")


@register("rem", kind="piecewise linear", is_kink=True)
def _rem(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    def value(here, ahead):
        """Computes the remainder for the quotient ahead."""
        rest = bind(eqn, here)[0]
        steps = lax.stop_gradient(_quotient(eqn, ahead) - _quotient(eqn, here))
        # The divisor may be infinite, and must not be multiplied by zero.
        return [jnp.where(steps == 0, rest, rest - steps * here[1])]

    return piecewise_linear_rule(walk, eqn, inputs, value)


def _quotient(eqn, operands):
    x, y = operands
    return lax.round((x - bind(eqn, operands)[0]) / y)


@register("abs", kind="piecewise linear", is_kink=True)
def _abs(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    if jnp.issubdtype(inputs[0].aval.dtype, jnp.complexfloating):
        return otherwise(walk, eqn, inputs)
    return piecewise_linear_rule(walk, eqn, inputs)


register("ceil", "floor", "round", "stop_gradient", kind="zero")(constant_rule)


@register("sign", kind="zero")
def _sign(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    if jnp.issubdtype(inputs[0].aval.dtype, jnp.complexfloating):
        return otherwise(walk, eqn, inputs)
    return constant_rule(walk, eqn, inputs)


# XLA would compute these again for every order in which they occur. (Sigmoids are left
# out: in networks they are between matrix products, in loops that wait for memory.)
with_cost(
    Cost.SLOW,
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cos", "cosh", "exp",
    "exp2", "expm1", "log", "log1p", "log2", "sin", "sinh", "tan",
)  # fmt: skip
