"""Taylor coefficients of solutions, against 40 digits and against total derivatives."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import mpmath
import numpy as np
import pytest
from helpers import (
    assert_close,
    assert_orders_close,
    count_equations,
    mp_ode_coefficients,
    MpSeries,
    nested_ode_jet,
)

import eqx_taylor
from benchmarks.problems import lorenz_slopes
from eqx_taylor import _outer_solar_system as solar_system, ode_jet


# -- the reference itself


@pytest.mark.parametrize(
    "ours, mp_fun",
    [
        (MpSeries.sin, mpmath.sin),
        (MpSeries.exp, mpmath.exp),
        (MpSeries.tanh, mpmath.tanh),
        (lambda x: x**-1.5, lambda x: x ** mpmath.mpf(-1.5)),
        (lambda x: 1 - x * x + 2 * x, lambda x: 1 - x * x + 2 * x),
    ],
    ids=["sin", "exp", "tanh", "power", "polynomial"],
)
def test_reference(ours, mp_fun):
    line = MpSeries([mpmath.mpf(0.7), 1, *[0] * 7])
    expected = mpmath.taylor(mp_fun, mpmath.mpf(0.7), 8)
    error = max(abs(a - b) for a, b in zip(ours(line).terms, expected))
    assert error < mpmath.mpf(10) ** -15


def test_reference_for_an_equation():
    """y' = y² from 1: all coefficients are 1."""
    [terms] = mp_ode_coefficients(lambda t, y: [y[0] * y[0]], 0.0, [1.0], 10)
    assert terms == [1] * 11


# -- order 20: a problem is a field twice, in JAX and for numbers of 40 digits


def _lorenz():
    def field(t, y, args):
        return jnp.stack(lorenz_slopes(y, *args))

    def mp_field(t, y):
        return lorenz_slopes(y, 10, 28, mpmath.mpf(8.0 / 3.0))

    y0 = np.array([1.0, -2.0, 20.5])
    return field, mp_field, 0.0, jnp.asarray(y0), (10.0, 28.0, 8.0 / 3.0), y0


def _non_autonomous():
    """Time in every way: alone, multiplied with the state, and inside functions."""

    def field(t, y, args):
        return jnp.sin(t * y) + t * t * jnp.exp(-y) + jnp.stack([1 / (1 + t), t])

    def mp_field(t, y):
        return [
            (t * x).sin() + t * t * (-x).exp() + extra
            for x, extra in zip(y, [(1 + t) ** -1, t])
        ]

    y0 = np.array([0.5, -0.3])
    return field, mp_field, 0.7, jnp.asarray(y0), None, y0


def _outer_solar_system():
    def mp_field(t, y):
        n = len(solar_system.BODIES)
        positions, velocities = y[: 3 * n], y[3 * n :]
        accelerations = [0] * (3 * n)
        constant = mpmath.mpf(solar_system.GRAVITATIONAL_CONSTANT)
        masses = [constant * mpmath.mpf(float(m)) for m in solar_system.MASSES]
        for i in range(n):
            for j in range(i):
                d = [positions[3 * j + c] - positions[3 * i + c] for c in range(3)]
                weight = (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]) ** -1.5
                for c in range(3):
                    force = weight * d[c]
                    accelerations[3 * i + c] += force * masses[j]
                    accelerations[3 * j + c] += force * -masses[i]
        return [*velocities, *accelerations]

    y0 = solar_system.initial_state()
    flat = np.concatenate([np.ravel(x) for x in y0])
    return solar_system.vector_field, mp_field, 0.0, y0, None, flat


def _mlp():
    mlp = eqx.nn.MLP(3, 3, 5, 2, activation=jnp.tanh, key=jax.random.key(0))

    def mp_field(t, y):
        for i, layer in enumerate(mlp.layers):
            weight, bias = np.asarray(layer.weight), np.asarray(layer.bias)
            y = [
                sum(
                    (x * mpmath.mpf(float(w)) for x, w in zip(y, row)),
                    MpSeries(y[0].terms) * 0,
                )
                + mpmath.mpf(float(b))
                for row, b in zip(weight, bias)
            ]
            if i < len(mlp.layers) - 1:
                y = [x.tanh() for x in y]
        return y

    y0 = np.array([0.5, -0.3, 1.2])
    return lambda t, y, args: args(y), mp_field, 0.0, jnp.asarray(y0), mlp, y0


