"""Functions at the points that tables of accuracy leave out: zeros, ends of domains,
infinities, and where a formula changes to another."""

import math

import jax
import jax.numpy as jnp
import jax.scipy.special as jss
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import eqx_taylor


def derivatives_at(fun, points, order=4):
    points = jnp.asarray(points)
    series = [jnp.ones_like(points), *[None] * (order - 1)]
    value, terms = eqx_taylor.filter_jet(fun, (points,), (series,))
    return np.stack([value, *terms])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bessel_functions_at_zero(dtype):
    """`I_0 = Σ (x / 2)^(2k) / k!²`, also where a factor of it has a kink."""
    zero = np.zeros(1, dtype)
    tolerance = 100 * np.finfo(dtype).eps
    for fun in (jss.i0, jnp.i0, lambda x: jss.i0(2 * x / 2)):
        found = derivatives_at(fun, zero)[:, 0]
        np.testing.assert_allclose(found, [1, 0, 0.5, 0, 0.375], atol=tolerance)
    found = derivatives_at(jss.i1, zero)[:, 0]
    np.testing.assert_allclose(found, [0, 0.5, 0, 0.375, 0], atol=tolerance)


def test_slopes_at_infinity():
    """They are zero, to every order, where JAX's first one is."""
    ends = np.array([np.inf, -np.inf])
    for fun in (lax.erf, lax.erfc, jss.ndtr, jnp.tanh, jnp.arctan, jax.nn.sigmoid):
        np.testing.assert_array_equal(derivatives_at(fun, ends)[1:], 0)
    for fun in (jnp.arccosh, jnp.log, lambda x: lax.igamma(jnp.full_like(x, 0.5), x)):
        np.testing.assert_allclose(derivatives_at(fun, ends[:1])[1:], 0, atol=1e-300)


def test_infinite_operands_under_debug_infs():
    """Nothing infinite is formed that the function itself does not form."""
    with jax.debug_infs(True):
        for fun in (jnp.logaddexp, jnp.logaddexp2):
            for one in (lambda x: fun(x, -jnp.inf), lambda x: fun(-jnp.inf, x)):
                found = eqx_taylor.derivatives(one, 1.3, 3)
                np.testing.assert_array_equal(found, [1.3, 1, 0, 0])


def test_mixed_partials_of_high_order():
    """Within a few digits of rounding, where fewer directions lose many."""
    x = jnp.array([0.3, 0.2])
    for i in ((8, 7), (5, 5), (6, 6)):
        found = eqx_taylor.partial_derivative(
            lambda x: jnp.exp(0.9 * x[0] + 1.1 * x[1]), x, i
        )
        exact = 0.9 ** i[0] * 1.1 ** i[1] * math.exp(0.27 + 0.22)
        np.testing.assert_allclose(found, exact, rtol=1e-12)


def test_arrays_without_entries():
    """Rules that stack rows, or collapse axes, of nothing."""
    x = jnp.zeros((2, 0))
    functions = [
        lax.lgamma,
        lax.digamma,
        lambda x: lax.polygamma(jnp.ones_like(x), x),
        lambda x: lax.zeta(jnp.full_like(x, 3), x),
        lambda x: lax.igamma(jnp.ones_like(x), x),
        lambda x: lax.betainc(jnp.ones_like(x), jnp.ones_like(x), x),
        lax.bessel_i1e,
        jss.log_ndtr,
        lambda x: x ** jnp.full_like(x, 1.5),
        lambda x: x**x,
        lambda x: jnp.linalg.det(jnp.eye(3)[None, None] + x[..., None, None]),
        lambda x: jnp.linalg.eigh(jnp.eye(3)[None, None] + x[..., None, None]),
    ]
    for terms in ([x] * 5, [x, *[None] * 4]):

        def jets(x, terms=terms):
            return [eqx_taylor.filter_jet(fun, (x,), (terms,)) for fun in functions]

        for fun, (value, found) in zip(functions, jax.eval_shape(jets, x)):
            assert [value] * 5 == found
            assert value == jax.eval_shape(fun, x)


def test_products_of_no_factors_inside_of_shard_map():
    """JAX's derivative is the same on all devices; the value is not taken to be."""
    mesh = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Auto,))

    def fun(x):
        y = jnp.prod(x)
        return jnp.where(y > 0, y, jnp.sum(x))

    def jet(x):
        value, terms = eqx_taylor.filter_jet(fun, (x[0],), ([x[0], None],))
        return [y[None] for y in (value, *terms)]

    devices = PartitionSpec("d")
    inside = jax.shard_map(jet, mesh=mesh, in_specs=devices, out_specs=devices)
    assert [y.tolist() for y in jax.jit(inside)(jnp.zeros((1, 0)))] == [[1], [0], [0]]
