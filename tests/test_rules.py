"""Every rule against nested derivatives, and under every transformation.

One table of cases. A case is a name, a function and the points to take it at; its
curves through the points are random polynomials, or straight lines.
"""

import functools as ft
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy as jsp
import jax.tree_util as jtu
import numpy as np
import pytest
from helpers import (
    assert_close,
    assert_orders_close,
    jet,
    largest,
    nested_jet,
    random_series,
)
from jax import lax

from eqx_taylor._core.series import given, mask
from eqx_taylor._core.walk import Walk


class Case(NamedTuple):
    name: str
    fun: Callable[..., Any]
    points: tuple[Any, ...]
    # Of the nested derivatives, whose cost doubles with each.
    order: int = 4
    # Errors allowed, in roundings of the largest entry of each derivative.
    ulps: float = 200
    # Whether all of JAX's floating-point types are taken.
    any_float: bool = True
    # Differentiated in the place of `fun`, where JAX's nested derivatives are not right.
    oracle: Callable[..., Any] | None = None

    def arrays(self):
        return tuple(jnp.asarray(point) for point in self.points)


def _case(name, fun, *points, **kwargs):
    return Case(name, fun, points, **kwargs)


def _parametrize(cases):
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


X = np.array([0.3, -0.7, 0.9])
Y = np.array([-0.4, 0.8, 0.5])
POSITIVE = np.array([0.4, 1.3, 2.1])
SQUARE = np.array([[0.5, -0.3, 0.2], [0.1, 0.7, -0.4], [-0.6, 0.2, 0.9]])
IMAGE = np.arange(36.0).reshape(1, 6, 6, 1) % 7 / 7
Z = np.array([0.3 + 0.4j, -0.5 + 0.2j])
W = np.array([0.7 - 0.6j, 0.2 + 0.9j])

ELEMENTWISE = [
    _case("exp", lax.exp, X),
    _case("exp2", lax.exp2, X),
    _case("expm1", lax.expm1, X),
    _case("log", lax.log, POSITIVE),
    _case("log1p", lax.log1p, X),
    _case("sin", lax.sin, X),
    _case("cos", lax.cos, X),
    _case("tan", lax.tan, X),
    _case("sinh", lax.sinh, X),
    _case("cosh", lax.cosh, X),
    _case("tanh", lax.tanh, X),
    _case("asin", lax.asin, X, ulps=1000),
    _case("acos", lax.acos, X, ulps=1000),
    _case("atan", lax.atan, X),
    _case("asinh", lax.asinh, X),
    _case("acosh", lax.acosh, 1 + POSITIVE),
    _case("atanh", lax.atanh, X, ulps=1000),
    _case("atan2", lax.atan2, X, Y),
    _case("atan2 on the axes", lax.atan2, np.array([1.0, 0.0]), np.array([0.0, -1.0])),
    _case("erf", lax.erf, X),
    _case("erfc", lax.erfc, X),
    _case("erf_inv", lax.erf_inv, X, ulps=1000),
    _case("logistic", lax.logistic, X),
    _case("sqrt", lax.sqrt, POSITIVE),
    _case("rsqrt", lax.rsqrt, POSITIVE),
    _case("cbrt", lax.cbrt, X, ulps=1000),
    _case("x**0.7", lambda x: x**0.7, POSITIVE),
    _case("x**-1.5", lambda x: x**-1.5, POSITIVE),
    _case("x**y", lambda x, y: x**y, POSITIVE, Y),
    _case("2**y", lambda y: jnp.full_like(y, 2) ** y, Y),
    _case(
        "x**a, a an array", lambda x: x ** jnp.asarray([2, 0.5, 3], x.dtype), POSITIVE
    ),
]