@pytest.mark.parametrize(
    "problem",
    [_lorenz, _non_autonomous, _outer_solar_system, _mlp],
    ids=lambda f: f.__name__,
)
def test_order_20(problem):
    field, mp_field, t0, y0, args, flat = problem()
    exact = mp_ode_coefficients(mp_field, t0, flat, 20)
    exact = np.array([[float(x) for x in terms] for terms in exact]).T
    run = eqx.filter_jit(lambda t, y, args: ode_jet(field, t, y, args, order=20))
    actual = run(jnp.asarray(t0), y0, args)
    leaves = [np.reshape(x, (21, -1)) for x in jtu.tree_leaves(actual)]
    actual = np.concatenate(leaves, axis=1)
    # Relative to the largest component of each coefficient, positions and velocities
    # apart: these are of different sizes.
    for part in np.split(np.arange(exact.shape[1]), len(leaves)):
        size = np.max(np.abs(exact[:, part]), axis=1)
        error = np.max(np.abs(actual[:, part] - exact[:, part]), axis=1)
        assert np.all(error <= 1e-12 * size), error / size


# -- kinds of states


@pytest.mark.parametrize("t0", [0.0, 2, np.float64(0.5), jnp.array(0.5)], ids=repr)
def test_scalars(t0):
    """y' = t y, whose solution is exp((t² - t0²)/2)."""
    actual = ode_jet(lambda t, y, args: t * y, t0, 1.0, order=6)
    assert actual.shape == (7,) and actual.dtype == jnp.float64
    expected = mpmath.taylor(
        lambda t: mpmath.exp((t * t - mpmath.mpf(float(t0)) ** 2) / 2), float(t0), 6
    )
    assert_close(actual, np.array([float(x) for x in expected]))


def test_complex_state():
    """z' = i w z: a rotation."""
    z0 = jnp.array([1.0 + 0j, 0.5 - 0.2j])
    actual = ode_jet(lambda t, z, w: 1j * w * z, 0.0, z0, jnp.array(0.7), order=8)
    powers = [(0.7j) ** k / float(mpmath.factorial(k)) for k in range(9)]
    assert_close(actual, np.stack([p * z0 for p in powers]))


def test_complex_state_with_its_modulus():
    """A Stuart-Landau oscillator: not an analytic function of z."""

    def field(t, z, args):
        modulus, t = (x.astype(z.dtype) for x in (jnp.abs(z), t))
        return (1 + 1j) * z - z * modulus**2 + jnp.conj(z) * t

    z0 = jnp.array([0.3 + 0.4j])
    actual = ode_jet(field, 0.5, z0, order=6)
    expected = nested_ode_jet(field, jnp.array(0.5), z0, None, 6)
    assert_orders_close([*actual], expected, 100)


def test_pytree_with_none_and_empty_leaves():
    def field(t, y, args):
        assert y["none"] is None
        u, (v,) = y["u"], y["v"]
        return dict(u=v[0] * u, v=(-v * jnp.sum(u) * t,), none=None, empty=y["empty"])

    y0 = dict(
        u=jnp.ones((2, 2)), v=(jnp.array([0.5]),), none=None, empty=jnp.zeros((0, 3))
    )
    actual = ode_jet(field, 0.3, y0, order=5)
    assert jtu.tree_structure(actual) == jtu.tree_structure(y0)
    assert actual["empty"].shape == (6, 0, 3)
    by_order = [jtu.tree_map(lambda x: x[k], actual) for k in range(6)]
    assert_orders_close(by_order, nested_ode_jet(field, jnp.array(0.3), y0, None, 5))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_dtype(dtype):
    y0 = jnp.array([0.5, -0.25], dtype)
    t0 = jnp.array(0.0, y0.real.dtype)

    def field(t, y, args):
        return jnp.sin(y) * t.astype(y.dtype) - y

    actual = ode_jet(field, t0, y0, order=4)
    assert actual.dtype == y0.dtype and actual.shape == (5, 2)
    wide = jnp.complex128 if jnp.iscomplexobj(y0) else jnp.float64
    expected = ode_jet(field, 0.0, y0.astype(wide), order=4)
    assert_orders_close([*actual], [x.astype(dtype) for x in expected], 8)


