"""What a gather fills in outside of an array is a constant."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

import eqx_taylor
from eqx_taylor import derivatives, TaylorController, TaylorSolver


def test_fill_values():
    def reported(t):
        return jnp.stack([t, 2 * t]).at[5].get(mode="fill", fill_value=7.0)

    assert_close(derivatives(reported, 1.0, 3), np.array([7.0, 0, 0, 0]), 0)
    for value in (np.nan, -np.inf, 0.0):

        def fun(t, value=value):
            x = jnp.stack([t**2, 2 * t])
            return x.at[jnp.array([0, 5, -1, -9])].get(mode="fill", fill_value=value)

        expected = np.array(
            [[1, value, 2, value], [2, 0, 2, 0], [2, 0, 0, 0], [0, 0, 0, 0]]
        )
        found = np.asarray(jax.jit(lambda t, fun=fun: derivatives(fun, t, 3))(1.0))
        np.testing.assert_array_equal(found, expected)


# Two neighbours of each of three particles; 3 stands for none.
_NEIGHBOURS = np.array([[1, 2], [0, 3], [0, 3]])


def _energy(x):
    other = x.at[_NEIGHBOURS].get(mode="fill", fill_value=1e3)
    terms = jnp.where(_NEIGHBOURS < 3, (x[:, None] - other) ** 4, 0.0)
    # And of what the fill value enters.
    return jnp.sum(terms) + jnp.sum(jnp.sin(other / 1e3) * other**2)


def test_operators():
    x, v = jnp.array([0.3, -0.7, 0.9]), jnp.array([1.0, 0.5, -0.25])

    @jax.jit
    def found(x, v):
        return (
            eqx_taylor.laplacian(_energy, x),
            eqx_taylor.weighted_laplacian(_energy, x, v[:, None]),
            eqx_taylor.hvp(_energy, x, v),
            eqx_taylor.biharmonic(_energy, x),
        )

    def trace_of_hessian(x):
        return jnp.trace(jax.hessian(_energy)(x))

    @jax.jit
    def expected(x, v):
        hessian = jax.hessian(_energy)(x)
        return (
            jnp.trace(hessian),
            v @ hessian @ v,
            hessian @ v,
            jnp.trace(jax.hessian(trace_of_hessian)(x)),
        )

    assert_close(found(x, v), expected(x, v), 1e3, scale=1e3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_solve_with_padded_lists(dtype):
    """Against the same field without padding: each row by itself."""

    def field(t, y, args):
        other = y.at[_NEIGHBOURS].get(mode="fill", fill_value=1e3)
        return jnp.sum(jnp.tanh(other - y[:, None]), 1) - y

    def unpadded(t, y, args):
        a, b, c = y
        of_none = jnp.tanh(jnp.asarray(1e3, y.dtype))
        pulls = jnp.stack([
            jnp.tanh(b - a) + jnp.tanh(c - a),
            jnp.tanh(a - b) + of_none,
            jnp.tanh(a - c) + of_none,
        ])  # fmt: skip
        return pulls - y

    y0 = jnp.array([0.3, -0.7, 0.9], dtype)

    @jax.jit
    def jets(y0):
        return [eqx_taylor.ode_jet(f, 0.0, y0, order=6) for f in (field, unpadded)]

    assert_close(*jets(y0), 20)

    def solve(field):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            TaylorSolver(order=8),
            t0=0.0,
            t1=1.0,
            dt0=None,
            y0=y0,
            stepsize_controller=TaylorController(rtol=1e-6, atol=1e-6),
        ).ys

    assert_close(solve(field), solve(unpadded), 50)