# Where the obvious formula has 0/0 or the logarithm of a negative number.
POWERS = [
    *[
        _case(f"({base})**{exponent}", lambda x, n=exponent: x**n, np.array(base))
        for base in (0.0, -1.7)
        for exponent in (0, 1, 2, 3, 7)
    ],
    *[
        # JAX's own derivatives of these are NaN at zero from some order on.
        _case(
            f"({base})**{exponent}",
            lambda x, n=exponent: x**n,
            np.array(base),
            oracle=lambda x, n=exponent: x ** int(n),
        )
        for base in (0.0, -1.7)
        for exponent in (2.0, 3.0)
    ],
    *[
        _case(f"(-1.7)**{exponent}", lambda x, n=exponent: x**n, np.array(-1.7))
        for exponent in (-1, -2, -3.0)
    ],
    _case(
        "x**a, a at run time",
        lambda x: x ** jnp.asarray([2, 0.5, 3], x.dtype),
        np.array([0.0, 1.3, -2.1]),
        order=2,
    ),
    _case("0**2.5", lambda x: x**2.5, np.array(0.0), order=2),
    _case("0**y", lambda y: jnp.zeros_like(y) ** y, np.array(1.5)),
    _case("square", lax.square, X),
    _case("integer_pow -3", lambda x: lax.integer_pow(x, -3), X, ulps=1000),
    _case("integer_pow 0", lambda x: lax.integer_pow(x, 0), np.array(0.0)),
]

