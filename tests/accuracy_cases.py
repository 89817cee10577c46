"""The elementwise functions, each with its twin in ball arithmetic, points all over its
domain, and the scale on which it changes near a point."""

import functools as ft
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.special as jss
from balls import (
    acosh,
    asinh,
    atanh,
    bessel,
    cosh,
    cube_root,
    differentiated,
    erf_inv,
    exp2,
    in_integral,
    in_logarithm,
    in_product,
    in_quotient,
    log_gamma,
    logistic,
    normal,
    power,
    scaled_bessel,
    sinh,
    sizes_of,
    softplus,
    tanh,
)
from flint import acb, arb, arb_series
from jax import lax


class Case(NamedTuple):
    name: str
    fun: Callable[[Any], Any]
    # The same of a series of balls.
    exact: Callable[[Any], Any]
    points: Sequence[Any]
    # The scale on which the function changes near a point.
    unit: Callable[[Any], float]
    # How large the terms are that it is the sum of by definition, where these are much
    # larger than their sum.
    sizes: Callable[[Any], Any] | None = None


# -- the scale of a function near a point


def one(x):
    return 1.0


def away_from(*singularities):
    return lambda x: min(abs(x - p) for p in singularities)


def gaussian(x):
    return 1 / max(1.0, abs(x))


# -- sizes of terms, and what they are made of


def absolute(x):
    return x if x[0] > 0 else -x


def grow(x):
    return absolute(x).exp()


def gelu_tanh(x):
    return tanh((2 / arb.pi()).sqrt() * (x + arb("0.044715") * x * x * x))


def gamma_sizes(a):
    slope = in_product(power(a - 1), lambda x: (-x).exp() / arb(a).gamma())
    return in_integral(slope)


def beta_sizes(a, b):
    slope = in_product(power(a - 1), lambda x: power(b - 1)(1 - x))
    scale = arb(a + b).gamma() / (arb(a).gamma() * arb(b).gamma())
    return in_integral(lambda x: slope(x) * scale)


# One line per function.
# fmt: off
EPS = 2.0**-52
ANY = [0.0, 1e-300, -1e-9, 0.3, -0.7, 1.0, 2.5, -17.0, 40.0]
HUGE = [1e15, -1e15, 1e154, 1e300, -1e300]
POSITIVE = [1e-300, 1e-9, 0.3, 1.0, 1 - EPS / 2, 1 + EPS, 2.5, 40.0, 1e15, 1e154, 1e300]
UNIT_BALL = [0.0, 1e-300, -1e-9, 0.3, -0.7, 0.999, 1 - EPS / 2, -1 + EPS / 2]