def test_constant_field_and_order_1():
    actual = ode_jet(
        lambda t, y, args: jnp.array([1.0, 2.0]), 0.0, jnp.zeros(2), order=3
    )
    np.testing.assert_array_equal(actual, [[0, 0], [1, 2], [0, 0], [0, 0]])
    actual = ode_jet(lambda t, y, args: -y, 0.0, jnp.ones(2), order=1)
    np.testing.assert_array_equal(actual, [[1, 1], [-1, -1]])


def test_field_of_time_alone():
    actual = ode_jet(lambda t, y, args: jnp.cos(t), 0.5, jnp.array(0.0), order=5)
    exact = [float(x) for x in mpmath.taylor(mpmath.sin, 0.5, 5)]
    assert_close(actual, np.array([0.0, *exact[1:]]), 10)


def test_float32_time_and_float64_state():
    """The clock may be coarser than the state."""
    t0 = jnp.float32(0.25)
    actual = ode_jet(lambda t, y, args: t.astype(float) * y, t0, jnp.ones(2), order=5)
    expected = ode_jet(lambda t, y, args: t * y, 0.25, jnp.ones(2), order=5)
    assert_close(actual, expected, 4)


# -- Diffrax's terms


def test_terms():
    """A function, an ODETerm and a MultiTerm are one equation."""

    def field(t, y, args):
        return jnp.sin(y) * t + args * y

    y0, args = jnp.array([0.5, -0.3]), jnp.array(0.7)
    parts = diffrax.MultiTerm(
        diffrax.ODETerm(lambda t, y, args: jnp.sin(y) * t),
        diffrax.ODETerm(lambda t, y, args: args * y),
    )
    expected = nested_ode_jet(field, jnp.array(0.3), y0, args, 5)
    for term in (field, diffrax.ODETerm(field), parts):
        assert_orders_close([*ode_jet(term, 0.3, y0, args, order=5)], expected)


def test_control_term_as_an_ode_term():
    """The control is t²: y' = 2 t y."""
    path = _Square(t0=0, t1=1)
    term = diffrax.ControlTerm(lambda t, y, args: y, path).to_ode()
    actual = ode_jet(term, 0.5, jnp.array(1.0), order=5)
    expected = ode_jet(lambda t, y, args: 2 * t * y, 0.5, jnp.array(1.0), order=5)
    assert_close(actual, expected)


class _Square(diffrax.AbstractPath):
    t0: int
    t1: int

    def evaluate(self, t0, t1=None, left=True):
        return t0**2 if t1 is None else t1**2 - t0**2

    def derivative(self, t0, left=True):
        return 2 * t0


# -- transformations


def _pendulum(t, y, args):
    angle, speed = y
    return jnp.stack([speed, -args * jnp.sin(angle) + jnp.cos(t)])


def test_transformations():
    """Derivatives of the coefficients by nested derivatives of the nested ones."""
    y0, args, t0 = jnp.array([0.5, 0.2]), jnp.array(1.3), jnp.array(0.4)

    def by_ode_jet(y0, args, t0):
        return ode_jet(_pendulum, t0, y0, args, order=4)

    def nested(y0, args, t0):
        return jnp.stack(nested_ode_jet(_pendulum, t0, y0, args, 4))

    def derivatives(f):
        def run(y0, args, t0):
            reverse = jax.jacrev(f, argnums=(0, 1, 2))(y0, args, t0)
            forward = jax.jacfwd(f, argnums=(0, 1, 2))(y0, args, t0)
            return f(y0, args, t0), reverse, forward

        batch = jnp.stack([y0, 2 * y0]), jnp.stack([args, args + 1])
        return jax.jit(jax.vmap(run, in_axes=(0, 0, None)))(*batch, t0)

    assert_close(derivatives(by_ode_jet), derivatives(nested), 20)


