"""What other implementations get wrong or lack, each of which was somebody's bug report:
`jax.experimental.jet`, TaylorDiff.jl and TaylorSeries.jl."""

import math

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import mpmath
import numpy as np
import pytest
from helpers import assert_orders_close, jet, nested_jet, random_series
from jax import lax

import eqx_taylor


X = np.array([0.3, -0.7, 0.9])
POSITIVE = np.array([0.3, 1.7, 2.9])
MATRIX = np.array([[2.5, -0.3, 0.2], [0.1, 1.7, -0.4], [-0.6, 0.2, 1.9]])

# -- no rule: KeyError, UnexpectedTracerError, AttributeError, TypeError

WITHOUT_A_RULE = {
    "scan": (lambda x: lax.scan(lambda c, y: (jnp.sin(c) * y, c), x[0], x), X),
    "while": (lambda x: lax.while_loop(lambda y: y[0] < 2, lambda y: y * 1.5, x), X),
    "cond": (lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), X),
    "remat": (jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))), X),
    "tan": (jnp.tan, X),
    "asin": (jnp.arcsin, X),
    "acos": (jnp.arccos, X),
    "atan": (jnp.arctan, X),
    "cbrt": (jnp.cbrt, X),
    "lgamma": (jsp.special.gammaln, POSITIVE),
    "digamma": (jsp.special.digamma, POSITIVE),
    "bessel": (lambda x: (jsp.special.i0e(x), jsp.special.i1e(x)), POSITIVE),
    "i0": (jsp.special.i0, POSITIVE),
    "sort": (jnp.sort, X),
    "argmax": (lambda x: x[jnp.argmax(x)] * x, X),
    "reduce_prod": (jnp.prod, X),
    "cumlogsumexp": (lax.cumlogsumexp, X),
    "solve": (lambda a: jnp.linalg.solve(a, X), MATRIX),
    "inv": (jnp.linalg.inv, MATRIX),
    "cholesky": (lambda a: jnp.linalg.cholesky(a @ a.T), MATRIX),
    "eigh": (lambda a: jnp.linalg.eigh(a + a.T), MATRIX),
    "interp": (lambda x: jnp.interp(x, jnp.array([-1.0, 0, 1]), jnp.arange(3.0)), X),
    "expm": (jsp.linalg.expm, MATRIX),
    "relu": (jax.nn.relu, X),
    "softplus": (jax.nn.softplus, X),
    "complex abs": (jnp.abs, X + 0.5j),
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", WITHOUT_A_RULE)
def test_without_a_rule(name):
    fun, x = WITHOUT_A_RULE[name]
    points = [jnp.asarray(x)]
    series = random_series(points, 3)
    assert_orders_close(jet(fun, points, series), nested_jet(fun, points, series), 500)


# -- wrong values


def line(fun, x, order):
    """The value and the derivatives, as Python's numbers."""
    found = jet(fun, [x], [[jnp.ones_like(x), *[None] * (order - 1)]])
    return [float(term) for term in found]


@pytest.mark.parametrize(
    "fun, exact, x",
    [
        (jnp.tanh, mpmath.tanh, 1e-9),
        (jnp.expm1, mpmath.expm1, 1e-12),
        (jnp.log1p, mpmath.log1p, 1e-12),
        (jsp.special.erfc, mpmath.erfc, 8.0),
        (jnp.arcsinh, mpmath.asinh, -1e9),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_cancellation(fun, exact, x):
    wanted = [exact(mpmath.mpf(x)), mpmath.diff(exact, mpmath.mpf(x), h=1e-18)]
    np.testing.assert_allclose(
        line(fun, jnp.asarray(x), 1), np.array(wanted, float), rtol=2e-15
    )


def test_fmod_of_a_negative_number():
    assert line(lambda x: jnp.fmod(x, 2.0), jnp.array(-5.5), 2) == [-1.5, 1.0, 0.0]


@pytest.mark.parametrize("y, x", [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)])
def test_atan2_on_the_axes(y, x):
    # Along a circle, where the angle is t and its derivative 1.
    curve = [[x, -y, -x, y], [-y, -x, y, x]]
    found = jet(lambda y, x: jnp.arctan2(y, x), [jnp.array(y), jnp.array(x)], curve)
    np.testing.assert_allclose(found, [math.atan2(y, x), 1.0, 0, 0, 0], atol=1e-15)


@pytest.mark.parametrize("exponent", [3, 3.0, jnp.array(3.0)], ids=repr)
@pytest.mark.parametrize("base", [-2.0, 0.0, 2.0])
def test_cubes(base, exponent):
    """Of negative numbers, and where all is zero; whatever the exponent is written as."""
    found = line(lambda x: x**exponent, jnp.array(base), 5)
    assert found == [base**3, 3 * base**2, 6 * base, 6.0, 0.0, 0.0]


@pytest.mark.parametrize("exponent", [2, 2.0, jnp.array(2.0)], ids=repr)
def test_square_at_zero(exponent):
    assert line(lambda x: x**exponent, jnp.array(0.0), 3) == [0.0, 0.0, 2.0, 0.0]


def test_factorials_in_single_precision():
    """20! has no float32 beside it that would do for its neighbours as well."""
    found = line(lambda x: x**20, jnp.array(1.0, jnp.float32), 20)
    wanted = [math.factorial(20) / math.factorial(20 - k) for k in range(21)]
    np.testing.assert_allclose(found, wanted, rtol=20 * 2.0**-23)


def test_factorials_beyond_double_precision():
    """171! is infinite, and 1 / 178! is zero: normalised coefficients know neither."""
    moving = [jnp.array(1.0), *[None] * 199]
    _, terms = eqx_taylor.filter_jet(
        lambda x: 1 / (2 - x), (jnp.array(1.0),), (moving,), factorial_scaled=False
    )
    np.testing.assert_array_equal(jnp.stack(terms), 1.0)


def test_infinity_times_zero():
    """An infinite value has no coefficients that are NaN where they are zero."""
    found = line(lambda x: jnp.where(x > 0, x * x, jnp.inf), jnp.array(0.5), 3)
    assert found == [0.25, 1.0, 2.0, 0.0]
    found = line(lambda x: x + jnp.inf, jnp.array(0.5), 2)
    assert found == [math.inf, 1.0, 0.0]


# -- arguments


def test_misspelt_keyword():
    with pytest.raises(TypeError, match="factorial_scald"):
        eqx_taylor.jet(jnp.sin, (1.0,), ([1.0],), factorial_scald=False)


def test_scalar_term_for_an_array():
    with pytest.raises(ValueError, match=r"\(2, 1\)"):
        eqx_taylor.jet(jnp.sin, (jnp.ones((2, 1)),), ([1.0],))


def test_dictionaries():
    primal, terms = dict(a=jnp.array(2.0)), [dict(a=jnp.array(1.0)), None]
    value, found = eqx_taylor.filter_jet(lambda x: x["a"] ** 2, (primal,), (terms,))
    assert [float(value), *map(float, found)] == [4.0, 4.0, 2.0]