REAL_CASES = [
    Case("exp", lax.exp, lambda x: x.exp(), ANY + [700.0, -700.0], one),
    Case("exp2", lax.exp2, exp2, ANY + [1000.0, -1000.0], one),
    Case("expm1", lax.expm1, lambda x: x.exp() - 1, ANY + [700.0, -700.0], one),
    Case("log", lax.log, lambda x: x.log(), POSITIVE, away_from(0)),
    Case("log1p", lax.log1p, lambda x: (1 + x).log(), POSITIVE + UNIT_BALL, away_from(-1)),
    Case("sin", lax.sin, lambda x: x.sin(), ANY + HUGE[:2], one),
    Case("cos", lax.cos, lambda x: x.cos(), ANY + HUGE[:2], one),
    Case("sin far", lax.sin, lambda x: x.sin(), HUGE, one),
    Case("tan", lax.tan, lambda x: x.tan(), ANY + [1e15], one),
    Case("tan near pole", lax.tan, lambda x: x.tan(), [1.57, 1.5707, 4.7123], away_from(math.pi / 2, 3 * math.pi / 2)),
    Case("sinh", lax.sinh, sinh, ANY + [700.0, -700.0], one),
    Case("cosh", lax.cosh, cosh, ANY + [700.0, -700.0], one),
    Case("tanh", lax.tanh, tanh, ANY + [300.0, -700.0], one),
    Case("logistic", lax.logistic, logistic, ANY + [300.0, -300.0, -700.0], one),
    Case("asin", lax.asin, lambda x: x.asin(), UNIT_BALL, away_from(1, -1)),
    Case("acos", lax.acos, lambda x: x.acos(), UNIT_BALL, away_from(1, -1)),
    Case("atan", lax.atan, lambda x: x.atan(), ANY + HUGE, away_from(1j, -1j)),
    Case("asinh", lax.asinh, asinh, ANY + HUGE, away_from(1j, -1j)),
    Case("acosh", lax.acosh, acosh, [1 + EPS, 1.5, 40.0, 1e15, 1e154, 1e300], away_from(1, -1)),
    Case("atanh", lax.atanh, atanh, UNIT_BALL, away_from(1, -1)),
    Case("atan2(x, 1)", lambda x: lax.atan2(x, jnp.ones_like(x)), lambda x: x.atan(), ANY + HUGE, away_from(1j, -1j)),
    Case("atan2(1, x)", lambda x: lax.atan2(jnp.ones_like(x), x), lambda x: (x / (1 + x * x).sqrt()).acos(), ANY + HUGE, away_from(1j, -1j)),
    Case("atan2(tiny x, -tiny)", lambda x: lax.atan2(x, jnp.full_like(x, -2.0**-600)), lambda x: -(x * arb(2)**600).atan(), [2.0**-600, 2.0**-605, 1e-170, 1e-190, -1e-180], away_from(2**-600*1j, -2**-600*1j)),
    Case("erf", lax.erf, lambda x: x.erf(), ANY[:7] + [6.0, 8.3, -11.7, 26.0], gaussian),
    Case("erfc", lax.erfc, lambda x: x.erfc(), ANY[:7] + [6.0, 8.3, -11.7, 26.0], gaussian),
    Case("erf_inv", lax.erf_inv, erf_inv, UNIT_BALL, away_from(1, -1)),
    Case("sqrt", lax.sqrt, lambda x: x.sqrt(), POSITIVE, away_from(0)),
    Case("rsqrt", lax.rsqrt, lambda x: 1 / x.sqrt(), POSITIVE, away_from(0)),
    Case("cbrt", lax.cbrt, cube_root, POSITIVE + [-0.3, -1e100], away_from(0)),
    Case("square", lax.square, lambda x: x * x, ANY, one),
    *[Case(f"x**{n}", ft.partial(lax.integer_pow, y=n), (lambda n: lambda x: x**n if n > 0 else 1 / x**-n)(n), [0.3, -0.7, 40.0, 1e10, -1e-10, 1e-30], away_from(0)) for n in (1, 2, 3, 7, 20, -1, -2, -3, -10)],
    *[Case(f"pow(x, {r})", lambda x, r=r: x**r, power(r), [1e-30, 0.3, 2.5, 40.0, 1e30], away_from(0)) for r in (0.7, 1.5, -1.5, 2.5, 30.5, 3.0, -7.0, 3000.3)],
    *[Case(f"pow(x, {r}) at run time", lambda x, r=r: lax.pow(x, jnp.full_like(x, r)), power(r), [1e-30, 0.3, 2.5, 40.0, 1e30] + ([-0.7] if r in (3.0, -7.0) else []), away_from(0)) for r in (0.7, 1.5, -1.5, 2.5, 30.5, 3.0, -7.0)],
    Case("pow(2, x)", lambda x: lax.pow(jnp.full_like(x, 2), x), exp2, ANY + [1000.0, -1000.0], one),
    Case("x**x", lambda x: lax.pow(x, x), lambda x: (x * x.log()).exp(), [1e-30, 1e-9, 0.3, 1.0, 2.5, 40.0, 140.0], lambda x: min(x, 1) / 4 if x < 10 else 1 / math.log(x)),
    Case("x**-x", lambda x: lax.pow(x, -x), lambda x: (-x * x.log()).exp(), [1e-9, 0.3, 1.0, 2.5, 40.0, 140.0], lambda x: min(x, 1) / 4 if x < 10 else 1 / math.log(x)),
    Case("1 / x", lambda x: 1 / x, lambda x: 1 / x, POSITIVE + [-0.3], away_from(0)),
    Case("(1 + x) / (1 - x)", lambda x: (1 + x) / (1 - x), lambda x: (1 + x) / (1 - x), [0.5, -0.5, 0.25, 2.0, 16.0], away_from(1)),
    # Special functions
    Case("lgamma", lax.lgamma, log_gamma, [1e-300, 1e-9, 0.3, 1.0, 1.5, 2.0, 2.5, 10.0, 40.0, 1e5, 1e15, 1e100, 1e300], away_from(0)),
    Case("lgamma near 1, 2", lax.lgamma, log_gamma, [1 + EPS, 1 - EPS/2, 1.001, 2 - EPS, 2 + 2 * EPS], away_from(0)),
    Case("lgamma, x < 0", lax.lgamma, log_gamma, [-1e-300, -1e-9, -0.3, -0.5, -0.75, -1.0001, -3.0 + 2*EPS, -3.5, -40.25, -1000.5], lambda x: abs(x - round(x))),
    Case("digamma", lax.digamma, differentiated(log_gamma, 1), [1e-100, 1e-9, 0.3, 1.0, 1.4616, 1.5, 2.0, 2.5, 10.0, 40.0, 1e5, 1e15, 1e300], away_from(0)),
    Case("digamma, x < 0", lax.digamma, differentiated(log_gamma, 1), [-1e-9, -0.3, -0.5, -0.75, -1.0001, -3.5, -40.25, -1000.5], lambda x: abs(x - round(x))),
    *[Case(f"polygamma {n}", lambda x, n=n: lax.polygamma(jnp.full_like(x, n), x), differentiated(log_gamma, n + 1), [1e-9, 0.3, 1.0, 1.5, 2.0, 2.5, 10.0, 40.0, 1e5, 1e15], away_from(0)) for n in (1, 2, 5)],
    *[Case(f"igamma({a}, x)", lambda x, a=a: lax.igamma(jnp.full_like(x, a), x), lambda x, a=a: arb_series.gamma_lower(arb(a), x, 1), [1e-9, 0.3, 1.0, 2.5, 10.0, 40.0, 100.0, 300.0], lambda x, a=a: max(x, 1.0) if a == round(a) and x < 4 else min(x, 8.0), gamma_sizes(a)) for a in (0.5, 1.0, 1.7, 2.0, 4.0, 30.0, 200.0)],
    *[Case(f"igammac({a}, x)", lambda x, a=a: lax.igammac(jnp.full_like(x, a), x), lambda x, a=a: arb_series.gamma_upper(arb(a), x, 1), [1e-9, 0.3, 1.0, 2.5, 10.0, 40.0, 100.0, 300.0], lambda x, a=a: max(x, 1.0) if a == round(a) and x < 4 else min(x, 8.0), gamma_sizes(a)) for a in (0.5, 1.7, 30.0)],
    *[Case(f"betainc({a}, {b}, x)", lambda x, a=a, b=b: lax.betainc(jnp.full_like(x, a), jnp.full_like(x, b), x), lambda x, a=a, b=b: arb_series.beta_lower(arb(a), arb(b), x, 1), [1e-9, 0.1, 0.3, 0.8, 0.999], away_from(0, 1), beta_sizes(a, b)) for a, b in ((0.5, 0.5), (1.7, 0.7), (3.0, 2.0), (30.0, 10.0))],
    Case("bessel_i0e", lax.bessel_i0e, scaled_bessel(0), [1e-300, 1e-9, 0.01, 0.3, 1.0, -2.5, 7.9, 8.1, 20.0, 40.0, 1e3, 1e6], lambda x: max(1.0, abs(x) / 2)),
    Case("bessel_i1e", lax.bessel_i1e, scaled_bessel(1), [1e-300, 1e-9, 0.01, 0.3, 1.0, -2.5, 7.9, 8.1, 20.0, 40.0, 1e3, 1e6], lambda x: max(1.0, abs(x) / 2)),
    Case("i0", jss.i0, bessel(0), [1e-300, 1e-9, 0.01, 0.3, 1.0, -2.5, 7.9, 8.1, 20.0, 40.0], one, in_product(grow, scaled_bessel(0))),
    Case("i1", jss.i1, bessel(1), [1e-300, 1e-9, 0.01, 0.3, 1.0, -2.5, 7.9, 8.1, 20.0, 40.0], one, in_product(grow, scaled_bessel(1))),
    Case("zeta(x, 2)", lambda x: lax.zeta(jnp.full_like(x, 2), x), lambda x: differentiated(log_gamma, 2)(x), [0.3, 1.0, 2.5, 40.0], away_from(0)),
    # Activations
    Case("softplus", jax.nn.softplus, softplus, ANY + [300.0, -300.0], one),
    Case("logaddexp(x, 0)", lambda x: jnp.logaddexp(x, jnp.zeros_like(x)), softplus, ANY + [300.0, -300.0], one),
    Case("logaddexp2(x, 0)", lambda x: jnp.logaddexp2(x, jnp.zeros_like(x)), lambda x: softplus(x*arb(2).log())/arb(2).log(), ANY + [300.0, -300.0], one),
    Case("log_sigmoid", jax.nn.log_sigmoid, lambda x: -softplus(-x), ANY + [300.0, -300.0], one),
    Case("silu", jax.nn.silu, lambda x: x * logistic(x), ANY + [300.0, -300.0], one),
    Case("mish", jax.nn.mish, lambda x: x * tanh(softplus(x)), ANY + [300.0, -300.0], one),
    Case("gelu", ft.partial(jax.nn.gelu, approximate=False), lambda x: x * normal(x), ANY[:7] + [6.0, -6.0, -20.0], gaussian),
    Case("gelu approximate", jax.nn.gelu, lambda x: x / 2 * (1 + gelu_tanh(x)), ANY[:7] + [6.0, -6.0], lambda x: gaussian(x) / 2, lambda x: sizes_of(x) / 2 * (1 + sizes_of(gelu_tanh(x)))),
    Case("elu", jax.nn.elu, lambda x: x if x[0] > 0 else x.exp() - 1, [1e-9, -1e-300, -1e-9, -0.3, -40.0, 3.0], one),
    Case("celu", lambda x: jax.nn.celu(x, 2.0), lambda x: x if x[0] > 0 else 2 * ((x / 2).exp() - 1), [1e-9, -1e-300, -1e-9, -0.3, -40.0, 3.0], one),
    Case("soft_sign", jax.nn.soft_sign, lambda x: x / (absolute(x) + 1), [-1e-9, -0.3, 40.0, 1e15, 1e300], lambda x: 1 + abs(x), in_quotient(lambda x: x, lambda x: absolute(x) + 1)),
    Case("squareplus", jax.nn.squareplus, lambda x: (x + (x * x + 4).sqrt()) / 2, ANY[:7] + [40.0], away_from(2j, -2j)),
    Case("log1mexp", jax.nn.log1mexp, lambda x: (1 - (-x).exp()).log(), [1e-300, 1e-9, 0.3, 0.6, 0.8, 2.5, 40.0, 300.0], lambda x: min(x, 1)),
    # Near 0 it is a quotient of small numbers, by JAX's definition.
    Case("sinc", jnp.sinc, lambda x: x.sin_pi() / (arb.pi() * x), [1.0, -2.5, 40.0], one, in_quotient(lambda x: x.sin_pi() / arb.pi(), lambda x: x)),
    Case("log_ndtr", jss.log_ndtr, lambda x: normal(x).log(), ANY[:7] + [6.0, -6.0, -25.0, 30.0, -1e3, -1e6], lambda x: 1 / max(1, x) if x > 0 else 1 + abs(x) / 2, in_logarithm(normal)),
    Case("ndtr", jss.ndtr, normal, ANY[:7] + [6.0, -6.0, -25.0, 30.0], gaussian),
    Case("xlogy(x, x)", lambda x: jss.xlogy(x, x), lambda x: x * x.log(), POSITIVE[:9], away_from(0)),
    Case("xlog1py(x, x)", lambda x: jss.xlog1py(x, x), lambda x: x * (1 + x).log(), POSITIVE[:9], away_from(-1)),
    Case("entr", jss.entr, lambda x: -x * x.log(), POSITIVE[:9], away_from(0)),
    Case("logit", jss.logit, lambda x: x.log() - (1 - x).log(), [1e-300, 1e-9, 0.1, 0.3, 0.5, 0.9, 1 - EPS/2], away_from(0, 1)),
    Case("expi", jss.expi, lambda x: x.ei(), [1e-9, 0.3, 1.0, 2.5, 10.0, 40.0], lambda x: min(x, 1)),
    Case("gamma", jss.gamma, lambda x: x.gamma(), [1e-9, 0.3, 1.0, 2.5, 10.0, 40.0], away_from(0)),
]