PRODUCTS = [
    _case("mul", lax.mul, X, Y),
    _case("mul by itself", lambda x: x * x, X),
    _case("div", lax.div, X, Y),
    _case("div by a constant", lambda x: x / jnp.asarray(Y, x.dtype), X),
    _case("reciprocal", lambda x: 1 / x, X),
    _case("matrix product", jnp.matmul, SQUARE, SQUARE.T),
    _case("matrix and vector", lambda x: jnp.asarray(SQUARE, x.dtype) @ x, X),
    _case("batched dot_general", lambda a, b: jnp.einsum("bij,bj->bi", a, b),
          np.stack([SQUARE, 2 * SQUARE]), np.stack([X, Y])),
    _case("outer product", jnp.outer, X, Y),
    _case("convolve", jnp.convolve, X, np.array([0.5, -0.2, 0.1, 0.4])),
    _case("conv_general_dilated", lambda x, w: lax.conv_general_dilated(
        x, w, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
        IMAGE, SQUARE.reshape(3, 3, 1, 1)),
]  # fmt: skip

STRUCTURAL = [
    _case("add", lax.add, X, Y),
    _case("sub", lax.sub, X, Y),
    _case("a number minus an array", lambda x, y: x - y, np.array(0.3), np.array(0.4)),
    _case("a moving number plus an array",
          lambda x: x + jnp.asarray(SQUARE, x.dtype), np.array(0.3)),
    _case("an array minus a moving number",
          lambda x: jnp.asarray(SQUARE, x.dtype) - x, np.array(0.3)),
    _case("neg", lax.neg, X),
    _case("copy", jnp.copy, X),
    _case("optimization_barrier", lambda x: lax.optimization_barrier((x, x * x)), X),
    _case("broadcast_in_dim", lambda x: lax.broadcast_in_dim(x, (2, 3), (1,)), X),
    _case("concatenate", lambda x: jnp.concatenate([x, jnp.ones_like(x), x * x]), X),
    _case("expand_dims", lambda x: lax.expand_dims(x, (0, 2)), X),
    _case("pad", lambda x, y: lax.pad(x, y, [(1, 2, 1)]), X, np.array(0.3)),
    _case("reshape", lambda x: x.reshape(9), SQUARE),
    _case("rev", lambda x: lax.rev(x, (0,)), X),
    _case("slice", lambda x: lax.slice(x, (0, 1), (3, 3), (2, 1)), SQUARE),
    _case("split", lambda x: jnp.split(x, 3), SQUARE),
    _case("squeeze", lambda x: lax.squeeze(x, (0, 3)), IMAGE),
    _case("tile", lambda x: jnp.tile(x, (2, 2)), SQUARE),
    _case("transpose", jnp.transpose, SQUARE),
    _case("cumsum", lambda x: lax.cumsum(x, 1, reverse=True), SQUARE),
    _case("reduce_sum", lambda x: jnp.sum(x, 0), SQUARE),
    _case("reduce_window_sum", lambda x: lax.reduce_window(
        x, np.zeros((), x.dtype), lax.add, (1, 2, 2, 1), (1, 1, 2, 1), "SAME"), IMAGE),
    _case("fft", lambda x: jnp.fft.fft(x), X, any_float=False),
    _case("rfft and irfft", lambda x: jnp.fft.irfft(jnp.fft.rfft(x) ** 2), np.arange(4.0),
          any_float=False),
    _case("dynamic_slice", lambda x: lax.dynamic_slice(x, (1, 0), (2, 2)), SQUARE),
    _case("dynamic_update_slice",
          lambda x, y: lax.dynamic_update_slice(x, y, (1,)), X, np.array([0.2, 0.1])),
    _case("gather", lambda x: x[np.array([2, 0, 2])], X),
    _case("index by a moving value",
          lambda x: jnp.sin(x)[(x[0] * 4).astype(jnp.int32)] * x, X),
    _case("scatter-add", lambda x, y: x.at[np.array([0, 0])].add(y), X, Y[:2]),
    _case("scatter-sub", lambda x, y: x.at[np.array([2, 0])].subtract(y), X, Y[:2]),
    _case("select_n", lambda x, y: jnp.where(x > 0, x * y, y), X, Y),
]  # fmt: skip

KINKS = [
    _case("abs", jnp.abs, X),
    _case("abs at 0", jnp.abs, np.array(0.0)),
    _case("max", jnp.maximum, X, Y),
    _case("max of equals", jnp.maximum, np.array(0.3), np.array(0.3)),
    _case("min of equals", jnp.minimum, np.array([0.3, 1]), np.array([0.3, 2])),
    _case("relu", jax.nn.relu, X),
    _case("relu at 0", jax.nn.relu, np.array(0.0)),
    _case("clamp", lambda x: jnp.clip(x, -0.5, 0.5), X),
    _case("clamp at its bound", lambda x: lax.clamp(
        jnp.asarray(-0.5, x.dtype), x, jnp.asarray(0.5, x.dtype)), np.array([0.5, -0.5])),
    _case("clamp to moving bounds", lax.clamp, Y[:1], X[:1], POSITIVE[:1]),
    _case("rem", lax.rem, np.array([-5.5, 5.5, 3.2]), np.array([2.0, -2.0, 0.7])),
    _case("fmod", jnp.fmod, np.array([-5.5, 5.5]), np.array([2.0, 2.0])),
    _case("mod", jnp.mod, np.array([-5.5, 5.5]), np.array([2.0, 2.0])),
    _case("sign", lambda x: jnp.sign(x) * x, X),
    _case("ceil, floor, round", lambda x: jnp.ceil(x) + jnp.floor(x) * jnp.round(x) * x, X),
    _case("stop_gradient", lambda x: lax.stop_gradient(x * x) * x, X),
    _case("reduce_max", lambda x: jnp.max(x, 1), SQUARE),
    _case("reduce_max of equals", jnp.max, np.array([0.5, 0.5, 0.1, 0.5])),
    _case("reduce_min", jnp.min, X),
    _case("argmax", lambda x: x[jnp.argmax(x)] * x, X),
    _case("argsort", lambda x: x[jnp.argsort(x)], X),
    _case("cummax", lax.cummax, X),
    _case("cummin", lax.cummin, X),
    _case("sort", lambda x: jnp.sort(x), X),
    _case("sort of pairs", lambda x, y: lax.sort((x, y), num_keys=1), X, Y),
    _case("top_k", lambda x: lax.top_k(x, 2)[0], X),
    _case("scatter", lambda x, y: x.at[np.array([2, 0])].set(y), X, Y[:2]),
    _case("gradient of max pooling",
          lambda x: jax.grad(lambda x: jnp.sum(eqx.nn.MaxPool2d(2, 2)(x) ** 3))(x),
          IMAGE[..., 0], order=3),
    _case("interp", lambda x: jnp.interp(x, np.array([-1.0, 0, 1]), np.array([0, 1.0, -1])),
          X, any_float=False),
]  # fmt: skip

# Without a rule of their own: by their derivative.
DERIVED = [
    _case("lgamma", lax.lgamma, POSITIVE),
    _case("digamma", lax.digamma, POSITIVE),
    _case("polygamma", lambda x: jsp.special.polygamma(1, x), POSITIVE, order=3,
          any_float=False),
    _case("igamma", lambda x: lax.igamma(jnp.full_like(x, 1.7), x), POSITIVE),
    _case("betainc", lambda x: lax.betainc(
        jnp.full_like(x, 1.7), jnp.full_like(x, 0.7), x), np.array([0.3, 0.8])),
    _case("i0e and i1e", lambda x: (lax.bessel_i0e(x), lax.bessel_i1e(x)), POSITIVE),
    _case("reduce_prod", jnp.prod, X),
    _case("reduce_prod through 0", jnp.prod, np.array([0.0, 0.3, 0.0, 0.5])),
    _case("cumprod", lax.cumprod, X),
    _case("cumlogsumexp", lax.cumlogsumexp, X),
    _case("scatter-mul", lambda x, y: x.at[np.array([2, 0])].multiply(
        y, unique_indices=True), X, Y[:2]),
    _case("logsumexp", jax.nn.logsumexp, X),
    _case("softmax", jax.nn.softmax, X),
    _case("softplus", jax.nn.softplus, X),
    _case("logaddexp", jnp.logaddexp, X, Y),
    _case("logaddexp of equals", jnp.logaddexp, np.array(0.3), np.array(0.3)),
    _case("gelu", ft.partial(jax.nn.gelu, approximate=False), X),
    _case("silu", jax.nn.silu, X),
    _case("elu", jax.nn.elu, X),
    _case("norm", jnp.linalg.norm, X),
    _case("sinc", jnp.sinc, np.array([0.3, 1.2]), ulps=1000),
    _case("xlogy", jsp.special.xlogy, POSITIVE, 1 + POSITIVE),
    # Their derivatives call them on other inputs.
    _case("cholesky", lambda a: jnp.linalg.cholesky(a @ a.T + np.eye(3)), SQUARE,
          order=3, any_float=False),
    _case("triangular solve", lambda a, b: jsp.linalg.solve_triangular(
        a, b, lower=True), SQUARE, X, any_float=False, ulps=1000),
    _case("solve", jnp.linalg.solve, SQUARE, X, any_float=False),
    _case("inverse and determinant", lambda a: (jnp.linalg.inv(a), jnp.linalg.det(a)),
          SQUARE, order=3, any_float=False),
    _case("qr", jnp.linalg.qr, SQUARE, order=3, any_float=False),
    _case("eigh", jnp.linalg.eigh, SQUARE + SQUARE.T, order=3, any_float=False),
    _case("svd", ft.partial(jnp.linalg.svd, full_matrices=False), SQUARE, order=3,
          any_float=False),
]  # fmt: skip

COMPLEX = [
    _case("complex exp, log", lambda z: (lax.exp(z), lax.log(z)), Z),
    _case("complex sin, cos, tan", lambda z: (lax.sin(z), lax.cos(z), lax.tan(z)), Z),
    _case("complex sinh, cosh", lambda z: (lax.sinh(z), lax.cosh(z)), Z),
    _case("complex tanh, logistic", lambda z: (lax.tanh(z), lax.logistic(z)), Z),
    _case("complex sqrt, rsqrt", lambda z: (lax.sqrt(z), lax.rsqrt(z)), Z),
    _case("complex powers", lambda z: (z**3, z**-2, z**0.7, z**-1.5), Z),
    _case("complex exponent", lambda z, w: z**w, Z, W),
    _case("complex mul, div", lambda z, w: (z * w, z / w, 1 / z), Z, W),
    _case("complex asinh, atanh", lambda z: (lax.asinh(z), lax.atanh(z)), Z),
    _case("complex abs", lax.abs, Z),
    _case("complex norm", jnp.linalg.norm, Z),
    _case("complex angle", jnp.angle, Z),
    _case("complex sign", lambda z: lax.sign(z) * z, Z),
    _case("real, imag, conj", lambda z: (lax.real(z), lax.imag(z), lax.conj(z) * z), Z),
    _case("complex of reals", lambda x, y: lax.complex(x, y) ** 2, X, Y),
    _case("real to complex", lambda x: x.astype(complex) * (1 + 2j), X),
    _case("complex inner product", jnp.vdot, Z, W),
    _case("complex fft", lambda z: jnp.fft.ifft(jnp.fft.fft(z) ** 2), Z),
    _case("complex solve", jnp.linalg.solve, np.stack([Z, W]), Z, order=3),
    _case("complex select", lambda z, w: jnp.where(z.real > 0, z * w, w), Z, W),
]

REAL = [*ELEMENTWISE, *POWERS, *PRODUCTS, *STRUCTURAL, *KINKS, *DERIVED]


@pytest.mark.sample(3)
@_parametrize([*REAL, *COMPLEX])
def test_nested_derivatives(case):
    points = case.arrays()
    series = random_series(points, case.order)
    expected = nested_jet(case.oracle or case.fun, points, series)
    actual = jet(case.fun, points, series)
    assert len(actual) == case.order + 1
    assert_orders_close(actual, expected, case.ulps)


# The others have no more derivatives than their order.
@pytest.mark.sample(5)
@_parametrize([case for case in [*REAL, *COMPLEX] if case.order >= 3])
def test_transformations(case):
    """Along a line the n-th derivative of the k-th derivative is the (k+n)-th.

    So that one jet of higher order, taken as above, says what `grad`, `jvp` and `jet`
    of a jet must be; here all of them within `vmap` within `jit`.
    """
    points = case.arrays()
    directions = [terms[0] for terms in random_series(points, 1, seed=1)]

    def straight(fun, points, order):
        terms = [[v, *[None] * (order - 1)] for v in directions]
        return jet(fun, points, terms)

    def second(*points):
        return straight(case.fun, points, 2)[2]

    def weighted(x):
        weights = 1 + np.arange(float(x.size)).reshape(x.shape) / 7
        return (weights * x.real).sum() + (weights * x.imag).sum()

    def loss(points):
        return jtu.tree_reduce(
            lambda total, x: total + weighted(x), second(*points), jnp.zeros(())
        )

    def transformed(*points):
        slope = jax.grad(loss)(points)
        along = sum(jnp.sum((g * v).real) for g, v in zip(slope, directions))
        _, by_jvp = jax.jvp(second, points, tuple(directions))
        return along, by_jvp, straight(second, points, 2)

    # In NumPy what would be compiled operation by operation in JAX.
    both = [np.stack([x, x + 0.01]) for x in map(np.asarray, points)]
    results = jax.device_get(jax.jit(jax.vmap(transformed))(*both))
    higher = jax.jit(lambda *points: straight(case.fun, points, 4))
    for n in range(2):
        along, by_jvp, by_jet = jtu.tree_map(lambda x: x[n], results)
        expected = jax.device_get(higher(*[x[n] for x in both]))
        assert_orders_close(by_jet, expected[2:], case.ulps)
        assert_close(by_jvp, expected[3], case.ulps, scale=largest(expected[:4]))
        third = jtu.tree_leaves(expected[3])
        size = sum(np.sum(np.abs(x)) for x in third) + largest(expected[:4])
        assert_close(along, sum(weighted(x) for x in third), case.ulps, scale=size)


@pytest.mark.sample(3)
@_parametrize([*REAL, *COMPLEX])
def test_supports_are_upper_bounds(case):
    """A coefficient that the support allows for may be a symbolic zero nevertheless."""
    points = case.arrays()
    order = min(case.order, 3)

    def jet_of(terms_of):
        def outputs(*points):
            fun = jax.make_jaxpr(lambda *args: jtu.tree_leaves(case.fun(*args)))
            inputs = [
                given(jax.typeof(x), terms_of(x), support=mask(order + 1))
                for x in points
            ]
            walk = Walk(order)
            outs = walk.interpret(fun(*points), inputs)
            return [[series.dense(k) for k in range(order + 1)] for series in outs]

        return jax.eval_shape(outputs, *points)

    nothing = jet_of(lambda x: [x] + order * [None])
    second = jet_of(lambda x: [x, None, x, None][: order + 1])
    assert nothing == second == jet_of(lambda x: [x] * (order + 1))


@pytest.mark.sample(4)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@_parametrize([case for case in REAL if case.any_float])
def test_dtype(case, dtype):
    """Without conversions (promotion is strict here), and what comes out goes in."""
    points = tuple(jnp.asarray(point, dtype) for point in case.points)
    series = random_series(points, 2)
    out = jax.eval_shape(case.fun, *points)
    for terms in jax.eval_shape(ft.partial(jet, case.fun), points, series):
        assert_close_types(terms, out)


def assert_close_types(actual, expected):
    types = [
        [(x.shape, x.dtype) for x in jtu.tree_leaves(tree)]
        for tree in (actual, expected)
    ]
    assert types[0] == types[1]
