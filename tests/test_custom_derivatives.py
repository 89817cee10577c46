"""Functions with a `custom_jvp` or `custom_vjp`: what they say is what counts."""

import functools as ft

import jax
import jax.numpy as jnp
import numpy as np
from helpers import (
    assert_orders_close,
    jet,
    nested_jet,
    nested_ode_jet,
    random_series,
)
from jax import lax
from programs import _with_vjp, X

import eqx_taylor


def test_custom_jvp_is_honoured_at_every_order():
    """The rule says `f' = 1 + f²`, which the function itself is far from."""

    @jax.custom_jvp
    def f(x):
        return 2 * x

    @f.defjvp
    def _(primals, tangents):
        y = f(*primals)
        return y, (1 + y * y) * tangents[0]

    points = [jnp.asarray(X)]
    series = random_series(points, 4)
    expected = nested_jet(f, points, series)
    assert_orders_close(jet(f, points, series), expected)
    # The derivatives of tan, and not those of a line.
    y = 2 * X[0]
    _, derivatives = eqx_taylor.jet(f, (X[0],), ([1.0, 0.0, 0.0],))
    slope = 1 + y * y
    by_hand = [slope, 2 * y * slope, 2 * slope * (slope + 2 * y * y)]
    assert_orders_close(jax.device_get(derivatives), by_hand)


def _family(n):
    """`f_n' = f_{n-1}` and `f_0' = cos`; each of them is called sine."""

    @jax.custom_jvp
    def f(x):
        return jnp.sin(x)

    @f.defjvp
    def _(primals, tangents):
        [x], [dx] = primals, tangents
        slope = _family(n - 1)(x) if n > 0 else jnp.cos(x)
        return f(x), slope * dx

    return f


def test_custom_jvp_of_a_family():
    """One source and one value, but other rules: only the closures differ."""
    points = [jnp.asarray(X)]
    series = random_series(points, 4)
    for n in range(3):
        expected = nested_jet(_family(n), points, series)
        assert_orders_close(jet(_family(n), points, series), expected)


def test_custom_jvp_with_static_arguments():
    @ft.partial(jax.custom_jvp, nondiff_argnums=(0,))
    def power(n, x):
        return x**n

    @power.defjvp
    def _(n, primals, tangents):
        [x], [dx] = primals, tangents
        return power(n, x), (7 * power(n - 1, x) if n > 0 else jnp.zeros_like(x)) * dx

    points = [jnp.asarray(X)]
    series = random_series(points, 4)
    fun = ft.partial(power, 3)
    assert_orders_close(jet(fun, points, series), nested_jet(fun, points, series))


def test_custom_jvp_of_several_values():
    """Pairs that refer to each other, integers, and an argument that does not move."""

    @jax.custom_jvp
    def pair(x, n, scale):
        return jnp.sin(scale * x), {"c": jnp.cos(scale * x), "n": n}

    @pair.defjvp
    def _(primals, tangents):
        x, n, scale = primals
        s, other = pair(*primals)
        slope = scale * tangents[0]
        n_slope = np.zeros((), jax.dtypes.float0)
        return (s, other), (3 * other["c"] * slope, {"c": -s * slope, "n": n_slope})

    def fun(x):
        s, other = pair(x, jnp.array(2), jnp.array(0.7))
        return s * other["c"] + other["n"]

    points = [jnp.asarray(X)]
    series = random_series(points, 4)
    assert_orders_close(jet(fun, points, series), nested_jet(fun, points, series))


def test_custom_jvp_in_a_vector_field():
    @jax.custom_jvp
    def f(y):
        return 2 * y

    @f.defjvp
    def _(primals, tangents):
        y = f(*primals)
        return y, (1 + y * y) * tangents[0]

    def field(t, y, args):
        return f(y) * t + lax.scan(lambda c, _: (f(c) / 3, c), y, None, length=2)[0]

    t0, y0 = jnp.asarray(0.3), jnp.asarray(X)
    actual = jax.device_get(eqx_taylor.ode_jet(field, t0, y0, order=5))
    assert_orders_close([*actual], nested_ode_jet(field, t0, y0, None, 5), 200)


def test_custom_vjp_is_differentiated_through():
    points = [jnp.asarray(X)]
    series = random_series(points, 4)
    actual = jet(lambda x: _with_vjp(x, 3), points, series)
    expected = nested_jet(lambda x: jnp.sin(x) * 3, points, series)
    assert_orders_close(actual, expected)


def test_custom_root():
    """By its implicit derivative, and not through the iteration that finds it."""

    def root(a):
        def equation(x):
            return x**3 + x - a

        def solve(f, x0):
            # Not differentiable: the step depends on a value that was looked at.
            return lax.fori_loop(
                0, 60, lambda _, x: x - lax.stop_gradient(f(x) / (3 * x**2 + 1)), x0
            )

        return lax.custom_root(
            equation, jnp.zeros_like(a), solve, lambda g, b: b / g(jnp.ones_like(b))
        )

    points = [jnp.asarray(X)]
    series = random_series(points, 4)
    assert_orders_close(
        jet(root, points, series), nested_jet(root, points, series), 100
    )


def test_equal_looking_equations_are_not_confused():
    """Parameters that are equal as numbers, but of other types or of other signs."""

    def fun(x):
        zero = x * 0.0, x * -0.0
        return x**2 + x**2.0, x.astype(int), jnp.copysign(1.0, zero[0] + zero[1]) * x

    points = [jnp.asarray(0.7)]
    series = random_series(points, 3)
    assert_orders_close(jet(lambda x: fun(x)[::2], points, series),
                        nested_jet(lambda x: fun(x)[::2], points, series))  # fmt: skip