C_ANY = [0.0j, 0.3 + 0.4j, -0.5 - 3.0j, 1e-9 + 1e-5j, 17.0 + 2.0j, -17.0 + 1.5j]
COMPLEX_CASES = [
    Case("exp", lax.exp, lambda x: x.exp(), C_ANY, one),
    Case("log", lax.log, lambda x: x.log(), C_ANY[1:] + [1e300 + 1e300j, 1e-200 + 1e-200j], away_from(0)),
    Case("log1p", lax.log1p, lambda x: (1 + x).log(), C_ANY, away_from(-1)),
    Case("sin", lax.sin, lambda x: x.sin(), C_ANY, one),
    Case("cos", lax.cos, lambda x: x.cos(), C_ANY, one),
    Case("tan", lax.tan, lambda x: x.tan(), C_ANY + [1 + 17j, 2 - 40j], one),
    Case("tanh", lax.tanh, tanh, C_ANY + [40 + 1j, -40 + 2j, 300 + 1j], one),
    Case("tanh near pole", lax.tanh, tanh, [1.57j, 0.01 + 1.55j], away_from(1j * math.pi / 2)),
    Case("logistic", lax.logistic, logistic, C_ANY + [40 + 1j, -40 + 2j, -300 + 1j], one),
    Case("sinh", lax.sinh, sinh, C_ANY, one),
    Case("cosh", lax.cosh, cosh, C_ANY, one),
    Case("asinh", lax.asinh, asinh, C_ANY + [1j + 1e-9, 1e-9 + 0.999999j, 1e200 + 1e200j], away_from(1j, -1j)),
    Case("atan", lax.atan, lambda x: x.atan(), C_ANY + [1j + 1e-9, 1e-9 + 0.999999j, 1e200 + 1e200j], away_from(1j, -1j)),
    Case("atanh", lax.atanh, atanh, C_ANY + [1 + 1e-9j, 0.9999999 + 1e-9j, 1e200 + 1e200j], away_from(1, -1)),
    Case("asin", lax.asin, lambda x: -1j * asinh(1j * x), C_ANY + [1 + 1e-9j, 0.9999999 + 1e-9j, 1e200 + 1e200j], away_from(1, -1)),
    Case("acos", lax.acos, lambda x: acb.pi() / 2 + 1j * asinh(1j * x), C_ANY + [1 + 1e-9j, 0.9999999 + 1e-9j, 1e200 + 1e200j], away_from(1, -1)),
    Case("acosh", lax.acosh, acosh, C_ANY + [1 + 1e-9j, 0.9999999 + 1e-9j, 1e200 + 1e200j], away_from(1, -1)),
    Case("sqrt", lax.sqrt, lambda x: x.sqrt(), C_ANY[1:], away_from(0)),
    Case("rsqrt", lax.rsqrt, lambda x: 1 / x.sqrt(), C_ANY[1:], away_from(0)),
    Case("x**0.7", lambda x: x**0.7, lambda x: (x.log() * arb(0.7)).exp(), C_ANY[1:], away_from(0)),
    Case("x**-3", lambda x: x**-3, lambda x: 1 / (x * x * x), C_ANY[1:], away_from(0)),
    Case("x**x", lambda x: x**x, lambda x: (x * x.log()).exp(), C_ANY[1:4], lambda x: abs(x) / 4),
    Case("1 / x", lambda x: 1 / x, lambda x: 1 / x, C_ANY[1:], away_from(0)),
]
# fmt: on

# What JAX computes by a polynomial near the point has the polynomial's derivatives.
APPROXIMATIONS = (
    {"sinc"} if "polynomial" in str(jax.make_jaxpr(jnp.sinc)(0.5)) else set()
)