def test_jet_of_ode_jet():
    """The flow's own derivatives: along a solution the coefficients move with it."""
    field = lambda t, y, args: y * (1 - y)  # noqa: E731
    y0 = jnp.array(0.3)
    coefficients = ode_jet(field, 0.0, y0, order=6)
    _, [slope] = eqx_taylor.jet(
        lambda y: ode_jet(field, 0.0, y, order=4), (y0,), ([field(0.0, y0, None)],)
    )
    # d/dt (y^(k)/k!) = (k + 1) y^(k+1)/(k+1)!
    assert_close(slope, np.arange(1, 6) * np.asarray(coefficients[1:6]))


def test_ode_jet_of_a_field_made_of_jets():
    """y' = the second derivative of sin at y, that is -sin(y)."""

    def field(t, y, args):
        _, [_, second] = eqx_taylor.jet(jnp.sin, (y,), ([jnp.ones_like(y), 0 * y],))
        return second

    y0 = jnp.array([0.3, -0.5])
    expected = ode_jet(lambda t, y, args: -jnp.sin(y), 0.0, y0, order=6)
    assert_close(ode_jet(field, 0.0, y0, order=6), expected)


def test_ode_jet_of_a_field_with_a_gradient():
    """Hamilton's equations from the energy."""

    def energy(y):
        return jnp.sum(y["p"] ** 2) / 2 - jnp.sum(jnp.cos(y["q"]))

    def field(t, y, args):
        slope = jax.grad(energy)(y)
        return dict(q=slope["p"], p=-slope["q"])

    y0 = dict(q=jnp.array([0.3, 1.0]), p=jnp.array([0.5, -0.4]))
    actual = ode_jet(field, 0.0, y0, order=5)
    by_order = [jtu.tree_map(lambda x: x[k], actual) for k in range(6)]
    assert_orders_close(by_order, nested_ode_jet(field, jnp.array(0.0), y0, None, 5))


def test_field_with_a_linear_solve():
    """A mass matrix that depends on the state."""

    def field(t, y, args):
        return jnp.linalg.solve(jnp.eye(2) + jnp.outer(y, y), jnp.sin(y) + t)

    y0 = jnp.array([0.5, -0.3])
    actual = ode_jet(field, 0.2, y0, order=4)
    expected = nested_ode_jet(field, jnp.array(0.2), y0, None, 4)
    assert_orders_close([*actual], expected, 100)


def test_relu_field():
    mlp = eqx.nn.MLP(2, 2, 4, 1, activation=jax.nn.relu, key=jax.random.key(1))
    y0 = jnp.array([0.5, -0.3])

    def field(t, y, args):
        return mlp(y) * t

    actual = ode_jet(field, 0.2, y0, order=5)
    expected = nested_ode_jet(field, jnp.array(0.2), y0, None, 5)
    assert_orders_close([*actual], expected, 100)


def test_cost_is_quadratic():
    def count(order):
        return count_equations(
            lambda y: ode_jet(_pendulum, 0.0, y, 1.3, order=order), jnp.ones(2)
        )

    counts = np.array([count(order) for order in (8, 16, 32)])
    assert np.all(counts[1:] < 4 * counts[:-1]), counts


def test_factorials():
    """Derivatives of exp(t) sin(t) are (√2)^k exp(t) sin(t + k π/4)."""

    def field(t, y, args):
        return y[0] + y[1], y[1] - y[0]

    y0 = jnp.array(0.0), jnp.array(1.0)
    for unroll in (True, False):
        found, _ = ode_jet(
            field, 0.0, y0, order=12, unroll=unroll, factorial_scaled=True
        )
        k = np.arange(13)
        exact = np.round(2.0 ** (k / 2) * np.sin(k * np.pi / 4))
        np.testing.assert_allclose(found, exact, rtol=1e-14, atol=1e-14)
    # Far beyond what factorials can be.
    for dtype, order in ((jnp.float32, 40), (jnp.float64, 180)):
        y = jnp.array(1.0, dtype)
        found = ode_jet(
            lambda t, y, args: y / 10, 0.0, y, order=order, factorial_scaled=True
        )
        assert found.dtype == dtype and not np.any(np.isnan(found))
        np.testing.assert_allclose(found[:8], 0.1 ** np.arange(8), rtol=1e-5)
    with pytest.raises(TypeError, match="factorial_scaled"):
        ode_jet(field, 0.0, y0, order=2, factorial_scaled=1)
